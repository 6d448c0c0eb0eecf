"""One run of a graph: does what `Walk`s ask for, and decides what an error means for the rest.

A call is sent as soon as the walk says so; what flows between two nodes goes from actor to actor. When a node fails, nothing new begins,
the other calls are cancelled and waited for, and the node's own exception is raised with a note that names it. In a stream, chunks before
the one that failed still come.

Another thread may cancel it: first all calls by request, then the processes of those that do not end are ended by force.

`drive` is a generator: it yields the refs that are waited for and is sent those that are settled, so that one body serves both a thread
that waits and a coroutine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, ClusterError, TaskCancelledError
from soma.filters import Report
from soma.graph.calls import Calls, Refs, Sent
from soma.graph.processes import Handle
from soma.graph.values import Named, Value
from soma.graph.walk import Call, Read, Todo, Walk

SETTLE = 1.0
"""Seconds that cancelled calls have to end before the error of the first is raised."""

GRACE = 0.3
"""Seconds that cancelled calls have to end by themselves before force is used, where it may be."""

T = TypeVar("T")
Drive = Generator[Refs, Refs, None]


class Execution:
    """Of one run, which may be many walks (a stream has one for each chunk)."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._lock = threading.RLock()
        """Guards what is waited for: who cancels is another thread."""
        self._sent: dict[ObjectRef[Any], tuple[Walk, Sent]] = {}
        self._reading: dict[ObjectRef[Any], tuple[Walk, Read]] = {}
        self._others: dict[ObjectRef[Any], tuple[str, Handle]] = {}
        self._walks: set[Walk] = set()
        self.cancelled = self._may_force = self._forced = self._stopping = False
        self.begin_again(0)
        self.failed_node = ""

    def begin_again(self, first: int) -> None:
        """Nothing is under way; of a stream, the next chunk is number `first`."""
        self.let_go()
        self._ready: deque[tuple[Walk, Todo]] = deque()
        self._chunks: dict[Walk, int] = {}
        self._first = first
        self._turns: dict[str, int] = {}
        self._parked: dict[tuple[str, int], tuple[Walk, Call]] = {}
        self.failure: tuple[BaseException, Walk] | None = None
        """The first, in the order of chunks."""

    def let_go(self) -> None:
        """Whatever is under way: nobody waits for it any more."""
        with self._lock:
            self._sent, self._reading = {}, {}
        for walk in self._walks:
            walk.drop()
        self._walks.clear()

    # -- driving ---------------------------------------------------------------------------------------------------------------

    def begin(self, walk: Walk, x: Named, chunk: int | None = None) -> None:
        """Take up a walk; those of a stream are numbered."""
        self._walks.add(walk)
        if chunk is not None:
            self._chunks[walk] = chunk
        self._enqueue(walk, walk.begin(x))

    def drive(self, walk: Walk) -> Drive:
        """Until a walk is over; others that were begun go on meanwhile. Raises what failed in it, or in one before it."""
        while True:
            while self._ready:
                self._do(*self._ready.popleft())
            if self.cancelled:
                yield from self.stop()
                raise self.cancellation()
            if self.failure is not None and self._number(self.failure[1]) <= self._number(walk):
                yield from self.stop()
                for _, sent in self._sent.values():
                    self.failure[0].add_note(f"node {sent.call.node!r} still runs: it cannot be interrupted, and takes new calls when it "
                                             "is done")
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
        return self.cancelled or (self.failure is not None and self._number(self.failure[1]) <= self._number(walk))

    def finished(self, walk: Walk) -> None:
        """Its outputs were taken."""
        self._chunks.pop(walk, None)
        self._walks.discard(walk)

    def stop(self) -> Drive:
        """End what runs, and wait for it a little."""
        began = time.monotonic()
        self._stopping = True
        try:
            self.interrupted()
            while (self._sent or self._reading) and (passed := time.monotonic() - began) < SETTLE:
                if passed > GRACE and self._may_force and not self._forced:
                    self.force()
                for ref in (yield (*self._sent, *self._reading)):
                    with self._lock:
                        found = self._sent.pop(ref, None)
                        self._reading.pop(ref, None)
                    if found is not None:
                        self._ended_otherwise(found[1], ref)
        finally:
            self._stopping = False

    def _ended_otherwise(self, sent: Sent, ref: ObjectRef[Any]) -> None:
        """A call that ended after another had failed: told, so that no event of a beginning is without its end."""
        try:
            report = Report(*cluster.get(ref))
        except Exception as e:
            if isinstance(e, ActorDiedError):
                self.calls.processes.died(sent.call.node, sent.handle)
            self.calls.tell_failure(sent, e, final=True)
        else:
            self.calls.tell_done(sent, report)

    @property
    def patience(self) -> float | None:
        """How long to wait for the refs that `drive` yields."""
        return SETTLE / 10 if self._stopping else None

    # -- ending it from outside ------------------------------------------------------------------------------------------------

    def interrupted(self) -> None:
        """Ctrl-C, or worse: ask everything that runs to end."""
        for ref in self._waited_for():
            cluster.cancel(ref)

    def cancel(self, *, force: bool) -> None:
        """Somebody wants it to end: whoever drives it raises `cancellation()`. `force`: what does not end may be made to."""
        with self._lock:
            self.cancelled, self._may_force = True, self._may_force or force
        self.interrupted()

    def force(self) -> None:
        """End the processes of the calls that did not end when they were asked to."""
        with self._lock:
            self._forced = True
            runs = {ref: (s.call.node, s.handle) for ref, (_, s) in self._sent.items()} | self._others
        for ref, (first, handle) in runs.items():
            cluster.cancel(ref, force=True)
            self.calls.processes.died(first, handle)

    def cancellation(self) -> TaskCancelledError:
        return TaskCancelledError(f"{self.calls.run.what} {self.calls.run.id} was cancelled")

    def get(self, first: str, handle: Handle, ref: ObjectRef[T]) -> T:
        """The value of a call to a unit that no walk made; it is cancelled with the others."""
        with self._lock:
            self._others[ref] = first, handle
        try:
            if self.cancelled:
                cluster.cancel(ref, force=self._forced)
            return cluster.get(ref)
        except (TaskCancelledError, ActorDiedError) as e:
            if isinstance(e, ActorDiedError):
                self.calls.processes.died(first, handle)
            if self.cancelled:
                raise self.cancellation() from e
            raise
        finally:
            with self._lock:
                del self._others[ref]

    def _waited_for(self) -> tuple[ObjectRef[Any], ...]:
        with self._lock:
            return (*self._sent, *self._reading, *self._others)

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
            with self._lock:
                self._reading[value.ref] = walk, todo
        else:
            self._enqueue(walk, walk.read(todo.key, value.get(self.calls.cache)))

    def _in_turn(self, walk: Walk, call: Call) -> None:
        """A node whose state moves on from chunk to chunk gets them in order, whichever way each came."""
        node, chunk = call.node, self._number(walk)
        self._parked[node, chunk] = walk, call
        while (node, turn := self._turns.get(node, self._first)) in self._parked:
            self._turns[node] = turn + 1
            self._call(*self._parked.pop((node, turn)))

    def _call(self, walk: Walk, call: Call) -> None:
        made = self.calls.make(call, self._chunks.get(walk))
        if isinstance(made, tuple):
            self._is_sent(walk, *made)
        else:
            self._enqueue(walk, walk.done(call.key, made))

    def _is_sent(self, walk: Walk, ref: ObjectRef[Any], sent: Sent) -> None:
        with self._lock:
            self._sent[ref] = walk, sent
            late = self.cancelled
        if late:  # whoever cancelled did not see it
            cluster.cancel(ref)

    # -- what comes back -------------------------------------------------------------------------------------------------------

    def _settled(self, ref: ObjectRef[Any]) -> None:
        if ref in self._reading:
            with self._lock:
                walk, read = self._reading.pop(ref)
            try:
                self._enqueue(walk, walk.read(read.key, cluster.get(ref)))
            except Exception as e:
                self._fail(walk, read, e)
            return
        with self._lock:
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
            self._is_sent(walk, *answer)

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

