"""What `a >> b`, `a | b` and `a >> [b, c]` make, and loops and branches: immutable expressions over filters. Nothing runs here.

A chain feeds every exit of one part into every entry of the next; a fork puts its parts side by side. Both are flat: a chain
holds no chain and a fork no fork, so a pipeline of thousands of filters is not thousands of levels deep. The same object used
twice is the same node twice. A graph may stand in an expression too: its filters are then nodes of the larger graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARK = "__soma_filter__"
"""The attribute of a class whose instances are filters: its `FilterOptions`."""

GRAPH = "__soma_graph__"
"""The attribute of a class whose instances are graphs."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Loop(Wired):
    """`body` again and again, on its own output, until the node `until` says so. `soma.loop` makes one, checked.

    `body` and `until` are parts, or ids of nodes of the graph that the loop will belong to.
    """

    body: Any
    until: Any
    max_iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class Branch(Wired):
    """The arm whose label `condition` gives, on the branch's own input. `soma.branch` makes one, checked."""

    condition: Any
    arms: Mapping[str, Any]


def loop(body: Any, until: Any = None, *, max_iterations: int = 100) -> Loop:
    """A loop as a part of an expression: `Start() >> soma.loop(Step(), until=Close()) >> Show()`.

    Args:
        body: what runs in each pass: a filter, an expression or a graph; the first pass gets the loop's input, each further one
            what the one before gave. (In `graph.loop`: also the id of a node, or a list of ids.)
        until: a filter that gets what the pass gave and says whether that was the last: True, "done", "stop" or {"done": True};
            False, "continue" or {"done": False}. Or the id of a node of the body. None runs `max_iterations` passes.
        max_iterations: the most passes; a warning says when they did not suffice.

    Raises:
        ValueError: `max_iterations` is no whole number from 1.
    """
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise ValueError(f"max_iterations={max_iterations!r}: a whole number from 1")
    return Loop(_part_or_ids(body), until if until is None else _part_or_ids(until), max_iterations)


def branch(condition: Any, arms: Mapping[Any, Any]) -> Branch:
    """A branch as a part of an expression: `soma.branch(Sign(), {"neg": A(), "pos": B()})`.

    Args:
        condition: a filter that gives the label of the arm to take: a text, a bool, or {"branch": label}. (In `graph.branch`: also
            the id of a node.)
        arms: what to run for each label, given the branch's own input: filters, expressions or graphs. "default" is for all other
            labels; True and False may be keys.

    Raises:
        ValueError: no arms, or two that are called the same.
    """
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError("a branch needs arms: {label: filter, …}")
    made: dict[str, Any] = {}
    for label, arm in arms.items():
        name = label_text(label)
        if name is None:
            raise ValueError(f"the label {label!r} of an arm: a text, True or False")
        if name in made:
            raise ValueError(f"two arms are called {name!r}")
        made[name] = _part_or_ids(arm)
    return Branch(_part_or_ids(condition), made)


def label_text(label: Any) -> str | None:
    """A label as it is looked up: texts as they are, True and False as "true" and "false"; None for anything else."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label) if isinstance(label, str) else None


def _part_or_ids(thing: Any) -> Any:
    if isinstance(thing, str):
        return (thing,)
    if isinstance(thing, (list, tuple)) and thing and all(isinstance(t, str) for t in thing):
        return tuple(thing)
    return part_of(thing)


def chain(first: Any, then: Any) -> Chain:
    a, b = part_of(first), part_of(then)
    return Chain((a.parts if isinstance(a, Chain) else (a,)) + (b.parts if isinstance(b, Chain) else (b,)))


def fork(one: Any, other: Any) -> Fork:
    a, b = part_of(one), part_of(other)
    return Fork((a.parts if isinstance(a, Fork) else (a,)) + (b.parts if isinstance(b, Fork) else (b,)))


def is_graph(thing: Any) -> bool:
    """Whether it is a graph, which may stand in an expression as a part."""
    return hasattr(type(thing), GRAPH)


def part_of(thing: Any) -> Any:
    """What may stand in an expression: a filter, an expression, a graph, or a list of such. Anything else is a TypeError that says why."""
    if isinstance(thing, (Chain, Fork, Loop, Branch)) or is_graph(thing):
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
