"""The driver's runtime: a process's part in the cluster that it started, and will end."""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType
from typing import Any

from soma.actors import (
    travel,  # noqa: F401 - teaches the codec refs and handles
)
from soma.actors.context import Identity
from soma.actors.runtime import Runtime
from soma.daemon.launch import Daemon
from soma.errors import ClusterError, GetTimeoutError
from soma.ids import new_hex
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.endpoint import ZmqWire

END_TIMEOUT = 5.0


class DriverRuntime(Runtime):
    """A `Runtime` that owns the daemon."""

    def __init__(self, daemon: Daemon, told: dict[str, Any], ready: dict[str, Any]) -> None:
        identity = Identity(f"d-{new_hex()}", "driver", told["node"], told["settings"]["namespace"], ready["totals"])
        super().__init__(ZmqWire(daemon.directory), identity, Arena(ready["object_store_memory"], daemon.directory),
                         told["settings"]["tags"])
        self._daemon = daemon
        self.daemon_pid = daemon.pid
        self._ending = threading.Lock()
        self._undo_interrupts = self.interrupts.guard_ctrl_c(self.mailbox.wake_fd())
        daemon.watch(self.cluster_lost, self.shutdown)

    def shutdown(self) -> None:
        """End the cluster: idempotent, from any thread; all but the first caller return at once.

        In a signal handler or finalizer that interrupted one of soma's own functions the locks may be ours: then another thread
        does it, while this one returns to what it did and finds it settled.
        """
        if not self._ending.acquire(blocking=False):
            return
        self._undo_interrupts()
        if _interrupted_soma():
            threading.Thread(target=self._end, name="soma-end").start()
        else:
            self._end()

    def _end(self) -> None:
        if self.lost is None:
            try:
                self.request(lambda r: m.Ask(r, self.port.me, "shutdown"), timeout=END_TIMEOUT)
                self.side.wait_last(END_TIMEOUT / 5)
            except (ClusterError, GetTimeoutError):
                self._daemon.kill()
        super().shutdown()
        self._daemon.end(END_TIMEOUT)


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _interrupted_soma() -> bool:
    """Whether the user's code that called us was itself called in the middle of a function of soma's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame is not None
