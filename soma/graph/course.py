"""The course of a stream: attempt after attempt, each from where the one before died, until its end.

A result is given once and in order; what its consumer asked behind is acknowledged. Holds nothing of who iterates it, so that a stream
that is dropped ends.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from soma import cluster
from soma.errors import ActorDiedError, ActorInitError, ClusterError, GraphError, ObjectLostError, StreamBrokenError
from soma.events import StreamResumed
from soma.filters import Position
from soma.graph.chunked import Chunked
from soma.graph.chunks import Source
from soma.graph.execution import SETTLE, Execution
from soma.graph.flow import Flow
from soma.graph.lasting import Lasting, StreamCheckpoint
from soma.graph.processes import Processes
from soma.graph.retention import Retention
from soma.graph.values import Value
from soma.store import Cache

LOST = (ActorDiedError, ObjectLostError, StreamBrokenError)
"""What is seen of a death: by who called, by who waited for a value, by who never saw the chunks before."""


class Course:
    """Of one stream; see `Stream` for the attributes."""

    def __init__(self, chunked: Chunked, processes: Processes, execution: Execution, source: Source, lasting: Lasting,
                 cache: Cache | None) -> None:
        self.chunked, self.processes, self.execution, self._source = chunked, processes, execution, source
        self._lasting, self._cache = lasting, cache
        self.run = execution.calls.run
        resume = lasting.resume
        self.kept: Retention[Value] = Retention(bound=lasting.retain if lasting.max_restarts else None, evolves=bool(chunked.evolving),
                                                collects=bool(chunked.collecting), origin=resume.base if resume else 0,
                                                next=resume.index if resume else 0)
        self._origin: Mapping[str, Position] = resume.positions if resume else {}
        self._flow: Flow | None = None
        self._tail_given = self.ended = False
        self.states: dict[str, Any] = {}
        self.restarts = 0

    def results(self) -> Generator[Any, None, None]:
        """All that is to be given."""
        flow = self._begin()
        while not self.ended:
            try:
                yield from self._attempt(flow)
            except LOST as e:
                self._recover(flow, e)

    def _begin(self) -> Flow:
        lasting, calls = self._lasting, self.execution.calls
        calls.due = lasting.is_due
        calls.repeats = not lasting.max_restarts
        if lasting.max_restarts:
            self.processes.look(SETTLE / 10)
            self.processes.secure()
        self._flow = Flow(self.chunked, self.processes, self.execution, self._source, self.kept, lasting=lasting.max_restarts > 0,
                          origin=self._origin)
        return self._flow

    def _attempt(self, flow: Flow) -> Generator[Any, None, None]:
        chunked, kept = self.chunked, self.kept
        for number, outputs, positions in flow.chunks():
            wanted = chunked.leaves if number == kept.next else ()
            result = self._result({id: outputs[id] for id in wanted}) if wanted else None
            kept.give(number)
            if positions:
                flow.positions = dict(positions)
                kept.taken_at(number + 1)
            if wanted:
                yield result
                self._acknowledged()
            del result, outputs
        if kept.read < kept.next:
            raise GraphError(f"resume: {kept.next} results were given already, and the source has only {kept.read} chunks")
        if chunked.whole and not self._tail_given:
            result = self._result(flow.at_the_end())
            self._tail_given = True
            yield result
        self.states = flow.end()
        self.ended = True
        self._write()

    def _result(self, outputs: dict[str, Value]) -> Any:
        found = {id: value.get(self._cache) for id, value in outputs.items()}
        return found if len(self.chunked.plan.leaves) > 1 else found.popitem()[1]

    # -- how far it is ---------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> StreamCheckpoint:
        kept, formula = self.kept, self.chunked.plan.formula()
        if self.chunked.collecting:
            return StreamCheckpoint(kept.next, 0, formula)
        if not self.chunked.evolving:
            return StreamCheckpoint(kept.next, kept.next, formula)
        positions = self._flow.positions if self._flow is not None else self._origin
        return StreamCheckpoint(kept.next, kept.base, formula, dict(positions))

    def _acknowledged(self) -> None:
        """The next result is asked for: who asks has done with the one before."""
        if self._lasting.checkpoint_path is not None and self._lasting.is_due(self.kept.next - 1):
            self._write()

    def _write(self) -> None:
        if self._lasting.checkpoint_path is not None:
            self.checkpoint().save(self._lasting.checkpoint_path, allow_pickle=self._lasting.allow_pickle)

    # -- after a death, or before its end --------------------------------------------------------------------------------------

    def _recover(self, flow: Flow, error: Exception) -> None:
        """Go on, or raise what happened."""
        lasting, at = self._lasting, self.kept.next
        refused = isinstance(error, ActorInitError) and error.reason == "init"  # its constructor raised, and would again
        if not lasting.max_restarts or self.execution.cancelled or error is flow.reading_failed or refused:
            raise error
        fallen = flow.settle()
        self.restarts += max(1, len(fallen))
        if self.restarts > lasting.max_restarts:
            raise StreamBrokenError(at, f"its processes died {self.restarts} times, and max_restarts={lasting.max_restarts}") from error
        start = flow.go_back(fallen)
        if start is None:
            raise StreamBrokenError(at, f"what died had seen chunks that are not kept any more (retain={lasting.retain})") from error
        self.run.emit(StreamResumed, chunk=at, replayed_from=start, restarts=self.restarts, error=str(error)[:2000],
                      error_type=type(error).__name__)

    def abandon(self) -> None:
        """It did not come to its end: cancel what runs, and let processes forget it."""
        try:
            if cluster.is_initialized():
                self.execution.interrupted()
                for handle in self.processes.running.values():
                    handle.forget.remote(self.run.id)
        except ClusterError:
            return  # the cluster is gone, and what its filters kept is too
