"""A mypy plugin (`plugins = soma.mypy`): `@soma.remote` classes and `handle.method.remote(...)` are checked like ordinary calls.

Without it mypy ignores what a decorator makes of a class, so that `Counter.remote(5)` is an error to it, and sees
`handle.add` as a method of unknown arguments. It refuses nothing by itself: it only tells mypy the types. Never imported by soma.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.nodes import ARG_POS, ARG_STAR2, Argument, Decorator, FuncBase, Var
from mypy.plugin import AttributeContext, ClassDefContext, Plugin
from mypy.plugins.common import add_method_to_class
from mypy.types import AnyType, CallableType, Instance, Parameters, ProperType, Type, TypeOfAny, TypeType, get_proper_type

HANDLE = "soma.actors.handle.ActorHandle"
METHOD = "soma.actors.handle.ActorMethod"
DECORATORS = ("soma.cluster.marking.remote", "soma.remote")


class SomaPlugin(Plugin):
    """See the module."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return add_verbs if fullname in DECORATORS else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        return (lambda ctx: method_type(ctx, name)) if owner == HANDLE else None


def add_verbs(ctx: ClassDefContext) -> bool:
    """Give a marked class `remote`, with the constructor's parameters, and `options`."""
    info, api = ctx.cls.info, ctx.api
    made = Instance(info, [])
    handle = api.named_type_or_none(HANDLE, [made])
    if handle is None:
        return False
    init = info.get("__init__")
    signature = get_proper_type(init.type) if init is not None else None
    if init is not None and isinstance(init.node, FuncBase) and init.node.type is None:
        signature = None  # not annotated: anything goes
    anything = AnyType(TypeOfAny.explicit)
    if isinstance(signature, CallableType):
        parts = zip(signature.arg_names[1:], signature.arg_types[1:], signature.arg_kinds[1:], strict=True)
        args = [Argument(Var(n or f"_{i}", t), t, None, k) for i, (n, t, k) in enumerate(parts)]
    else:
        args = []
    add_method_to_class(api, ctx.cls, "remote", args, handle, is_staticmethod=True)
    options = [Argument(Var("changes", anything), anything, None, ARG_STAR2)]
    add_method_to_class(api, ctx.cls, "options", options, TypeType(made), is_staticmethod=True)
    return True


def method_type(ctx: AttributeContext, name: str) -> Type:
    """`handle.add` as an `ActorMethod` with the parameters and the result of the actor's own method."""
    handle = get_proper_type(ctx.type)
    if not isinstance(handle, Instance) or not handle.args or handle.type.get(name) is not None:
        return ctx.default_attr_type
    actor: ProperType = get_proper_type(handle.args[0])
    if not isinstance(actor, Instance):
        return ctx.default_attr_type
    found = actor.type.get(name)
    if found is None:
        ctx.api.fail(f'"{actor.type.name}" has no method "{name}"', ctx.context)
        return ctx.default_attr_type
    signature = get_proper_type(found.type)
    if not isinstance(signature, CallableType):
        return ctx.default_attr_type
    node = found.node.func if isinstance(found.node, Decorator) else found.node
    static = isinstance(node, FuncBase) and node.is_static
    skip = 0 if static or not signature.arg_kinds or signature.arg_kinds[0] != ARG_POS else 1
    result = get_proper_type(signature.ret_type)
    if isinstance(result, Instance) and result.type.fullname == "typing.Coroutine":
        result = get_proper_type(result.args[2])
    params = Parameters(signature.arg_types[skip:], signature.arg_kinds[skip:], signature.arg_names[skip:])
    default = get_proper_type(ctx.default_attr_type)
    if not isinstance(default, Instance) or default.type.fullname != METHOD:
        return ctx.default_attr_type
    return default.copy_modified(args=[params, result])


def plugin(version: str) -> type[Plugin]:
    """What mypy calls; the interface is the same since mypy 1.0."""
    return SomaPlugin
