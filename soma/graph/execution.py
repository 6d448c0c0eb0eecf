"""One run of a graph: does what `Walk`s ask for, and decides what an error means for the rest.

A call is sent as soon as the walk says so; what flows between two nodes goes from actor to actor. When a node fails, nothing new begins,
the other calls are cancelled and waited for, and the node's own exception is raised with a note that names it. In a stream, chunks before
the one that failed still come.

`drive` is a generator: it yields the refs that are waited for and is sent those that are settled, so that one body serves both a thread
that waits and a coroutine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import ClusterError
from soma.filters import Report
from soma.graph.calls import Calls, Refs, Sent
from soma.graph.values import Named, Value
from soma.graph.walk import Call, Read, Todo, Walk

SETTLE = 1.0
"""Seconds that cancelled calls have to end before the error of the first is raised."""

Drive = Generator[Refs, Refs, None]


class Execution:
    """Of one run, which may be many walks (a stream has one for each chunk)."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._sent: dict[ObjectRef[Any], tuple[Walk, Sent]] = {}
        self._reading: dict[ObjectRef[Any], tuple[Walk, Read]] = {}
        self._ready: deque[tuple[Walk, Todo]] = deque()
        self._chunks: dict[Walk, int] = {}
        self._turns: dict[str, int] = {}
        self._parked: dict[tuple[str, int], tuple[Walk, Call]] = {}
        self.failure: tuple[BaseException, Walk] | None = None
        """The first, in the order of chunks."""
        self.failed_node = ""

    # -- driving ---------------------------------------------------------------------------------------------------------------

    def begin(self, walk: Walk, x: Named, chunk: int | None = None) -> None:
        """Take up a walk; those of a stream are numbered."""
        if chunk is not None:
            self._chunks[walk] = chunk
        self._enqueue(walk, walk.begin(x))

    def drive(self, walk: Walk) -> Drive:
        """Until a walk is over; others that were begun go on meanwhile. Raises what failed in it, or in one before it."""
        while True:
            while self._ready:
                self._do(*self._ready.popleft())
            if self.failure is not None and self._number(self.failure[1]) <= self._number(walk):
                yield from self._stop()
                raise self.failure[0]
            self.calls.run.tell()  # costs nobody time: everybody is at work
            if walk.idle:
                return
            for ref in (yield (*self._sent, *self._reading)):
                self._settled(ref)

    def _number(self, walk: Walk) -> int:
        return self._chunks.get(walk, 0)

    def _is_over(self, walk: Walk) -> bool:
        """Nothing of it begins any more: it failed, or one before it did."""
        return self.failure is not None and self._number(self.failure[1]) <= self._number(walk)

    def finished(self, walk: Walk) -> None:
        """Its outputs were taken."""
        self._chunks.pop(walk, None)

    def _stop(self) -> Drive:
        """Something failed: end what runs, and wait for it a little."""
        until = time.monotonic() + SETTLE
        for ref in (*self._sent, *self._reading):
            cluster.cancel(ref)
        while (self._sent or self._reading) and time.monotonic() < until:
            for ref in (yield (*self._sent, *self._reading)):
                found = self._sent.pop(ref, None)
                self._reading.pop(ref, None)
                if found is not None:
                    self._ended_otherwise(found[1], ref)
        assert self.failure is not None
        for _, sent in self._sent.values():
            self.failure[0].add_note(f"node {sent.call.node!r} still runs: it cannot be interrupted, and takes new calls when it is done")

    def _ended_otherwise(self, sent: Sent, ref: ObjectRef[Any]) -> None:
        """A call that ended after another had failed: told, so that no event of a beginning is without its end."""
        try:
            report = Report(*cluster.get(ref))
        except Exception as e:
            self.calls.tell_failure(sent, e, final=True)
        else:
            self.calls.tell_done(sent, report)

    def interrupted(self) -> None:
        """Ctrl-C: cancel everything."""
        for ref in (*self._sent, *self._reading):
            cluster.cancel(ref)

    @property
    def patience(self) -> float | None:
        """How long to wait for the refs that `drive` yields."""
        return None if self.failure is None else SETTLE / 10

    def _enqueue(self, walk: Walk, todo: Iterable[Todo]) -> None:
        self._ready.extend((walk, t) for t in todo)

    # -- doing -----------------------------------------------------------------------------------------------------------------

    def _do(self, walk: Walk, todo: Todo) -> None:
        if self._is_over(walk):
            walk.failed(todo.key)
            return
        try:
            if isinstance(todo, Read):
                self._read(walk, todo)
            elif self.calls.methods.get(todo.node) == "evolve":
                self._in_turn(walk, todo)
            else:
                self._call(walk, todo)
        except Exception as e:
            self._fail(walk, todo, e)

    def _read(self, walk: Walk, todo: Read) -> None:
        value = todo.value
        if isinstance(value, Value) and value.ref is not None and value.hit is None:
            self._reading[value.ref] = walk, todo
        else:
            self._enqueue(walk, walk.read(todo.key, value.get(self.calls.cache)))

    def _in_turn(self, walk: Walk, call: Call) -> None:
        """A node whose state moves on from chunk to chunk gets them in order, whichever way each came."""
        node, chunk = call.node, self._number(walk)
        self._parked[node, chunk] = walk, call
        while (node, turn := self._turns.get(node, 0)) in self._parked:
            self._turns[node] = turn + 1
            self._call(*self._parked.pop((node, turn)))

    def _call(self, walk: Walk, call: Call) -> None:
        made = self.calls.make(call, self._chunks.get(walk))
        if isinstance(made, tuple):
            self._sent[made[0]] = walk, made[1]
        else:
            self._enqueue(walk, walk.done(call.key, made))

    # -- what comes back -------------------------------------------------------------------------------------------------------

    def _settled(self, ref: ObjectRef[Any]) -> None:
        if ref in self._reading:
            walk, read = self._reading.pop(ref)
            try:
                self._enqueue(walk, walk.read(read.key, cluster.get(ref)))
            except Exception as e:
                self._fail(walk, read, e)
            return
        walk, sent = self._sent.pop(ref)
        try:
            self._enqueue(walk, walk.done(sent.call.key, self.calls.done(sent, Report(*cluster.get(ref)))))
        except ClusterError:
            raise
        except Exception as e:
            self._failed(walk, sent, e)

    def _failed(self, walk: Walk, sent: Sent, error: Exception) -> None:
        try:
            answer = self.calls.failed(sent, error, repeat=not self._is_over(walk))
        except Exception as e:  # it could not be sent again
            answer = e
        if isinstance(answer, Exception):
            self._fail(walk, sent.call, answer, sent.attempt)
        else:
            self._sent[answer[0]] = walk, answer[1]

    def _fail(self, walk: Walk, todo: Todo, error: BaseException, attempt: int = 0) -> None:
        walk.failed(todo.key)
        if self.failure is not None and self._number(self.failure[1]) <= self._number(walk):
            return
        self.calls.run.failed_node = self.failed_node = todo.node
        if isinstance(todo, Call):
            chunk = self._chunks.get(walk)
            where = f"in node {todo.node!r}{'' if chunk is None else f', chunk {chunk}'}, attempt {attempt + 1}"
            error.add_note(f"{where}: {todo.plan.node(todo.node).label}")
        self.failure = error, walk

