"""Memory limits of actors: looked at four times a second while there is an actor that has one, and enforced.

The resident size of the process and its children counts. The kernel's own limits would need rights that users lack; an
address-space limit would break numeric libraries, which reserve far more than they use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from soma.daemon.processes import descendants

if TYPE_CHECKING:
    from soma.daemon.machine import Child, LocalMachine

EVERY = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    def __init__(self, machine: LocalMachine) -> None:
        self._m = machine
        self._ticking = False

    def ensure(self) -> None:
        """Start looking, if somebody has a limit."""
        if not self._ticking and self._limited():
            self._ticking = True
            self._m.loop.after(EVERY, self._tick)

    def _limited(self) -> list[Child]:
        return [c for c in self._m.children.values() if c.order.memory and c.pid]

    def _tick(self) -> None:
        limited = self._limited()
        for child in limited:
            used = resident_bytes(child.pid) + sum(resident_bytes(p) for p in descendants(child.pid))
            if used > child.order.memory and not child.killed:
                child.over = used, child.order.memory
                self._m.kill(child.order.peer)
        self._ticking = bool(limited)
        if self._ticking:
            self._m.loop.after(EVERY, self._tick)


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
