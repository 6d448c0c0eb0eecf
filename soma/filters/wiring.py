"""What `a >> b`, `a | b` and `a >> [b, c]` make: immutable expressions over filters. Nothing runs here.

A chain feeds every exit of one part into every entry of the next; a fork puts its parts side by side. Both are flat: a chain
holds no chain and a fork no fork, so a pipeline of thousands of filters is not thousands of levels deep. The same object used
twice is the same node twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MARK = "__soma_filter__"
"""The attribute of a class whose instances are filters: its `FilterOptions`."""


class Wired:
    """The operators of filters and of expressions."""

    __slots__ = ()

    def __rshift__(self, other: Any) -> Chain:
        return chain(self, other)

    def __rrshift__(self, other: Any) -> Chain:
        return chain(other, self)

    def __or__(self, other: Any) -> Fork:
        return fork(self, other)

    def __ror__(self, other: Any) -> Fork:
        return fork(other, self)


OPERATORS = ("__rshift__", "__rrshift__", "__or__", "__ror__")


@dataclass(frozen=True, slots=True, eq=False)
class Chain(Wired):
    """Parts one after the other."""

    parts: tuple[Any, ...]

    def collect(self, join: Any) -> Chain:
        """The same as `>> join`."""
        return chain(self, join)


@dataclass(frozen=True, slots=True, eq=False)
class Fork(Wired):
    """Parts side by side."""

    parts: tuple[Any, ...]

    def collect(self, join: Any) -> Chain:
        """The same as `>> join`: `join.forward` gets `{id: value}` of all parts."""
        return chain(self, join)


def chain(first: Any, then: Any) -> Chain:
    a, b = part_of(first), part_of(then)
    return Chain((a.parts if isinstance(a, Chain) else (a,)) + (b.parts if isinstance(b, Chain) else (b,)))


def fork(one: Any, other: Any) -> Fork:
    a, b = part_of(one), part_of(other)
    return Fork((a.parts if isinstance(a, Fork) else (a,)) + (b.parts if isinstance(b, Fork) else (b,)))


def part_of(thing: Any) -> Any:
    """What may stand in an expression: a filter, an expression, or a list of such. Anything else is a TypeError that says why."""
    if isinstance(thing, (Chain, Fork)):
        return thing
    if isinstance(thing, (list, tuple)):
        if not thing:
            raise ValueError("an empty list cannot be wired: [b, c] puts filters side by side")
        parts: list[Any] = []
        for part in map(part_of, thing):
            parts.extend(part.parts if isinstance(part, Fork) else (part,))
        return Fork(tuple(parts)) if len(parts) > 1 else parts[0]
    if isinstance(thing, type):
        raise TypeError(f"{thing.__name__} is a class, and a graph is made of objects: write {thing.__name__}()")
    if hasattr(type(thing), MARK):
        return thing
    raise TypeError(f"{type(thing).__name__} is no filter: mark its class with @soma.filter, or wrap it as soma.filter(...)")
