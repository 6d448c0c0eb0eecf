"""What a dead process had begun: a page of memory that outlives it.

The actor writes the fingerprint of each call as it begins; the daemon, which holds the page, reads it after a death and tells
the callers, so that "never begun" and "may have run" are facts and not guesses. One writer, no lock: 8-byte stores.
"""

from __future__ import annotations

import mmap
import os
import struct

from soma.actors.calls import fingerprint

SLOTS = 1024
SIZE = 16 + SLOTS * 8
_COUNT = struct.Struct("<Q")
_NONE = bytes(8)


def create() -> int:
    """A file descriptor of a new page."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("soma-blackbox", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="soma-blackbox-")
        os.unlink(path)
    os.ftruncate(fd, SIZE)
    return fd


class Recorder:
    """The actor's side."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, SIZE)
        os.close(fd)
        self._count = 0

    def begin(self, call_id: bytes) -> None:
        """A call begins (where several run at once, the last to begin counts as running)."""
        page, count = self._page, self._count
        at = 16 + (count % SLOTS) * 8
        page[at:at + 8] = page[8:16] = fingerprint(call_id)
        self._count = count + 1
        _COUNT.pack_into(page, 0, count + 1)

    def end(self) -> None:
        self._page[8:16] = _NONE


def begun(fd: int) -> bytes:
    """Fingerprints of the calls that were begun, the last `SLOTS` of them."""
    count = _COUNT.unpack(os.pread(fd, 8, 0))[0]
    return os.pread(fd, min(count, SLOTS) * 8, 16)


def running(fd: int) -> bytes:
    """The fingerprint of the call that runs, or zeros."""
    return os.pread(fd, 8, 8)
