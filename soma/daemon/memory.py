"""Memory limits of actors: looked at four times a second while there is an actor that has one, and enforced.

The resident size of the process and its children counts. The kernel's own limits would need rights that users lack; an
address-space limit would break numeric libraries, which reserve far more than they use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from soma.daemon.processes import descendants
from soma.errors import DeathCause

if TYPE_CHECKING:
    from soma.daemon.node import Daemon
    from soma.daemon.residents import Resident

EVERY = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._ticking = False

    def rss(self, r: Resident) -> int:
        """Bytes of memory that the actor's process has in use; 0 when there is none."""
        return resident_bytes(r.pid) if r.pid else 0

    def ensure(self) -> None:
        """Start looking, if somebody has a limit."""
        if not self._ticking and self._limited():
            self._ticking = True
            self._d.after(EVERY, self._tick)

    def _limited(self) -> list[Resident]:
        return [r for r in self._d.residents.by_id.values() if r.options.get("memory") and r.pid]

    def _tick(self) -> None:
        limited = self._limited()
        for r in limited:
            used = resident_bytes(r.pid) + sum(resident_bytes(p) for p in descendants(r.pid))
            limit = int(r.options["memory"])
            if used > limit:
                self._d.residents.end(r, DeathCause("oom", pid=r.pid, rss=used, limit=limit))
        self._ticking = bool(limited)
        if self._ticking:
            self._d.after(EVERY, self._tick)


def resident_bytes(pid: int) -> int:
    """Resident memory that is the process's own: pages of shared arenas count for nobody."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            fields = f.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0 if os.path.isdir("/proc/self") else _psutil_bytes(pid)
    return (int(fields[1]) - int(fields[2])) * _PAGE


def _psutil_bytes(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
