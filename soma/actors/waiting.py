"""A process's waits for values: short ones are its own affair, longer ones the daemon hears of.

An actor that waits in its only thread gives its CPU back meanwhile (so nested calls cannot starve), and the daemon looks
whether waits form a cycle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from soma.actors.objects import Entry, Status
from soma.errors import DeadlockError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.frames import pack

if TYPE_CHECKING:
    from soma.actors.sharing import Port

PATIENCE = 0.002
"""Seconds a wait may last before the daemon is told."""


class Waiting:
    """The one place where this process blocks for values."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._epoch = 0
        self._deadlock: tuple[int, str] | None = None
        self.serial = False
        """Set in actors that run one call at a time: their waits block the actor."""

    def on_deadlock(self, msg: m.Deadlock, frames: list[bytes]) -> None:
        self._deadlock = (msg.epoch, msg.text)

    def wait(self, settled: Callable[[], bool], timeout: float | None, entries: Sequence[Entry], every: bool,
             call: m.Call | None) -> bool:
        inbox = self._port.inbox
        if not self.serial or call is None or threading.current_thread() is not threading.main_thread():
            return inbox.wait_until(settled, timeout)
        short = PATIENCE if timeout is None else min(PATIENCE, timeout)
        if inbox.wait_until(settled, short):
            return True
        if timeout is not None and timeout <= PATIENCE:
            return False
        self._epoch += 1
        epoch = self._epoch
        on = tuple((e.producer, bytes(e.id[:16])) for e in entries if e.status is Status.PENDING and e.producer)[:500]
        self._port.outlet.send(DAEMON, [pack(m.Blocked(self._port.me, epoch, on, every))])
        try:
            done = inbox.wait_until(lambda: settled() or self._stuck(epoch), None if timeout is None else timeout - short)
        finally:
            self._port.outlet.send(DAEMON, [pack(m.Unblocked(self._port.me, epoch))])
        if done and not settled():
            assert self._deadlock is not None
            raise DeadlockError(self._deadlock[1])
        return done

    def _stuck(self, epoch: int) -> bool:
        return self._deadlock is not None and self._deadlock[0] == epoch
