"""From expressions and named nodes to a `Blueprint`: members by id, and the edges between ids, as they were written.

A chain draws an edge from every exit of a part to every entry of the next. One object is one node, wherever it stands, so any acyclic
graph can be written. Members are filters, loops, branches and whole graphs; `lowering` takes those apart. Whether the result makes sense
is `compile`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from soma.errors import GraphError
from soma.filters import Branch, Chain, Fork, Loop, is_graph, part_of, title_of

Edge = tuple[str, str]


@dataclass(slots=True, eq=False)
class Blueprint:
    """A graph as it is being written."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)
    """Ids that were given by name, so that somebody must connect them."""
    replaced: dict[str, Any] = field(default_factory=dict)
    """Filters that stand in for others, by the id that those have in the plan."""

    def add(self, id: str, member: Any) -> None:
        """A member under an id of the user's own."""
        if not isinstance(id, str) or not id or not id.isprintable():
            raise GraphError(f"node id {id!r}: a string that can be printed")
        if id in self.nodes:
            raise GraphError(f"there is a node {id!r} already ({title(self.nodes[id])})")
        part = part_of(member)
        if isinstance(part, (Chain, Fork)):
            raise TypeError(f"node {id!r}: a single filter, not an expression of {len(part.parts)} parts")
        self.nodes[id] = part
        self.placed.add(id)

    def connect(self, before: str, after: str) -> None:
        for id in (before, after):
            if not isinstance(id, str):
                raise TypeError(f"connect takes the ids of two nodes, got {type(id).__name__}")
        self.edges[before, after] = None

    def cut(self, edges: Iterable[Edge]) -> None:
        """Take edges away, and with them the members whose output then leads nowhere. A member that loses all of its inputs gets the
        graph's own.

        Raises:
            GraphError: there is no such edge.
        """
        ends = set(self.nodes) - {a for a, _ in self.edges}
        for edge in edges:
            if edge not in self.edges:
                there = ", ".join(f"{a!r} >> {b!r}" for a, b in self.edges) or "none"
                raise GraphError(f"there is no edge {edge[0]!r} >> {edge[1]!r}; the edges are {there}")
            del self.edges[edge]
            self.placed.discard(edge[1])
        before: dict[str, list[str]] = {}
        for a, b in self.edges:
            before.setdefault(b, []).append(a)
        alive, todo = set(ends), list(ends)
        while todo:
            fresh = [id for id in before.get(todo.pop(), []) if id not in alive]
            alive.update(fresh)
            todo += fresh
        self.nodes = {id: member for id, member in self.nodes.items() if id in alive}
        self.edges = {edge: None for edge in self.edges if edge[0] in alive and edge[1] in alive}
        self.placed &= alive

    def copy(self) -> Blueprint:
        return Blueprint(dict(self.nodes), dict(self.edges), set(self.placed), dict(self.replaced))


def title(member: Any) -> str:
    """What a member is called where it has no id."""
    if isinstance(member, (Loop, Branch)):
        return type(member).__name__.lower()
    return str(member.name or "graph") if is_graph(member) else title_of(member)


def snake(text: str) -> str:
    """`StandardScaler` -> `standard_scaler`, `PCA` -> `pca`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text).lower() or "node"


def blueprint_of(expression: Any) -> Blueprint:
    """The members of an expression, named after their classes (`scale`, `scale_2`, …), and its edges."""
    names = _Names()
    edges: dict[Edge, None] = {}
    ends: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}  # of a part: the ids it begins and ends with
    stack: list[tuple[Any, bool]] = [(part_of(expression), False)]
    while stack:  # not recursive: an expression may be nested deeper than Python's stack
        part, parts_done = stack.pop()
        if id(part) in ends:
            continue
        if not isinstance(part, (Chain, Fork)):
            name = names.of(part)
            ends[id(part)] = (name,), (name,)
        elif not parts_done:
            stack.append((part, True))
            stack.extend((p, False) for p in reversed(part.parts))
        elif isinstance(part, Fork):
            ends[id(part)] = (tuple(dict.fromkeys(n for p in part.parts for n in ends[id(p)][0])),
                              tuple(dict.fromkeys(n for p in part.parts for n in ends[id(p)][1])))
        else:
            for before, after in zip(part.parts, part.parts[1:], strict=False):
                edges.update(((a, b), None) for a in ends[id(before)][1] for b in ends[id(after)][0])
            ends[id(part)] = ends[id(part.parts[0])][0], ends[id(part.parts[-1])][1]
    return Blueprint(names.nodes, edges)


class _Names:
    """Gives each member one id."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self._ids: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, member: Any) -> str:
        known = self._ids.get(id(member))
        if known is not None:
            return known
        base = name = snake(title(member))
        while name in self.nodes:
            self._counts[base] = self._counts.get(base, 1) + 1
            name = f"{base}_{self._counts[base]}"
        self.nodes[name] = member
        self._ids[id(member)] = name
        return name
