"""How a graph is written: expressions, named nodes, loops and branches; and what it looks like. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from soma.errors import GraphError
from soma.filters import Search, Wired, branch, loop, searched, with_parameters
from soma.graph.builder import Blueprint, blueprint_of
from soma.graph.compile import filters_in, plan_of
from soma.graph.lowering import lower
from soma.graph.plan import Plan


class Building(Wired):
    """The part of a `Graph` that knows what it is made of."""

    def __init__(self, expression: Any, name: str | None) -> None:
        self._blueprint = Blueprint() if expression is None else blueprint_of(expression)
        self._compiled: tuple[Plan, dict[str, Any]] | None = None
        self.name = name

    def __soma_graph__(self) -> Blueprint:
        """For graphs that this one stands in."""
        return self._blueprint

    def node(self, id: str, filter: Any) -> str:
        """Add a filter, a loop, a branch or a whole graph under an id of your own; gives the id back.

        Raises:
            GraphError: there is a node of that id; TypeError: it is none of those.
        """
        self._blueprint.add(id, filter)
        self._changed()
        return id

    def connect(self, before: str, after: str) -> None:
        """Send the output of one node to another. The nodes may be added later."""
        self._blueprint.connect(before, after)
        self._changed()

    def loop(self, id: str, body: Any, until: Any = None, *, max_iterations: int = 100) -> str:
        """Add a loop: `body` runs on its own output until `until` says so.

        Args:
            body: the id of a node (or a list of ids), which moves into the loop; or a filter, an expression, a graph.
            until: the node that gives the signal, an id (of a node of the graph, or of the body) or a filter: True, "done", "stop" or
                {"done": True} end the loop. None runs `max_iterations` passes.
            max_iterations: the most passes. A warning says when they did not suffice.

        A node in the body that learns does so the first time that a fit reaches it; later passes apply it.
        """
        return self.node(id, loop(body, until, max_iterations=max_iterations))

    def branch(self, id: str, condition: Any, arms: Mapping[Any, Any]) -> str:
        """Add a branch: the arm whose label `condition` gives runs, on the branch's own input.

        Args:
            condition: the id of a node, or a filter: it gives a text, a bool, or {"branch": label}.
            arms: what to run for each label (ids, filters, expressions, graphs); "default" stands for all others.
        """
        return self.node(id, branch(condition, arms))

    def compile(self) -> Plan:
        """Check the graph and say how it will run; starts nothing. `plan.diagnostics` holds remarks.

        Raises:
            GraphError: what is wrong, naming every node at fault.
        """
        return self._compile()[0]

    def _compile(self) -> tuple[Plan, dict[str, Any]]:
        """The plan, and the filters by id."""
        if self._compiled is None:
            lowered = lower(self._blueprint)
            self._compiled = plan_of(lowered), filters_in(lowered)
        return self._compiled

    @property
    def filters(self) -> dict[str, Any]:
        """Every filter, those inside loops and branches too, by its node's id."""
        return dict(self._compile()[1])

    def _changed(self) -> None:
        """The graph is another one now."""
        self._compiled = None

    # -- parameters ------------------------------------------------------------------------------------------------------------

    def space(self) -> dict[str, Search]:
        """What `soma.search` declares in its filters, as `{"node.parameter": Search}`."""
        return {f"{id}.{name}": found for id, filter in self._compile()[1].items() for name, found in searched(filter).items()}

    def with_parameters(self, changes: Mapping[str, Any]) -> Self:
        """A new graph like this one, with some parameters replaced: `{"ridge.alpha": 0.1}`. Nothing that was learnt comes along.

        Raises:
            GraphError: there is no such node or parameter.
        """
        wanted: dict[str, dict[str, Any]] = {}
        filters = self._compile()[1]
        for key, value in changes.items():
            id, dot, name = key.rpartition(".")
            if not dot or id not in filters:
                raise GraphError(f"with_parameters: {key!r} names no parameter; write 'node.parameter', e.g. "
                                 f"{next(iter(filters), 'node')!r} + '.alpha'. The nodes are {', '.join(filters)}")
            wanted.setdefault(id, {})[name] = value
        made = self._like_this()
        made._blueprint.replaced.update({id: with_parameters(filters[id], some) for id, some in wanted.items()})
        return made

    def edges(self) -> list[tuple[str, str]]:
        """Between its members, as they were written: (before, after). Graphs that stand in it have their own."""
        return list(self._blueprint.edges)

    def without(self, *edges: tuple[str, str]) -> Self:
        """A new graph like this one without some of its `edges()`. Nothing that was learnt comes along.

        A node whose output then leads nowhere is left out, with what only led to it. One that loses all of its inputs gets the
        graph's own; one that keeps a single input gets that by itself.

        Raises:
            GraphError: there is no such edge.
        """
        made = self._like_this()
        made._blueprint.cut(edges)
        return made

    def _like_this(self) -> Self:
        """A graph of the same blueprint and options."""
        raise NotImplementedError

    # -- how it is shown ---------------------------------------------------------------------------------------------------------

    def to_mermaid(self) -> str:
        """A flowchart that GitHub and notebooks draw."""
        return self.compile().to_mermaid()

    def __len__(self) -> int:
        return len(self._blueprint.nodes)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        try:
            return f"Graph({self.compile().formula()})"
        except GraphError as e:
            return f"Graph({len(self)} nodes, cannot be compiled: {e})"

