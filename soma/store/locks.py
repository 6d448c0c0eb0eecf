"""Locks between processes that die with their process: flock, on files of the cache's own directory.

The kernel lets go of what a dead process held, so no lock is ever stale. A child that was forked meanwhile would keep it; it closes
the descriptors first thing. Waiting can be interrupted by signals (in the main thread, as always). Two threads of one process
exclude each other as processes do. Refuses file systems without locks, with a CacheError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from soma.errors import CacheError, CacheFullError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No room: on the disk, for this user, or in a file of the size that a process may write."""

_held: set[int] = set()
"""Descriptors of this process that hold or wait for a lock."""


def _forget_in_child() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file that stays."""
    fd = _open(path)
    try:
        _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, path)
        yield
    finally:
        _close(fd)


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Hold the lock of a file that is made for this, and removed when nobody holds it any more.

    On a disk that has no room for another file nothing is held: better that two make the same than that nobody makes it.
    """
    try:
        fd = _hold_new(path)
    except CacheFullError:
        yield
        return
    try:
        yield
    finally:
        if fd in _held:  # else this is a child that was forked inside
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        _close(fd)


def _hold_new(path: str) -> int:
    while True:
        fd = _open(path)
        try:
            _lock(fd, fcntl.LOCK_EX, path)
            if _is(fd, path):
                return fd
        except BaseException:
            _close(fd)
            raise
        _close(fd)  # its last holder removed it while we waited: others have a new one


def is_free(path: str) -> bool:
    """Whether nobody holds the lock of a file; removes the file if so."""
    try:
        fd = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(fd, path):
            os.unlink(path)
        return True
    except BlockingIOError:
        return False
    finally:
        _close(fd)


def _open(path: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in FULL:
            raise CacheFullError(f"no room for {path}: {error.strerror}") from error
        if flags & os.O_CREAT:
            raise CacheError(f"{path} cannot be made: {error.strerror}; was the cache removed?") from error
        raise
    _held.add(fd)
    if flags & os.O_CREAT:
        os.fchmod(fd, 0o600)  # open obeys the umask, which may have taken our own bits away
    return fd


def _close(fd: int) -> None:
    if fd in _held:
        _held.remove(fd)
        # Not by closing alone: a child that was forked in C may have the descriptor too.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _lock(fd: int, operation: int, path: str) -> None:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        raise CacheError(f"{path} cannot be locked: {error.strerror}; choose a cache_path on a local disk") from error


def _is(fd: int, path: str) -> bool:
    """Whether a path still leads to the file that is open."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
