"""Fitting a graph on a stream: chunk after chunk, each node that learns by its `partial_fit`.

A node that learns from what others have learnt has passes of its own, after theirs: so the state after a stream is that of training on all
of it, whatever the depth of the graph.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from soma.actors.refs import ObjectRef
from soma.errors import GraphError
from soma.events import NodeCompleted, NodeFailed, NodeStarted
from soma.filters import Report, Task, derived
from soma.graph.calls import Settings
from soma.graph.chunked import ahead, check
from soma.graph.chunks import Source
from soma.graph.execution import Execution
from soma.graph.plan import Plan
from soma.graph.processes import Handle, Held, Processes
from soma.graph.program import taken
from soma.graph.values import Value, flattened, input_of, shape_of
from soma.graph.waiting import wait_for
from soma.graph.walk import Walk


class Lesson:
    """One fit on a stream.

    Raises:
        GraphError: a node that learns stands where it cannot; the chunks would have to be read more often than they can.
    """

    def __init__(self, plan: Plan, processes: Processes, execution: Execution, source: Source, settings: Settings) -> None:
        self._plan, self._processes, self._execution, self._source, self._settings = plan, processes, execution, source, settings
        self._epochs = settings.epochs or 1
        self._levels = learning_levels(plan)
        passes = sum(map(self._passes, self._levels))
        if source.once and passes > 1:
            order = " then ".join(", ".join(map(repr, level)) for level in self._levels)
            raise GraphError(f"fitting takes {passes} passes over the chunks ({order}), and an iterator can be read once: give a function "
                             "that makes a new one each time, or a list of chunks")

    def _passes(self, level: list[str]) -> int:
        return self._epochs if any(map(self._plan.is_composite, level)) else 1

    def run(self) -> None:
        for level in self._levels:
            for epoch in range(self._passes(level)):
                self._pass([first for first in level if epoch == 0 or self._plan.is_composite(first)], epoch)

    def _pass(self, learners: list[str], epoch: int) -> None:
        plan, execution = self._plan, self._execution
        inputs = {first: taken(plan, plan.group(first)) for first in learners}
        wanted = tuple(dict.fromkeys(i for names in inputs.values() for i in names if i))
        under_way: deque[tuple[Walk, Value, Any]] = deque()
        chunks, most, number = iter(self._source), ahead(plan), 0
        while True:
            while len(under_way) < most and (item := next(chunks, None)) is not None:
                walk, x = Walk(plan, "forward", wanted), Value.of(item[0])
                x.share()
                under_way.append((walk, x, item[1]))
                execution.begin(walk, x, number + len(under_way) - 1)
            if not under_way:
                return
            walk, x, y = under_way.popleft()
            wait_for(execution, execution.drive(walk))
            execution.finished(walk)
            outputs = {**(walk.outputs or {}), "": x}
            self._learn({first: tuple((i, outputs[i]) for i in names) for first, names in inputs.items()}, y, number, epoch)
            number += 1

    def _learn(self, given: dict[str, tuple[tuple[str, Value], ...]], y: Any, chunk: int, epoch: int) -> None:
        """All learners of this pass, side by side, on one chunk."""
        sent: list[tuple[str, Handle, ObjectRef[Any]]] = []
        run, seed = self._execution.calls.run, self._settings.seed
        targets = Value.of(y)
        if len(given) > 1:
            targets.share()
        for first, parts in given.items():
            named = input_of(parts, named=self._plan.is_composite(first))
            handle = self._processes.handle(first)
            task = Task(first, shape_of(named), run.id, None if seed is None else derived(seed, f"{first}/{epoch}/{chunk}"),
                        batch_size=self._settings.batch_size, epochs=1, shuffle=self._settings.shuffle, first=chunk == 0 and epoch == 0)
            method = handle.learn.options(listener=run.told if run.wanted else None)
            run.emit(NodeStarted, node=first, chunk=chunk)
            sent.append((first, handle, method.remote(task, targets.argument(None), *(v.argument(None) for v in flattened(named)))))
        for first, handle, ref in sent:
            self._learnt(first, handle, ref, chunk)

    def _learnt(self, first: str, handle: Handle, ref: ObjectRef[Any], chunk: int) -> None:
        run = self._execution.calls.run
        try:
            report = Report(*self._execution.get(first, handle, ref))
        except Exception as e:
            run.failed_node = first
            run.emit(NodeFailed, node=first, error=str(e)[:2000], error_type=type(e).__name__, chunk=chunk)
            e.add_note(f"in node {first!r}, chunk {chunk}, attempt 1: {self._plan.node(first).label}")
            raise
        self._processes.learnt(first, Held(inside=handle.actor_id))
        self._execution.calls.count(first, report)
        run.emit(NodeCompleted, node=first, duration_ms=report.ms, chunk=chunk)


def learning_levels(plan: Plan) -> list[list[str]]:
    """The units that learn, by how many others that learn lie before them.

    Raises:
        GraphError: one stands in a loop, a branch, or at or behind a barrier.
    """
    whole = check(plan)
    level: dict[str, int] = {}
    found: dict[int, list[str]] = {}
    for first in plan.units:
        members = plan.group(first)
        learns = any(plan.node(id).learns for id in members)
        for id in members:
            node = plan.node(id)
            if node.learns and (node.inner is not None or id in whole):
                where = f"inside {node.kind} {id!r}" if node.inner is not None else f"at or behind a barrier ({id!r})"
                raise GraphError(f"a filter {where} learns, and it cannot learn from a stream: fit it on whole data")
        before = max((level[plan.group(i)[0]] for i in taken(plan, members) if i), default=0)
        if learns:
            found.setdefault(before, []).append(first)
        level[first] = before + learns
    return [found[n] for n in sorted(found)]
