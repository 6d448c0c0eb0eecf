"""A plan on chunks, decided purely: which nodes take each chunk and which all of them at once, and how many chunks are under way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from soma.errors import GraphError
from soma.graph.plan import Plan
from soma.graph.program import taken

FEWEST, MOST = 2, 16
"""Chunks under way at once: as many as there are nodes one behind the other, within these bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunked:
    """A plan, sorted.

    Attributes:
        whole: the nodes that run once, at the end.
        leaves: those whose output for each chunk is the stream's.
        wanted: those whose output for each chunk somebody takes.
        feeding: for each of `whole`, its inputs that come in chunks.
        collecting: the units, by their first nodes, that chunks are kept for until the end.
        evolving: the nodes whose state moves on from chunk to chunk.
        credit: how many chunks are under way at once.
    """

    plan: Plan
    whole: frozenset[str]
    leaves: tuple[str, ...]
    wanted: tuple[str, ...]
    feeding: dict[str, tuple[str, ...]]
    collecting: tuple[str, ...]
    evolving: tuple[str, ...]
    credit: int

    @classmethod
    def of(cls, plan: Plan) -> Chunked:
        """GraphError if a node cannot be streamed where it stands."""
        whole = check(plan)
        leaves = tuple(leaf for leaf in plan.leaves if leaf not in whole)
        feeding = {id: tuple(i for i in plan.node(id).inputs if i not in whole) for id in whole}
        wanted = tuple(dict.fromkeys([*leaves, *(i for inputs in feeding.values() for i in inputs)]))
        taking = {id for id in whole if feeding[id] or not plan.node(id).inputs}
        collecting = tuple(dict.fromkeys(plan.group(n.id)[0] for n in plan.nodes if n.id in taking))
        evolving = tuple(n.id for n in plan.nodes if n.stream == "evolving" and n.id not in whole and plan.group(n.id)[0] == n.id)
        return cls(plan, whole, leaves, wanted, feeding, collecting, evolving, ahead(plan))

    @property
    def entries(self) -> int:
        """How many nodes take the stream's own chunks."""
        return sum(not n.inputs for n in self.plan.nodes)

    def inputs(self, first: str) -> tuple[str, ...]:
        """Whose chunks a unit collects; "" stands for the stream's own."""
        members = self.plan.group(first)
        return tuple(dict.fromkeys(i for id in members for i in (self.feeding[id] or (() if self.plan.node(id).inputs else ("",)))))

    def names(self, first: str) -> tuple[str, ...]:
        """The parts of what a unit gets; none where it gets one thing."""
        names = taken(self.plan, self.plan.group(first))
        return names if len(names) > 1 or self.plan.is_composite(first) else ()

    def tail(self) -> Plan:
        """The nodes that run at the end, with those of their inputs that come at once."""
        plan, whole = self.plan, self.whole
        nodes = tuple(replace(n, inputs=tuple(i for i in n.inputs if i in whole)) for n in plan.nodes if n.id in whole)
        return plan.pruned({}, [n.id for n in nodes]).with_nodes(nodes)


def check(plan: Plan) -> frozenset[str]:
    """The nodes that run once, at the end of a stream.

    Raises:
        GraphError: a node cannot be streamed where it stands.
    """
    for node in plan.nodes:
        for inner in node.parts:
            for n in inner.filters():
                if n.stream != "fixed":
                    raise GraphError(f"node {n.id!r} is stream={n.stream!r} and stands inside {node.id!r}, where not every chunk comes by: "
                                     "it cannot be streamed there")
    whole: set[str] = set()
    for unit in plan.units:
        members = plan.group(unit)
        if any(plan.node(id).stream == "barrier" or any(i in whole for i in plan.node(id).inputs) for id in members):
            whole.update(members)
    for id in whole:
        node = plan.node(id)
        if node.inner is not None and (not node.inputs or any(i not in whole for i in node.inputs)):
            raise GraphError(f"{node.kind} {id!r} takes chunks and, behind a barrier, all at once: put a filter before it that joins them")
    return frozenset(whole)


def ahead(plan: Plan) -> int:
    """How many chunks are under way at once."""
    depth: dict[str, int] = {}
    for node in plan.nodes:
        depth[node.id] = 1 + max((depth[i] for i in node.inputs), default=0)
    return min(MOST, max(FEWEST, 1 + max(depth.values(), default=0)))
