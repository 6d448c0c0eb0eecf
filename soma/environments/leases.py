"""Locks of files that end with their process, and directories that are this user's alone."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from soma.transport.security import check_private


class Lease:
    """A lock that is held; `release` lets it go, and so does the end of the process."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._close = weakref.finalize(self, _unlock, fd)

    def release(self) -> None:
        """Any number of times."""
        self._close()


def hold(path: Path, *, shared: bool = False, wait: bool = True) -> Lease | None:
    """Lock a file, which is made if it is missing; None if somebody else holds it and this is not to wait."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return Lease(fd)


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)  # not by closing alone: a child that was forked meanwhile has the descriptor too
    os.close(fd)


def private_directory(path: Path) -> Path:
    """A directory that nobody else can enter; made if it is missing.

    Raises:
        SecurityError: it exists, and others own or can enter it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path)
    return path
