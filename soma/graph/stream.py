"""A graph on a stream of chunks: a bounded number of them is under way at once, results come in order, memory does not grow.

Nodes are "fixed" (each chunk by itself), "evolving" (their state moves on from chunk to chunk, in order) or "barrier" (all chunks at once:
they and all that comes behind them run once, at the end; what they need in chunks is collected for them).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.errors import ClusterError, GraphError
from soma.filters import Task
from soma.graph.chunks import Source
from soma.graph.execution import Execution
from soma.graph.plan import Plan
from soma.graph.processes import Processes
from soma.graph.program import taken
from soma.graph.values import Value, flattened, input_of, shape_of
from soma.graph.waiting import wait_for
from soma.graph.walk import Walk
from soma.runs import Run
from soma.store import Cache

FEWEST, MOST = 2, 16
"""Chunks under way at once: as many as there are nodes one behind the other, within these bounds."""


class Stream:
    """Iterate it for the results, chunk by chunk. Dropping it, `close()`, or the end of its `with` ends the stream.

    `states` holds, once it is at its end, the states that evolving nodes have come to, by id: what `graph.load_state` takes.
    """

    def __init__(self, plan: Plan, processes: Processes, run: Run, cache: Cache | None, execution: Execution, source: Source) -> None:
        self._whole = check(plan)
        self._plan, self._processes, self._run, self._cache = plan, processes, run, cache
        self._execution, self._source = execution, source
        self.states: dict[str, Any] = {}
        self._items = self._results()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def close(self) -> None:
        """End it: what is under way is cancelled, and what filters keep for it is forgotten."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        items = self.__dict__.get("_items")
        if items is not None:
            items.close()

    # -- the work --------------------------------------------------------------------------------------------------------------

    def _results(self) -> Generator[Any, None, None]:
        plan, whole, execution = self._plan, self._whole, self._execution
        chunked = tuple(leaf for leaf in plan.leaves if leaf not in whole)
        feeding = {id: tuple(i for i in plan.node(id).inputs if i not in whole) for id in whole}
        wanted = tuple(dict.fromkeys([*chunked, *(i for inputs in feeding.values() for i in inputs)]))
        entering = [id for id in whole if not plan.node(id).inputs]
        execution.calls.methods = {n.id: "evolve" for n in plan.nodes if n.stream == "evolving" and n.id not in whole}
        try:
            with self._run:
                for outputs, x in self._chunks(wanted):
                    for first in dict.fromkeys(plan.group(id)[0] for id in whole if feeding[id] or id in entering):
                        self._collect(first, feeding, outputs, x)
                    if chunked:
                        yield self._result(chunked, outputs)
                if whole:
                    yield self._at_the_end(whole, feeding)
                self.states = self._end()
        finally:
            if not self.states:
                self._abandon()

    def _chunks(self, wanted: tuple[str, ...]) -> Iterator[tuple[dict[str, Value], Value]]:
        """Each chunk's outputs, in order."""
        under_way: deque[tuple[Walk, Value]] = deque()
        source = enumerate(self._source)
        most = ahead(self._plan)
        while True:
            while len(under_way) < most and (item := next(source, None)) is not None:
                number, (chunk, _) = item
                walk, x = Walk(self._plan, "forward", wanted), Value.of(chunk)
                if sum(not n.inputs for n in self._plan.nodes) > 1:
                    x.share()
                under_way.append((walk, x))
                self._execution.begin(walk, x, number)
            if not under_way:
                return
            walk, x = under_way.popleft()
            wait_for(self._execution, self._execution.drive(walk))
            self._execution.finished(walk)
            assert walk.outputs is not None
            yield walk.outputs, x
            del walk, x

    def _result(self, leaves: tuple[str, ...], outputs: dict[str, Value]) -> Any:
        found = {id: outputs[id].get(self._cache) for id in leaves}
        return found[leaves[0]] if len(self._plan.leaves) == 1 else found

    def _collect(self, first: str, feeding: dict[str, tuple[str, ...]], outputs: dict[str, Value], x: Value) -> None:
        """Hand a chunk to a node that waits for all of them."""
        members = self._plan.group(first)
        names = dict.fromkeys(i for id in members for i in (feeding[id] or (() if self._plan.node(id).inputs else ("",))))
        parts = tuple((i, x if i == "" else outputs[i]) for i in names)
        given = input_of(parts, named=bool(self._names(first)))
        task = Task(first, shape_of(given), self._run.id)
        handle = self._processes.handle(first)
        cluster.get(handle.collect.remote(task, *(v.argument(self._cache) for v in flattened(given))))

    def _names(self, first: str) -> tuple[str, ...]:
        """The parts of what a unit gets; none where it gets one thing."""
        names = taken(self._plan, self._plan.group(first))
        return names if len(names) > 1 or self._plan.is_composite(first) else ()

    def _at_the_end(self, whole: frozenset[str], feeding: dict[str, tuple[str, ...]]) -> Any:
        """Run what waited for all chunks, and what is behind it."""
        plan = _tail(self._plan, whole)
        collecting = {plan.group(id)[0] for id in whole if feeding[id] or not self._plan.node(id).inputs}
        self._execution.calls.methods = dict.fromkeys(collecting, "forward_all")
        self._execution.calls.collected = {first: self._names(first) for first in collecting}
        walk = Walk(plan, "forward", plan.leaves)
        self._execution.begin(walk, Value(None))
        wait_for(self._execution, self._execution.drive(walk))
        assert walk.outputs is not None
        return self._result(plan.leaves, walk.outputs)

    def _end(self) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for handle in self._processes.running.values():
            states.update(cluster.get(handle.forget.remote(self._run.id)))
        return states

    def _abandon(self) -> None:
        """It did not come to its end, or nothing in it evolves."""
        try:
            if cluster.is_initialized():
                self._execution.interrupted()
                for handle in self._processes.running.values():
                    handle.forget.remote(self._run.id)
        except ClusterError:
            return  # the cluster is gone, and what its filters kept is too


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


def _tail(plan: Plan, whole: frozenset[str]) -> Plan:
    """The nodes that run at the end, with those of their inputs that come at once."""
    nodes = tuple(replace(n, inputs=tuple(i for i in n.inputs if i in whole)) for n in plan.nodes if n.id in whole)
    return plan.pruned({}, [n.id for n in nodes]).with_nodes(nodes)
