"""From expressions to nodes and edges. Immutable: adding gives a new blueprint.

A chain draws an edge from every exit of a part to every entry of the next. One object is one node, wherever it stands, so any
acyclic graph can be written. Whether the result makes sense is `compile`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.errors import GraphError
from soma.filters import Chain, Fork, part_of, title_of

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Blueprint:
    """Filters by id and the edges between ids, both in the order in which they were written."""

    nodes: Mapping[str, Any] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    def with_node(self, id: str, filter: Any) -> Blueprint:
        if not isinstance(id, str) or not id or not id.isprintable():
            raise GraphError(f"node id {id!r}: a string that can be printed")
        if id in self.nodes:
            raise GraphError(f"there is a node {id!r} already ({title_of(self.nodes[id])})")
        part = part_of(filter)
        if isinstance(part, (Chain, Fork)):
            raise TypeError(f"node {id!r}: a single filter, not an expression of {len(part.parts)} parts")
        return Blueprint({**self.nodes, id: part}, self.edges)

    def with_edge(self, before: str, after: str) -> Blueprint:
        return Blueprint(self.nodes, (*self.edges, (before, after)))


def snake(title: str) -> str:
    """`StandardScaler` -> `standard_scaler`, `PCA` -> `pca`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", title).lower() or "node"


def blueprint_of(expression: Any) -> Blueprint:
    """The nodes of an expression, named after their classes (`scale`, `scale_2`, …), and its edges."""
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
    return Blueprint(names.nodes, tuple(edges))


class _Names:
    """Gives each filter object one id."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self._ids: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, filter: Any) -> str:
        known = self._ids.get(id(filter))
        if known is not None:
            return known
        base = name = snake(title_of(filter))
        while name in self.nodes:
            self._counts[base] = self._counts.get(base, 1) + 1
            name = f"{base}_{self._counts[base]}"
        self.nodes[name] = filter
        self._ids[id(filter)] = name
        return name
