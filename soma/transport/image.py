"""Large buffers of a value that came from another machine: one piece of this process's own memory, read like an arena's block.

A message of several megabytes is received into a `room`, which is a memfd where there is one: then each `view` is a copy-on-write
mapping, and nothing is copied until somebody writes. What came in one piece is copied at each view.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from soma.transport import segment
from soma.transport.segment import HAS_MEMFD, Segment

_NOWHERE = Path("/")


class Room(mmap.mmap):
    """Memory to receive into; `segment` is what it maps."""

    segment: Segment


def room(size: int) -> memoryview:
    """`size` writable bytes for a part of a message."""
    if not HAS_MEMFD or size == 0:
        return memoryview(bytearray(size))
    try:
        held = segment.create(size, _NOWHERE, memfd=True)
        made = Room(held.fd, size)
    except OSError:  # no descriptor is left: then its views are copies
        return memoryview(bytearray(size))
    made.segment = held
    return memoryview(made)


def fill(target: memoryview, at: int, part: bytes | bytearray | memoryview) -> None:
    """Put `part` at `at` of what `room` gave, or of any writable bytes."""
    size, whole = len(part), target.obj
    if type(whole) is Room and len(whole) == len(target):
        # twice as fast as through the mapping, which faults at each page
        while size and (done := os.pwrite(whole.segment.fd, part, at)) < size:
            part, at, size = memoryview(part)[done:], at + done, size - done
    else:
        target[at:at + size] = part


class Image:
    """What a block of another machine's arena held."""

    __slots__ = ("_data", "_segment", "length")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        whole = data.obj if type(data) is memoryview else None
        self.length = len(data)
        self._segment = whole.segment if isinstance(whole, Room) and len(whole) == len(data) else None
        self._data = data if self._segment is None else b""

    def view(self) -> memoryview:
        """All of it, private to the caller and writable."""
        if self._segment is not None:
            return self._segment.window(0, self.length, None)
        return memoryview(bytearray(self._data))

    def frame(self) -> bytes | bytearray | memoryview:
        """All of it, to be sent on; it never changes."""
        if self._segment is not None:
            return self._segment.window(0, self.length, None).toreadonly()
        return memoryview(self._data).toreadonly()
