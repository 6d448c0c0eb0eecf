"""Functions, classes and modules, taken apart as far as they are the user's own; what others wrote is a name and a version.

A function is its behaviour (`bytecode`), its defaults, what its closure holds, and the globals that it reads: functions, classes,
modules, and constants (numbers, strings, tuples and frozensets of such, arrays, members of enums). Other globals are ignored: they are
state. Of a user's own module the attributes that the code takes of it count as if they were globals.
A class is all that its body made and its bases, without what merely describes it: documentation, annotations, places.
Neither has its own name in it; `walk` adds the names of classes. Not seen: modules that a function imports when it runs, globals
by `globals()`, attributes of functions, and what compiled code of the user's does.
"""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Iterator
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from soma.store import origin
from soma.store.atoms import ATOMS, framed, text, tuple_of
from soma.store.bytecode import behaviour
from soma.store.parts import Parts

_LRU = type(functools.lru_cache(lambda: None))
_WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",), classmethod: ("__func__",), property: ("fget", "fset", "fdel"), MethodType: ("__func__", "__self__"),
    functools.partial: ("func", "args", "keywords"), functools.partialmethod: ("func", "args", "keywords"),
    functools.cached_property: ("func",), functools.singledispatchmethod: ("func", "dispatcher"), _LRU: ("__wrapped__",),
}
_COMPILED = (BuiltinFunctionType, MethodDescriptorType, ClassMethodDescriptorType, WrapperDescriptorType, GetSetDescriptorType,
             MemberDescriptorType)
_DESCRIBES = frozenset({
    "__doc__", "__module__", "__qualname__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__slotnames__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__type_params__", "__parameters__",
    "__orig_bases__", "__dataclass_fields__", "__dataclass_params__", "_abc_impl",
})
_OF_ENUMS = frozenset({
    "__new__", "__new_member__", "_member_map_", "_member_names_", "_member_type_", "_value2member_map_", "_unhashable_values_",
    "_unhashable_values_map_", "_hashable_values_",
})


def name_of(cls: type) -> str:
    """Where a class says it is from."""
    return f"{cls.__module__}.{cls.__qualname__}"


def leaf(value: Any) -> bytes | None:
    """The token of what a name and a version stand for; None for all else."""
    if isinstance(value, type):
        version = origin.version_of_class(value)
        return None if version is None else tuple_of(b"class", name_of(value).encode(), version.encode())
    if isinstance(value, FunctionType):
        version = origin.version_of_function(value)
        alone = value.__closure__ is None or origin.is_found(value, value.__module__, value.__qualname__)
        return _library_function(value, version) if version is not None and alone else None
    if isinstance(value, ModuleType):
        return tuple_of(b"module", value.__name__.encode(), (origin.version_of_module(value) or "").encode())
    if isinstance(value, MemberDescriptorType):
        return tuple_of(b"slot", value.__name__.encode())
    if isinstance(value, _COMPILED):
        owner = getattr(value, "__objclass__", None) or getattr(value, "__self__", None)
        if owner is None or isinstance(owner, type | ModuleType):
            module = owner.__module__ if isinstance(owner, type) else value.__module__
            version = origin.version_of_name(module)
            return tuple_of(b"compiled", str(module).encode(), value.__qualname__.encode(), version.encode())
    return None


def _library_function(function: FunctionType, version: str) -> bytes:
    name = f"{function.__globals__['__name__']}.{function.__code__.co_qualname}"
    return tuple_of(b"function", name.encode(), version.encode())


def parts(value: Any) -> Parts | None:
    """A function, a class, or what wraps one, taken apart; None for all else."""
    if isinstance(value, FunctionType):
        version = origin.version_of_function(value)
        return _own_function(value) if version is None else _wrapping_function(value, version)
    if isinstance(value, type):
        return _class(value)
    kind = next((cls for cls in type(value).__mro__ if cls in _WRAPPERS), None)
    if kind is None:
        return None
    items = [(f".{name}", getattr(value, name)) for name in _WRAPPERS[kind]]
    if kind is not type(value):
        items += [(".__class__", type(value)), (".__dict__", vars(value))]
    return Parts(text(kind.__name__), items, code=True)


