"""Which processes belong to a cluster: a scan of the machine, nothing is changed.

Every process of a cluster inherits the environment variable SOMA_CLUSTER; it survives double forks, `setsid` and the death of
parents, so a scan of /proc finds what no process tree shows. A process that wiped its environment is found as a descendant.
Only processes of this user are looked at. Zombies count as gone: nothing of them is left but a status for their parent.
Where there is no /proc, psutil stands in (imported only there: it would cost `init` 15 ms).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

MARK = "SOMA_CLUSTER"
"""Environment variable that holds the cluster's id."""

_LINUX = sys.platform.startswith("linux")
_GONE = (FileNotFoundError, ProcessLookupError)


def members(cluster: str) -> set[int]:
    """Living processes of this user that carry the cluster's mark, this one included."""
    return set(scan(cluster))


def descendants(pid: int) -> set[int]:
    """Living children of `pid`, their children, and so on; without `pid`."""
    children: dict[int, list[int]] = {}
    living = set()
    for p, parent, _, alive in _stats():
        children.setdefault(parent, []).append(p)
        if alive:
            living.add(p)
    found: set[int] = set()
    frontier = [pid]
    while frontier:
        fresh = [c for p in frontier for c in children.get(p, ()) if c not in found and c != pid]
        found.update(fresh)
        frontier = fresh
    return found & living


def children(pid: int) -> set[int]:
    """Children of `pid`, those that are gone and not reaped included."""
    return {p for p, parent, _, _ in _stats() if parent == pid}


def group_members(group: int) -> set[int]:
    """Living processes of a process group, of whatever user."""
    return {pid for pid, _, g, alive in _stats() if g == group and alive}


def scan(cluster: str) -> Iterator[int]:
    """Members as they are found, the newest first: of processes that fork and leave, the last has the most time to live."""
    pids = sorted((int(e) for e in os.listdir("/proc") if e.isdigit()), reverse=True) if _LINUX else _psutil_pids()
    return (pid for pid in pids if carries(pid, cluster))


def newest_pid() -> int:
    """The pid given out last (threads take some too). While it stays the same nobody forked, so a scan missed nobody."""
    if not _LINUX:
        return 0
    with open("/proc/loadavg", "rb") as f:
        return int(f.read().split()[4])


def carries(pid: int, cluster: str) -> bool:
    """Whether a living process of this user has the cluster's mark."""
    if not _LINUX:
        return _psutil_carries(pid, cluster)
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        with open(f"/proc/{pid}/environ", "rb") as f:
            environ = f.read()
    except (*_GONE, PermissionError):  # gone meanwhile, or not ours to look at
        return False
    return f"{MARK}={cluster}".encode() in environ.split(b"\0")


def _stats() -> Iterator[tuple[int, int, int, bool]]:
    """(pid, parent's pid, process group, whether it is alive) of every process."""
    if not _LINUX:
        yield from _psutil_stats()
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as f:
                    state, parent, group = f.read().rpartition(b")")[2].split()[:3]
            except _GONE:
                continue
            yield int(entry), int(parent), int(group), state not in (b"Z", b"X")


def _psutil_pids() -> Iterator[int]:
    import psutil

    return iter(psutil.pids())


def _psutil_carries(pid: int, cluster: str) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE
                    and process.environ().get(MARK) == cluster)
    except (psutil.Error, OSError):  # gone meanwhile, or not ours to look at
        return False


def _psutil_stats() -> Iterator[tuple[int, int, int, bool]]:
    import psutil

    for process in psutil.process_iter():
        try:
            yield process.pid, process.ppid(), os.getpgid(process.pid), process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            continue
