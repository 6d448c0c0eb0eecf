"""What a caller knows of a method without having its class: enough to check a call where it is written.

`describe(cls)` reads a class once; the result is plain data that travels inside handles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.actors.options import NumReturns

_P = inspect.Parameter


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its name, `inspect`'s kind as a number, and whether it may be left out."""

    name: str
    kind: int
    optional: bool


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method (or function) as its callers see it."""

    name: str
    params: tuple[Param, ...] | None = None
    """None when the signature cannot be known (builtins): then nothing is checked."""
    num_returns: NumReturns = 1
    is_async: bool = False
    group: str | None = None
    _least: int = field(init=False, default=0)
    _most: float = field(init=False, default=0)

    def __post_init__(self) -> None:
        least, most = 0, 0.0
        for p in self.params or ():
            if p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD):
                most += 1
                least += not p.optional
            elif p.kind == _P.VAR_POSITIONAL:
                most = float("inf")
            elif p.kind == _P.KEYWORD_ONLY and not p.optional:
                least = 1 << 30  # a required keyword: never decided by counting
        object.__setattr__(self, "_least", least)
        object.__setattr__(self, "_most", float("inf") if self.params is None else most)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, as Python would, when the arguments do not fit."""
        if (not kwargs and self._least <= len(args) <= self._most) or self.params is None:
            return
        signature = inspect.Signature(
            [_P(p.name, inspect._ParameterKind(p.kind), default=None if p.optional else _P.empty) for p in self.params]
        )
        try:
            signature.bind(*args, **kwargs)
        except TypeError as e:
            shown = ", ".join(str(p) for p in signature.parameters.values())
            raise TypeError(f"{self.name}({shown}): {e}") from None


def describe_callable(fn: Callable[..., Any], name: str, *, bound: bool) -> MethodSpec:
    """The spec of one function; `bound` leaves out its first parameter (self)."""
    marks = getattr(fn, "__soma_method__", {})
    try:
        params = list(inspect.signature(fn).parameters.values())
    except (ValueError, TypeError):
        described = None
    else:
        if bound and params and params[0].kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD):
            params = params[1:]
        described = tuple(Param(p.name, int(p.kind), p.default is not _P.empty) for p in params
                          if bound or p.kind is not None)
    inner = inspect.unwrap(fn)
    streams = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    return MethodSpec(
        name, described,
        num_returns=marks.get("num_returns", "streaming" if streams else 1),
        is_async=inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner),
        group=marks.get("concurrency_group"),
    )


def describe(cls: type) -> dict[str, MethodSpec]:
    """Every method that can be called remotely: public ones, and `__call__`, `__ray_ready__`-like dunders that are defined."""
    found: dict[str, MethodSpec] = {}
    for name in dir(cls):
        if name.startswith("__") and name != "__call__":
            continue
        static = inspect.getattr_static(cls, name)
        member = getattr(cls, name)
        if not callable(member) or (isinstance(static, type) and not isinstance(static, (staticmethod, classmethod))):
            continue
        if name == "__call__" and not inspect.isfunction(static):
            continue
        found[name] = describe_callable(member, name, bound=not isinstance(static, (staticmethod, classmethod)))
    return found


def describe_init(cls: type) -> MethodSpec:
    """The constructor's parameters, for checking `Cls.remote(...)` where it is written."""
    try:
        params = inspect.signature(cls).parameters.values()
    except (ValueError, TypeError):
        return MethodSpec(cls.__name__)
    return MethodSpec(cls.__name__, tuple(Param(p.name, int(p.kind), p.default is not _P.empty) for p in params))


def has_async(methods: Mapping[str, MethodSpec]) -> bool:
    return any(m.is_async for m in methods.values())


def method(*, num_returns: NumReturns | None = None, concurrency_group: str | None = None) -> Callable[[Any], Any]:
    """Mark a method: `@soma.method(num_returns=2)`; `concurrency_group` names one of the actor's `concurrency_groups`."""
    marks: dict[str, Any] = {}
    if num_returns is not None:
        marks["num_returns"] = num_returns
    if concurrency_group is not None:
        marks["concurrency_group"] = concurrency_group

    def mark(fn: Any) -> Any:
        fn.__soma_method__ = marks
        return fn

    return mark
