"""Ending and reaping processes: nothing of a cluster outlives it.

`kill_all` ends what `processes` finds; `become_subreaper` and `die_with` make the kernel help; `reap_*` and `death_cause` turn
wait statuses into words. Processes are signalled through a sentinel that named them first, so a recycled pid is never hit.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import TypedDict, Unpack

from soma.daemon.processes import carries, descendants, group_members, members, newest_pid, scan
from soma.daemon.sentinel import Sentinel, wait_all
from soma.errors import DeathCause

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_AT_ONCE = 64  # sentinels held open together; more processes than that are ended in turns
_DOUBTS = 25  # empty scans during which somebody on this machine forked: that many are enough to believe them


def kill_all(cluster: str, *, spare: Iterable[int] = (), deadline: float, below: int | None = None) -> set[int]:
    """SIGKILL every process of the cluster until two scans in a row find none. Returns those that are still there.

    Processes that fork meanwhile are found by the next scan. Those that fork and leave faster than a scan goes are caught by
    their process group: the kernel kills a group in one piece, no fork slips through. There is no SIGSTOP first; it would
    have to win the same race. A process in uninterruptible sleep can outlast any deadline.

    Args:
        cluster: the id in the mark.
        spare: pids to leave alone; this process always is.
        deadline: a value of `time.monotonic()`.
        below: also every descendant of this pid, marked or not. Nothing escapes when that is a subreaper.
    """
    spared = frozenset({*spare, os.getpid()})
    passes, empty_scans, doubtful_scans = 0, 0, 0
    while empty_scans < 2:
        newest = newest_pid()
        if _kill_pass(cluster, spared, below, deadline, with_groups=passes > 0):
            empty_scans = doubtful_scans = 0
            if time.monotonic() >= deadline:
                left = members(cluster) | (descendants(below) if below is not None else set())
                return left - spared
        elif newest == newest_pid() or doubtful_scans >= _DOUBTS:
            empty_scans += 1
        else:
            doubtful_scans += 1  # somebody forked meanwhile: perhaps one of ours, from a pid not yet seen to one seen before
        passes += 1
    return set()


def _kill_pass(cluster: str, spared: frozenset[int], below: int | None, deadline: float, *, with_groups: bool) -> bool:
    """One scan; waits for what it killed, at most until the deadline. Whether there was anything."""
    found = False
    with contextlib.ExitStack() as stack:
        waiting: list[Sentinel] = []
        # those below first: they are not below any more once the one between is dead
        unmarked = sorted(descendants(below)) if below is not None else []
        for pid, mark in itertools.chain(((pid, None) for pid in unmarked), ((pid, cluster) for pid in scan(cluster))):
            if len(waiting) >= _AT_ONCE:
                wait_all(waiting, deadline)
                stack.close()
                waiting.clear()
            sentinel = None if pid in spared else _kill(pid, mark, spared, with_groups)
            if sentinel is not None:
                found = True
                waiting.append(stack.enter_context(sentinel))
        wait_all(waiting, deadline)
    return found


def _kill(pid: int, mark: str | None, spared: frozenset[int], with_group: bool) -> Sentinel | None:
    """SIGKILL for a process, perhaps for its group too. Its sentinel, or None if it was gone or is not what the scan saw."""
    sentinel = Sentinel(pid)
    # from here on the pid cannot mean another process unnoticed; look again, for it may have changed hands since the scan
    if mark is None or carries(pid, mark):
        if mark is not None and with_group:
            _kill_group(sentinel, mark, spared)
        if sentinel.send(signal.SIGKILL):
            return sentinel
    sentinel.close()
    return None


def _kill_group(sentinel: Sentinel, mark: str, spared: frozenset[int]) -> None:
    """SIGKILL for a process's whole group, if everybody in it has the mark and none is to be spared."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone meanwhile, or of another user
        group = os.getpgid(sentinel.pid)
        if group <= 1 or sentinel.exited():  # 0 and 1 would mean our own group, and everybody
            return
        seen = group_members(group)
        unmarked = {pid for pid in seen if not carries(pid, mark)}
        # one that has no mark any more because it is gone does not count
        if not seen & spared and not (unmarked and unmarked & group_members(group)):
            os.killpg(group, signal.SIGKILL)


# -- family -------------------------------------------------------------------------------------------------------------


def become_subreaper() -> bool:
    """Orphaned descendants become children of this process, not of init, so it can end and reap them. False: no Linux."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, signum: int = signal.SIGKILL) -> bool:
    """Let the kernel send this process `signum` when its parent is gone. False: no Linux, so somebody must watch.

    `parent` is the pid that the caller knows as its parent; when it died before this call, the signal is sent at once.
    The kernel means the *thread* that forked: call this only in children of a thread that lives as long as its process.
    It is forgotten over fork, and over exec of a setuid program.
    """
    if not _prctl(_PR_SET_PDEATHSIG, signum):
        return False
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)
    return True


def _prctl(option: int, value: int) -> bool:
    if not _LINUX:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    return True


# -- reaping ------------------------------------------------------------------------------------------------------------


def reap_pid(pid: int) -> int | None:
    """The wait status of a child that is gone (its zombie goes with it); None while it runs.

    Raises:
        ChildProcessError: not a child of this process, or reaped before.
    """
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


def reap_all() -> list[tuple[int, int]]:
    """(pid, wait status) of every child that is gone, adopted orphans included. Never blocks."""
    reaped: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return reaped  # no children at all
        if pid == 0:
            return reaped
        reaped.append((pid, status))


def signal_name(number: int) -> str:
    """"SIGSEGV"; real-time signals as "SIGRTMIN+3"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        base = getattr(signal, "SIGRTMIN", None)
        return f"SIGRTMIN+{number - base}" if base is not None and base < number <= signal.SIGRTMAX else f"signal {number}"


class Known(TypedDict, total=False):
    """Fields of a DeathCause that no wait status tells."""

    stderr_tail: str
    detail: str
    rss: int
    limit: int


def death_cause(pid: int, status: int, *, reason: str | None = None, memory_was_high: bool = False,
                **known: Unpack[Known]) -> DeathCause:
    """What a wait status says, and what the daemon knows besides, as a DeathCause.

    Args:
        reason: "killed", "oom", "shutdown", …; None: read it off the status.
        memory_was_high: at the last look its memory was near what the machine has, so a SIGKILL by nobody we know is suspicious.
        known: fields of the DeathCause that no status tells.
    """
    code = os.waitstatus_to_exitcode(status)
    name = signal_name(-code) if code < 0 else None
    if reason is None:
        reason = "exited" if name is None else "oom?" if name == "SIGKILL" and memory_was_high else "signal"
    return DeathCause(reason, exit_code=code if code >= 0 else None, signal=name, pid=pid, **known)
