"""Waiting for processes, any process: a descriptor that becomes readable when it is gone.

Exact on Linux: a pidfd names the process, not the number, so a recycled pid is never signalled; waiting is `poll`, not polling.
Elsewhere a thread looks 20 times a second, best effort. Neither reaps: the wait status stays for the parent.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class Sentinel:
    """A descriptor that becomes readable when a process is gone (a zombie is): give it to `poll`.

    A pidfd on Linux. Elsewhere a pipe, closed by a thread that looks 20 times a second.
    A pid that is already gone gives a sentinel that has fired.
    """

    __slots__ = ("_fd", "_given_up", "_is_pidfd", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._given_up: threading.Event | None = None
        self._is_pidfd = False
        try:
            self._fd = os.pidfd_open(pid)
            self._is_pidfd = True
        except ProcessLookupError:
            self._fd = _closed_pipe()
        except (AttributeError, NotImplementedError):
            self._fd, self._given_up = _watch_by_thread(pid)
        except OSError as e:
            if e.errno != errno.ENOSYS:  # a kernel before 5.3, or a sandbox
                raise
            self._fd, self._given_up = _watch_by_thread(pid)

    def fileno(self) -> int:
        return self._fd

    def exited(self) -> bool:
        """Whether it is gone."""
        return self.wait(0.0)

    def wait(self, timeout: float | None) -> bool:
        """True once it is gone, False after `timeout` seconds."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))))

    def send(self, signum: int) -> bool:
        """Signal exactly this process; False when it is gone."""
        if self.exited():
            return False
        try:
            if self._is_pidfd:
                signal.pidfd_send_signal(self._fd, signum)
            else:
                os.kill(self.pid, signum)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Idempotent; does nothing to the process."""
        if self._fd >= 0:
            if self._given_up is not None:
                self._given_up.set()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def wait_all(sentinels: Iterable[Sentinel], deadline: float | None) -> set[int]:
    """Wait until all are gone or `time.monotonic()` reaches the deadline. Returns the pids that are still there."""
    left = set()
    for sentinel in sentinels:  # one after the other: all have to end anyway
        if not sentinel.wait(None if deadline is None else deadline - time.monotonic()):
            left.add(sentinel.pid)
    return left


def _closed_pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def _watch_by_thread(pid: int) -> tuple[int, threading.Event]:
    given_up = threading.Event()
    read, write = os.pipe()

    def watch() -> None:
        try:
            while _is_alive(pid) and not given_up.wait(0.05):
                pass
        finally:
            os.close(write)

    threading.Thread(target=watch, name=f"soma-sentinel-{pid}", daemon=True).start()
    return read, given_up


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
