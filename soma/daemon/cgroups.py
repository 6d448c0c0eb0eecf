"""What a container allows this process, by cgroup v1 or v2: CPUs and bytes.

A limit may stand on the group itself or on any group above it; the least counts. Pure: it is given the texts of
/proc/self/cgroup and /proc/self/mountinfo and a way to read files, so every layout can be tested anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

Read = Callable[[PurePosixPath], str | None]
"""The text of a file, or None when there is none."""

_UNLIMITED = 2**60  # v1 writes "no limit" as the largest number of pages


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    cpus: float | None = None
    memory: int | None = None


def own_limits() -> Limits:
    """Those of this process; none where there are no cgroups."""
    groups, mounts = read_file(PurePosixPath("/proc/self/cgroup")), read_file(PurePosixPath("/proc/self/mountinfo"))
    return Limits() if groups is None or mounts is None else find_limits(groups, mounts, read_file)


def read_file(path: PurePosixPath) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:  # no such file, or a cgroup that vanished or is closed to us: it tells no limit
        return None


def find_limits(groups: str, mounts: str, read: Read) -> Limits:
    """The least of all limits on the way from the process's groups up to the roots that can be seen.

    Args:
        groups: text of /proc/self/cgroup.
        mounts: text of /proc/self/mountinfo.
        read: how to read the files in the groups.
    """
    cpus: list[float] = []
    memory: list[int] = []
    for controllers, folder in _folders(groups, mounts):
        if controllers is None:
            cpus += _cpus(*(read(folder / "cpu.max") or "max").split()[:2])
            memory += _bytes(read(folder / "memory.max"))
        if controllers is not None and "cpu" in controllers:
            cpus += _cpus(read(folder / "cpu.cfs_quota_us") or "-1", read(folder / "cpu.cfs_period_us") or "100000")
        if controllers is not None and "memory" in controllers:
            memory += _bytes(read(folder / "memory.limit_in_bytes"))
    return Limits(min(cpus, default=None), min(memory, default=None))


def _folders(groups: str, mounts: str) -> Iterator[tuple[frozenset[str] | None, PurePosixPath]]:
    """(controllers, folder) for each group of the process and all above it; v2 has no controllers in its name: None."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        controllers = None if number == "0" and not names else frozenset(names.split(","))
        for root, point in _mounts(mounts, controllers):
            own = PurePosixPath(path)
            # in a container the mount may show a part of the tree only, or the path may lie outside of it ("/../..")
            inside = own.relative_to(root) if own.is_relative_to(root) else PurePosixPath()
            if ".." in inside.parts:
                inside = PurePosixPath()
            folder = point / inside
            yield controllers, folder
            for _ in inside.parts:
                folder = folder.parent
                yield controllers, folder


def _mounts(mounts: str, controllers: frozenset[str] | None) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """(root of what is mounted, where) of the hierarchies with these controllers."""
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if controllers is None else kind[0] == "cgroup" and controllers <= set(kind[2].split(",")):
            yield PurePosixPath(_unescaped(fields[3])), PurePosixPath(_unescaped(fields[4]))


def _unescaped(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _cpus(quota: str, period: str = "100000") -> list[float]:
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return []
    return [cpus] if cpus > 0 else []


def _bytes(text: str | None) -> list[int]:
    try:
        n = int(text or "max")
    except ValueError:  # "max"
        return []
    return [n] if 0 < n < _UNLIMITED else []
