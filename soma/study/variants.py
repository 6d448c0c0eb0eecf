"""The graphs that a study of a graph tries: dimensions named "node.parameter" and "before -> after", and the graph with their values.

Refuses, naming the dimension: a node, parameter or edge that there is not; an edge without which the graph cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.errors import GraphError, SchemaError, SpaceError
from soma.filters import Search, parameters_of, title_of
from soma.graph import Graph
from soma.study.space import Space, named

ARROW = "->"


def space_of(graph: Graph, declared: Any) -> Space:
    """What `soma.search` declares in the filters, and what was declared for the study, which comes behind it and takes its place."""
    own = graph.space()
    given = list(named(declared.dimensions if isinstance(declared, Space) else declared))
    names = [name for name, _ in given]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise SpaceError(f"dimension {twice[0]!r} is declared twice")
    edges: dict[tuple[str, str], str] = {}
    for name in names:
        if isinstance(name, str) and ARROW in name:
            first = edges.setdefault(edge_of(name), name)
            if first != name:
                raise SpaceError(f"dimension {name!r}: {first!r} is the same edge")
        elif isinstance(name, str):
            _check_parameter(graph, name)
    space = Space.of({**{name: found for name, found in own.items() if name not in names}, **dict(given)})
    for ends, name in edges.items():
        _check_edge(graph, ends, name, space.dimensions[name].search)
    for name, one in space.dimensions.items():
        if one.when and name in own and not own[name].has_default:
            raise SpaceError(f"dimension {name!r} exists only with some values of {', '.join(map(repr, one.when))}, and with others the "
                             "filter's soma.search needs a default")
    return space


def variant(graph: Graph, params: Mapping[str, Any]) -> Graph:
    """A graph like this one with these values."""
    values = {name: value for name, value in params.items() if ARROW not in name}
    return graph.with_parameters(values).without(*(edge_of(name) for name, there in params.items() if ARROW in name and not there))


def edge_of(name: str) -> tuple[str, str]:
    """The two nodes in "before -> after"."""
    before, _, after = name.partition(ARROW)
    return before.strip(), after.strip()


def _check_parameter(graph: Graph, name: str) -> None:
    filters = graph.filters
    id, _, parameter = name.rpartition(".")
    if id not in filters:
        raise SpaceError(f"dimension {name!r}: there is no node {id or name!r}; the nodes are {', '.join(map(repr, filters))}. Write "
                         "'node.parameter', or 'before -> after' for an edge")
    known = parameters_of(filters[id])
    if parameter not in known:
        raise SpaceError(f"dimension {name!r}: node {id!r} ({title_of(filters[id])}) has no parameter {parameter!r}; it has "
                         f"{', '.join(map(repr, known)) or 'none'}")


def _check_edge(graph: Graph, ends: tuple[str, str], name: str, of: Search) -> None:
    if not all(isinstance(choice, bool) for choice in of.choices or (0,)):
        raise SpaceError(f"dimension {name!r}: an edge is there or not: soma.study.edge()")
    try:
        graph.without(ends).compile()
    except (GraphError, SchemaError) as e:
        raise SpaceError(f"dimension {name!r}: without this edge the graph cannot be: {e}") from e
