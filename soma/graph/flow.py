"""The chunks of a stream on their way through the processes: sent, collected, counted; and sent again from an earlier one.

Evolving filters count their chunks and refuse one that is not next; those that collect know each by its number, so one that comes twice
is one. At the end the filters' counts and hashes must be those that were reckoned here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import StreamBrokenError
from soma.filters import Position, Task, trail_after
from soma.graph.chunked import Chunked
from soma.graph.chunks import Source
from soma.graph.execution import SETTLE, Execution
from soma.graph.processes import Processes
from soma.graph.retention import Retention
from soma.graph.values import Value, flattened, input_of, shape_of
from soma.graph.waiting import wait_for
from soma.graph.walk import Walk

Outputs = dict[str, Value]


class Flow:
    """Of one stream.

    Args:
        lasting: the processes may come again, so chunks are kept under refs.
        origin: where evolving nodes stand before the first chunk; none where they begin with what was learnt.
    """

    def __init__(self, chunked: Chunked, processes: Processes, execution: Execution, source: Source, kept: Retention[Value], *,
                 lasting: bool, origin: Mapping[str, Position]) -> None:
        self._chunked, self._processes, self._execution, self.kept, self._lasting = chunked, processes, execution, kept, lasting
        self._source = source.begin_at(kept.origin)
        self._origin, self.positions = dict(origin), dict(origin)
        self.reading_failed: Exception | None = None
        """What the source raised: nobody's death."""
        self._actors: dict[str, str] = {}
        self._collected: dict[str, int] = {}
        self._trails: dict[str, bytes] = {}
        self._start = kept.origin
        self._rewound = not origin

    # -- chunks ----------------------------------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[tuple[int, Outputs, Mapping[str, Position]]]:
        """Each chunk's number, its outputs, and where evolving nodes stand after it, if that was due; in order."""
        self._prepare()
        execution, chunked = self._execution, self._chunked
        under_way: deque[tuple[int, Walk, Value]] = deque()
        inputs = self._inputs()
        while True:
            while len(under_way) < chunked.credit and (item := next(inputs, None)) is not None:
                number, x = item
                walk = Walk(chunked.plan, "forward", chunked.wanted)
                under_way.append((number, walk, x))
                execution.begin(walk, x, number)
            if not under_way:
                return
            number, walk, x = under_way.popleft()
            wait_for(execution, execution.drive(walk))
            execution.finished(walk)
            assert walk.outputs is not None
            due = self._moved(number)
            for first in chunked.collecting:
                if number >= self._collected.get(first, self.kept.origin):
                    self._collect(first, walk.outputs, x, number)
            yield number, walk.outputs, due
            del walk, x

    def _prepare(self) -> None:
        self._execution.begin_again(self._start)
        self._execution.calls.methods = dict.fromkeys(self._chunked.evolving, "evolve")
        self._execution.calls.moved.clear()
        if self._lasting:
            self._processes.start(self._processes.filters)
            self._actors = {process: handle.actor_id for process, handle in self._processes.running.items()}
        if not self._rewound:
            for node in self._chunked.evolving:
                handle = self._processes.handle(node)
                self._execution.get(node, handle, handle.rewind.remote(self._execution.calls.run.id, node, self.positions.get(node)))
            self._rewound = True
        self._trails = {node: position.trail for node, position in self.positions.items()}

    def _inputs(self) -> Iterator[tuple[int, Value]]:
        yield from self.kept.again(self._start)
        while (chunk := self._read()) is not None:
            yield self.kept.take(chunk), chunk

    def _read(self) -> Value | None:
        try:
            item = next(self._source, None)
        except Exception as e:
            self.reading_failed = e
            raise
        if item is None:
            return None
        x = Value.of(item[0])
        if self._lasting and x.ref is None:
            return Value(ref=cluster.put(item[0]))  # as it is now, whatever the source does with it
        if self._chunked.entries > 1:
            x.share()
        return x

    def _moved(self, number: int) -> Mapping[str, Position]:
        """Reckon with what evolving nodes said of a chunk."""
        due: dict[str, ObjectRef[Any]] = {}
        for node in self._chunked.evolving:
            said, ref = self._execution.calls.moved.pop((node, number))
            self._trails[node] = trail_after(self._trails.get(node, b""), number, said)
            if ref is not None:
                due[node] = ref
        positions = {node: Position(*cluster.get(ref)) for node, ref in due.items()}
        for node, position in positions.items():
            self._agree(node, position, number + 1)
        return positions

    def _agree(self, node: str, position: Position, chunks: int) -> None:
        if (position.chunks, position.trail) != (chunks, self._trails.get(node, b"")):
            raise StreamBrokenError(self.kept.next, f"node {node!r} has taken other chunks ({position.chunks}) than were sent ({chunks})")

    def _collect(self, first: str, outputs: Outputs, x: Value, number: int) -> None:
        """Hand a chunk to a node that waits for all of them."""
        chunked, execution = self._chunked, self._execution
        parts = tuple((i, x if i == "" else outputs[i]) for i in chunked.inputs(first))
        given = input_of(parts, named=bool(chunked.names(first)))
        task = Task(first, shape_of(given), execution.calls.run.id, chunk=number)
        handle = self._processes.handle(first)
        execution.get(first, handle, handle.collect.remote(task, *(v.argument(None) for v in flattened(given))))
        self._collected[first] = number + 1

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def at_the_end(self) -> Outputs:
        """Run what waited for all chunks, and what is behind it."""
        chunked, calls = self._chunked, self._execution.calls
        self._collected.clear()  # it is taken out of its keeping now
        calls.methods = dict.fromkeys(chunked.collecting, "forward_all")
        calls.collected = {first: chunked.names(first) for first in chunked.collecting}
        calls.chunks = self.kept.read
        tail = chunked.tail()
        walk = Walk(tail, "forward", tail.leaves)
        self._execution.begin(walk, Value(None))
        wait_for(self._execution, self._execution.drive(walk))
        assert walk.outputs is not None
        return walk.outputs

    def end(self) -> dict[str, Any]:
        """The states of evolving nodes. Nothing of the stream is left in the processes."""
        states: dict[str, Any] = {}
        firsts = {placed.process: id for id, placed in self._processes.placements().items()}
        for process, handle in self._processes.running.items():
            positions = self._execution.get(firsts[process], handle, handle.forget.remote(self._execution.calls.run.id))
            for node, position in positions.items():
                self._agree(node, position, self.kept.read)
                states[node] = position.state
        if missing := [id for id in self._chunked.evolving if id not in states and self.kept.read > self.kept.origin]:
            raise StreamBrokenError(self.kept.next, f"node {missing[0]!r} has lost its state")
        return states

    # -- after a death ---------------------------------------------------------------------------------------------------------

    def settle(self) -> list[str]:
        """End what runs, and find out which processes died since the last beginning."""
        wait_for(self._execution, self._execution.stop())
        self._processes.look(SETTLE)
        now = {process: handle.actor_id for process, handle in self._processes.running.items()}
        return [process for process, actor in self._actors.items() if now.get(process) != actor]

    def go_back(self, fallen: list[str]) -> int | None:
        """From which chunk it goes on; None if that one is not kept any more."""
        placed = self._processes.placed
        lost = [first for first in self._chunked.collecting if first not in self._collected or placed[first].process in fallen]
        for first in lost:
            self._collected.pop(first, None)
        start = self.kept.start(from_origin=bool(lost) and self.kept.read > self.kept.origin)
        if start is not None:
            if start == self.kept.origin:
                self.positions = dict(self._origin)
                self.kept.taken_at(start)
            self._start, self._rewound = start, not self._chunked.evolving
        return start
