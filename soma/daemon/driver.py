"""The driver's runtime: a process's part in the cluster that it started, and will end."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

from soma.actors import (
    travel,  # noqa: F401 - teaches the codec refs and handles
)
from soma.actors.context import Identity
from soma.actors.runtime import Runtime
from soma.daemon.launch import Lifeline
from soma.errors import ClusterError, GetTimeoutError
from soma.ids import new_hex
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.endpoint import ZmqWire

END_TIMEOUT = 5.0


class DriverRuntime(Runtime):
    """A `Runtime` that owns the daemon."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], connection: socket.socket, told: dict[str, Any],
                 ready: dict[str, Any]) -> None:
        identity = Identity(f"d-{new_hex()}", "driver", told["node"], told["settings"]["namespace"], ready["totals"])
        super().__init__(ZmqWire(directory), identity, Arena(ready["object_store_memory"], directory))
        self.daemon_pid = process.pid
        self._lifeline = Lifeline(process, connection, directory, self.cluster_lost)
        self._lifeline.on_exit = self.shutdown
        self._undo_interrupts = self.inbox.guard_interrupts()

    def shutdown(self) -> None:
        """End the cluster: idempotent, from any thread."""
        with self.port.lock:
            if self._ending:
                return
            self._ending = True
        self._undo_interrupts()
        if self.lost is None:
            try:
                self.request(lambda r: m.Ask(r, self.port.me, "shutdown"), timeout=END_TIMEOUT)
            except (ClusterError, GetTimeoutError):
                self._lifeline.kill()
        super().shutdown()
        self._lifeline.end(END_TIMEOUT)

    _ending = False
