"""`get` and `wait`: from refs to values, with timeouts, Ctrl-C and the deadlines of calls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from soma.actors.context import CALL
from soma.actors.objects import Entry, Status
from soma.actors.refs import ObjectRef
from soma.actors.sharing import Port, Sharing
from soma.actors.waiting import Waiting
from soma.errors import GetTimeoutError, ObjectLostError
from soma.ids import CallId


class Retrieval:
    """Waits for entries and opens them. `cancel` ends a call of this process."""

    def __init__(self, port: Port, sharing: Sharing, waiting: Waiting, cancel: Callable[[CallId], None]) -> None:
        self._port, self._sharing, self._waiting, self._cancel = port, sharing, waiting, cancel

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """All values in order; the first error in that order is raised as soon as it is known."""
        entries = self.entries(refs)
        if len(entries) == 1:
            entry = entries[0]
            if entry.status is Status.PENDING:
                self._wait(lambda: entry.status is not Status.PENDING, entries, timeout, every=True)
            return [self._sharing.value(entry)]
        position = 0

        def settled() -> bool:
            nonlocal position
            while position < len(entries) and entries[position].status is not Status.PENDING:
                if entries[position].status is not Status.VALUE:
                    return True
                position += 1
            return position == len(entries)

        if not settled():
            self._wait(settled, entries, timeout, every=True)
        return [self._sharing.value(e) for e in entries[:position + 1]]

    def entries(self, refs: Sequence[ObjectRef[Any]]) -> list[Entry]:
        """The entries of refs; values that others own are asked for."""
        home = self._sharing.home
        with self._port.lock:
            for ref in refs:
                if ref._home is not home:
                    raise ObjectLostError(f"object {ref.hex()} belongs to a cluster that was shut down")
            entries = [self._sharing.entry(r.id, r.owner, r.producer) for r in refs]
            for entry in entries:
                self._sharing.want(entry)
        return entries

    def _wait(self, settled: Callable[[], bool], entries: list[Entry], timeout: float | None, *, every: bool) -> None:
        """Wait for values; raises GetTimeoutError, DeadlockError, or KeyboardInterrupt after cancelling them."""
        deadlines = [e.deadline for e in entries if e.deadline is not None and e.status is Status.PENDING]
        own = None if timeout is None else time.monotonic() + timeout
        end = min([*deadlines, *([] if own is None else [own])], default=None)
        left = None if end is None else max(0.0, end - time.monotonic())
        try:
            done = self._waiting.wait(settled, left, entries, every, CALL.get())
        except KeyboardInterrupt:
            for e in entries:
                if e.status is Status.PENDING and e.owner == self._port.me:
                    self._cancel(CallId(e.id[:16]))
            raise
        if done:
            return
        if own is not None and end == own:
            missing = sum(e.status is Status.PENDING for e in entries)
            raise GetTimeoutError(f"{missing} of {len(entries)} values were not there after {timeout:g} s")
        for e in entries:
            if e.deadline is not None and e.deadline <= time.monotonic() and e.status is Status.PENDING:
                error = GetTimeoutError("the call took longer than its timeout= and was cancelled")
                self._sharing.settle(e, Status.FAILED, error=error)  # first: one that was not sent is settled by its cancel
                self._cancel(CallId(e.id[:16]))
        if not settled():
            self._wait(settled, entries, None if own is None else max(0.0, own - time.monotonic()), every=every)

    def wait(self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None) -> set[int]:
        """Positions of settled refs, at least `num_returns` unless time runs out."""
        entries = self.entries(refs)
        count = 0

        def one_more() -> None:
            nonlocal count
            count += 1

        with self._port.lock:
            watched = [e for e in entries if self._sharing.table.watch(e, one_more)]
            count += len(entries) - len(watched)
        try:
            with contextlib.suppress(GetTimeoutError):  # wait() says it by what it returns
                self._wait(lambda: count >= num_returns, entries, timeout, every=False)
        finally:
            with self._port.lock:
                for e in watched:
                    self._sharing.table.unwatch(e, one_more)
        return {i for i, e in enumerate(entries) if e.status is not Status.PENDING}

    def on_done(self, ref: ObjectRef[Any], fn: Callable[[], None]) -> None:
        """Call `fn` once the ref is settled; at once if it is."""
        with self._port.lock:
            watched = self._sharing.table.watch(self.entries([ref])[0], fn)
        if watched:
            self._port.inbox.poke_pump()
        else:
            fn()
