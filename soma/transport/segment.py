"""One piece of shared memory as an open file descriptor: a memfd on Linux, a private file elsewhere.

A segment is reached by other processes of the same user by its path; whoever opens it checks that it is what was meant (inode,
owner, size, seals) before a single byte is used. Refuses: paths that are neither a descriptor in /proc nor a file of the runtime
directory, and memfds that their owner could shrink (reading past the end would be SIGBUS).
Invariants: descriptors are close-on-exec, modes 0600; every window is a fresh private mapping, so what is written to it is seen
by nobody else and pages of an earlier use never show.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import Any

from soma.errors import ObjectLostError, ProtocolError, SecurityError

HAS_MEMFD = hasattr(os, "memfd_create")
_DESCRIPTOR = re.compile(r"/proc/[0-9]{1,10}/fd/[0-9]{1,10}")

# ctypes, because mmap.mmap keeps a duplicate descriptor for each mapping: a thousand values in an actor's hands would exhaust
# the usual limit of 1,024 descriptors. It also lets other threads run during the call.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Window:
    """A private, writable mapping of a part of a segment; unmapped when the last array or view over it dies."""

    __slots__ = ("__array_interface__", "_address", "_keep", "_length", "_munmap")

    def __init__(self, fd: int, offset: int, length: int, keep: object) -> None:
        self._length = 0  # nothing to unmap, should mmap fail
        # Without MAP_POPULATE: on a writable private mapping it would copy every page. Faults take 16 pages at a time, and
        # MADV_POPULATE_READ gained nothing at 1 and 10 MB, 10 % at 100 MB.
        address = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, offset)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, f"mmap of {length} bytes: {os.strerror(code)}")
        self._address, self._length, self._keep, self._munmap = address, length, keep, _libc.munmap
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False), "shape": (length,), "typestr": "|u1", "version": 3,
        }

    def __del__(self) -> None:
        if self._length:
            self._munmap(self._address, self._length)


class _Descriptor:
    """The file descriptor of a segment; closed by `close`, or when nobody refers to it any more and the last pin is out.

    The garbage collector finalizes the objects of a cycle in any order, so this one perhaps before a block that still has to
    return its lease through it: whoever needs it in a finalizer pins it.
    """

    __slots__ = ("_close", "_orphan", "_pins", "fd")

    def __init__(self, fd: int) -> None:
        self._close = os.close  # kept here: module globals may be gone when the interpreter ends
        self._pins: list[None] = []  # append and pop are atomic, in any thread and finalizer
        self._orphan = False
        self.fd = fd

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._close(fd)

    def pin(self) -> None:
        self._pins.append(None)

    def unpin(self) -> None:
        self._pins.pop()
        if self._orphan:
            self.__del__()

    def __del__(self) -> None:
        self._orphan = True
        if not self._pins:
            self.close()


class Segment:
    """An open segment, own or foreign.

    Arenas find theirs by weak reference, so a finalizer must not be here: while one runs, a weak reference still hands out the
    object, and another thread would go on with a descriptor that is being closed. It is the descriptor's.
    """

    __slots__ = ("__weakref__", "_descriptor", "_file", "inode", "size")

    def __init__(self, fd: int, file: str | None) -> None:
        info = os.fstat(fd)
        self.inode, self.size = info.st_ino, info.st_size
        self._descriptor, self._file = _Descriptor(fd), file

    @property
    def fd(self) -> int:
        """-1 once closed."""
        return self._descriptor.fd

    @property
    def path(self) -> str:
        """Where other processes find it."""
        if self.fd < 0:
            raise ObjectLostError("the arena that held this value is closed")
        return self._file or f"/proc/{os.getpid()}/fd/{self.fd}"

    def window(self, offset: int, length: int, keep: object) -> memoryview:
        """A fresh private mapping of `[offset, offset + length)`; `keep` lives as long as it does."""
        import numpy as np

        if self.fd < 0:
            raise ObjectLostError("the arena that held this value is closed")
        if not length:
            return memoryview(bytearray())
        over: Any = np.asarray(Window(self.fd, offset, length, keep))
        return memoryview(over)

    def close(self, *, unlink: bool = False) -> None:
        """Close the descriptor; windows stay valid. `unlink` also removes the file, where it is one."""
        if self.fd >= 0:
            self._descriptor.close()
            if unlink and self._file:
                Path(self._file).unlink(missing_ok=True)

    def pin(self) -> None:
        """Keep the descriptor open until `unpin`, even when this object is gone."""
        self._descriptor.pin()

    def unpin(self) -> None:
        self._descriptor.unpin()


def create(size: int, directory: Path, *, memfd: bool) -> Segment:
    """A new segment of `size` bytes, sparse: no memory is used before something is written."""
    if memfd and sys.platform == "linux":
        import fcntl

        fd = os.memfd_create("soma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        file = None
    else:
        file = str(directory / f"arena-{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
        if file is None:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return Segment(fd, file)
    except BaseException:
        os.close(fd)
        if file is not None:
            os.unlink(file)
        raise


def reserve(fd: int, offset: int, size: int) -> bool:
    """Make a file really have these bytes; on a full disk a write through a mapping would be SIGBUS. False when it is full."""
    if not hasattr(os, "posix_fallocate"):
        return True
    try:
        os.posix_fallocate(fd, offset, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False
        raise
    return True


def open_foreign(path: str, inode: int, directory: Path, *, writable: bool) -> Segment:
    """Open a segment that another process (or this one) created. Raises ObjectLostError when it is gone."""
    is_file = _DESCRIPTOR.fullmatch(path) is None
    if is_file and (Path(path).parent != directory or not Path(path).name.startswith("arena-")):
        raise ProtocolError(f"{path!r} is no path of shared memory")
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block us
    try:
        fd = os.open(path, flags | (os.O_NOFOLLOW if is_file else 0))
    except OSError as error:
        raise ObjectLostError(f"the process that held this value is gone ({path}: {error.strerror})") from error
    try:
        _check(fd, path, inode, is_file)
        return Segment(fd, path if is_file else None)
    except BaseException:
        os.close(fd)
        raise


def _check(fd: int, path: str, inode: int, is_file: bool) -> None:
    info = os.fstat(fd)
    if info.st_ino != inode:
        raise ObjectLostError(f"the process that held this value is gone ({path} is something else now)")
    if not stat.S_ISREG(info.st_mode):
        raise ProtocolError(f"{path!r} is no shared memory")
    if info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise SecurityError(f"{path} is owned by user {info.st_uid} with mode {info.st_mode & 0o777:o}, not private to this user")
    if not is_file and sys.platform == "linux":
        import fcntl

        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise ProtocolError(f"{path!r} is no memfd") from error
        if not seals & fcntl.F_SEAL_SHRINK:
            raise ProtocolError(f"{path!r} could be shrunk by its owner")