def _own_function(function: FunctionType) -> Parts:
    does = behaviour(function.__code__)
    tags = [does.text, origin.PYTHON.encode()]
    items: list[tuple[str, Any]] = [(f".__defaults__[{n}]", part) for n, part in enumerate(function.__defaults__ or ())]
    tags.append(b"%d" % len(items))
    for name, part in sorted((function.__kwdefaults__ or {}).items()):
        tags.append(name.encode())
        items.append((f".__kwdefaults__[{name!r}]", part))
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for name in does.free:
        try:
            items.append((f".<closure {name}>", cells[name].cell_contents))
            tags.append(b"cell")
        except ValueError:  # a variable that has no value yet
            tags.append(b"empty cell")
    for chain in does.reads:
        for name, part in _read(chain, function.__globals__):
            tags.append(name.encode())
            items.append((f".<global {name}>", part))
    return Parts(framed(b"def", *tags), items, code=True)


def _wrapping_function(function: FunctionType, version: str) -> Parts:
    """A function that a library made, usually around the user's: what it holds of him. Its own dicts and locks are state."""
    items: list[tuple[str, Any]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            items += [(f".<closure {name}>", part) for part in _lasting(cell.cell_contents)]
        except ValueError:  # a variable that has no value yet
            continue
    registry = vars(function).get("registry")
    if isinstance(registry, MappingProxyType):  # functools.singledispatch
        items.append((".registry", dict(registry)))
    held = (step.encode() for step, _ in items)
    return Parts(framed(b"wrapper", _library_function(function, version), *held), items, code=True)


def _read(chain: tuple[str, ...], names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a global stands for, if it lasts; of a module of the user's own also the attribute that is taken of it."""
    at, *rest = chain
    if at not in names:
        return  # a builtin, or not there yet
    value = names[at]
    for name in rest:
        if not isinstance(value, ModuleType) or origin.version_of_module(value) is not None or name not in vars(value):
            break
        at, value = f"{at}.{name}", vars(value)[name]
    yield from ((at, part) for part in _lasting(value))


def _lasting(value: Any) -> Iterator[Any]:
    """The value, if it is code or a constant; what it wraps, if it is an object around a function."""
    if isinstance(value, FunctionType | type) or type(value) in _WRAPPERS or _is_constant(value) or leaf(value) is not None:
        yield value
        return
    try:
        inside = object.__getattribute__(value, "__dict__")
    except AttributeError:  # it has none
        return
    if "__wrapped__" in inside:
        yield from _lasting(inside["__wrapped__"])


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return type(value) in (tuple, frozenset) and all(map(_is_constant, value))
    numpy = sys.modules.get("numpy")
    arrays = getattr(numpy, "ndarray", ()), getattr(numpy, "generic", ())
    return (type(value) in ATOMS and type(value) is not bytearray) or isinstance(value, (enum.Enum, *filter(None, arrays)))


def _class(cls: type) -> Parts:
    skip = _DESCRIBES
    members: dict[str, Any] = {}
    if issubclass(cls, enum.Enum):
        members = {name: member.value for name, member in cls.__members__.items()}
        skip = skip | _OF_ENUMS | members.keys()
    body = {name: value for name, value in vars(cls).items() if name not in skip and not name.startswith("__soma_")}
    items = [(".__class__", type(cls))] + [(f".__bases__[{n}]", base) for n, base in enumerate(cls.__bases__)]
    items += [(f".{name}", body[name]) for name in sorted(body)] + [(f".{name}.value", value) for name, value in members.items()]
    tags = [b"%d" % len(cls.__bases__), *(name.encode() for name in sorted(body)), b"", *(name.encode() for name in members)]
    return Parts(framed(b"class", *tags), items, code=True)
