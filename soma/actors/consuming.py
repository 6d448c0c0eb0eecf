"""Streams that this process consumes: the thin shell around `streams.Stream`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from soma.actors.calls import Pending
from soma.actors.objects import Status
from soma.actors.refs import ObjectRef, ObjectRefGenerator, RefHome
from soma.actors.sharing import Port, Sharing
from soma.actors.streams import Stream
from soma.errors import GetTimeoutError, TaskCancelledError
from soma.ids import CallId, ObjectId, object_id
from soma.transport import messages as m
from soma.transport.frames import pack

_FAILURE = 1 << 31
"""Added to the index of an item that stands for a failure made in this process."""


class Consumer:
    """Open streams by their call. `producer_of` gives the peer that runs a call, `cancel` ends one."""

    def __init__(self, port: Port, sharing: Sharing, home: RefHome, producer_of: Callable[[CallId], str | None],
                 cancel: Callable[[CallId], Any]) -> None:
        self._port, self._sharing, self._home = port, sharing, home
        self._producer_of, self._cancel = producer_of, cancel
        self._streams: dict[CallId, Stream] = {}
        self._dropped: deque[ObjectId] = deque()

    @property
    def awaited(self) -> bool:
        """A callback waits for an item: somebody must read the mailbox. Asked by the pump while other threads open streams."""
        return any(s.waiters for s in list(self._streams.values()))

    def open(self, call: Pending, producer: str) -> ObjectRefGenerator[Any]:
        with self._port.lock:
            self._streams[call.call_id] = Stream()
        return ObjectRefGenerator(object_id(call.call_id), producer, self._home)

    # -- what comes (the lock is held) -------------------------------------------------------------------------------------

    def on_reply(self, call: Pending, msg: m.Reply, frames: list[bytes]) -> None:
        """An item, an error (the last item), or the end."""
        stream = self._streams.get(call.call_id)
        if stream is None:
            self._sharing.let_go(self._sharing.adopt(msg.refs))
            return
        told: list[Callable[[], None]] = []
        if msg.status in (m.OK, m.ERROR):
            id = object_id(call.call_id, msg.index)
            entry = self._sharing.table.add(id, self._port.me, "")
            entry.local += 1  # the stream's own, until the item is taken
            self._sharing.arrived(entry, msg.status, frames, msg.refs)
            told += stream.put(id)
        elif msg.status == m.CANCELLED:
            self.fail(call, TaskCancelledError(f"{call.label or call.method} was cancelled"))
        if msg.last:
            told += stream.end()
        for fn in told:
            fn()

    def fail(self, call: Pending, error: BaseException) -> None:
        """The stream ends with an error: its last item raises it."""
        stream = self._streams.get(call.call_id)
        if stream is None or stream.ended:
            return
        id = object_id(call.call_id, _FAILURE + stream.taken + len(stream.ready))
        entry = self._sharing.table.add(id, self._port.me, "")
        entry.local += 1
        self._sharing.settle(entry, Status.FAILED, error=error)
        for fn in [*stream.put(id), *stream.end()]:
            fn()

    # -- what the user does --------------------------------------------------------------------------------------------------

    def next(self, generator: ObjectRefGenerator[Any], timeout: float | None, lost: Callable[[], BaseException | None]) -> ObjectRef[Any]:
        """The next item's ref; StopIteration at the end."""
        call_id = CallId(generator.id[:16])
        stream = self._streams.get(call_id)
        if stream is None:
            raise StopIteration
        if not self._port.inbox.wait_until(lambda: bool(stream.ready) or stream.ended or lost() is not None, timeout):
            raise GetTimeoutError("no further item yet")
        with self._port.lock:
            item = stream.take()
            if item is None:
                raise StopIteration if stream.ended else lost() or StopIteration
            taken, peer = stream.credit(), self._producer_of(call_id)
            if taken is not None and peer is not None:
                self._port.outlet.send(peer, [pack(m.Credit(call_id, taken))])
        return ObjectRef(item, self._port.me, generator.producer, self._home)  # takes over the stream's count

    def on_item(self, generator: ObjectRefGenerator[Any], fn: Callable[[], None]) -> None:
        """Call `fn` when `next` would not wait."""
        with self._port.lock:
            stream = self._streams.get(CallId(generator.id[:16]))
            if stream is not None and not stream.ready and not stream.ended:
                stream.waiters.append(fn)
                self._port.inbox.poke_pump()
                return
        fn()

    def drop(self, stream_id: ObjectId) -> None:
        """Called from a finalizer: no lock, no socket; `collect` does the rest."""
        self._dropped.append(stream_id)

    def collect(self) -> None:
        """Free what was not taken of dropped streams and stop their producers."""
        while self._dropped:
            call_id = CallId(self._dropped.popleft()[:16])
            with self._port.lock:
                stream = self._streams.pop(call_id, None)
                if stream is None:
                    continue
                self._sharing.let_go(tuple(stream.ready))
                if not stream.ended:
                    self._cancel(call_id)
