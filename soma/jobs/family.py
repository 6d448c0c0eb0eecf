"""The processes of a job: all that descend from this process, which adopts the orphans among them.

So nothing escapes: no new session, no double fork, no cleared environment. This process must have no other children.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

import psutil


def family() -> list[psutil.Process]:
    """Living descendants of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_family(deadline: float) -> list[int]:
    """SIGKILL every descendant until two looks in a row find none; the pids of those left at the deadline.

    Args:
        deadline: a value of `time.monotonic()`. A process in uninterruptible sleep can outlast any.
    """
    empty = 0
    while empty < 2:
        living = family()
        empty = 0 if living else empty + 1
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                _wait(process, deadline)
        if living and time.monotonic() >= deadline:
            return [p.pid for p in family()]
    return []


def _wait(process: psutil.Process, deadline: float) -> None:
    """Until it is gone or a zombie; whose zombie it is, reaps it."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return  # gone
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(max(0, int((deadline - time.monotonic()) * 1000)))
    finally:
        os.close(fd)


def reap_orphans(own: int) -> None:
    """Reap the adopted children that are gone; `own` is the pid of the child that somebody else waits for."""
    for process in psutil.Process().children():
        if process.pid != own:
            with contextlib.suppress(ChildProcessError):  # reaped meanwhile
                os.waitpid(process.pid, os.WNOHANG)


def ask_to_end(pid: int) -> None:
    """SIGTERM to a program and its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
