"""What a job said: the end of it in memory, all of it in a file, up to a limit. A disk that is full ends the file, not the job."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from soma.config import MIB

KEPT = 1 * MIB
"""Bytes in memory."""
FILED = 256 * MIB
"""Bytes in the file; what comes after is only in memory for a while."""


class Record:
    """Bytes in the order in which they came, found again by their offset from the beginning."""

    def __init__(self, path: Path, *, kept: int = KEPT, filed: int = FILED) -> None:
        self._kept, self._room = kept, filed
        self._tail = bytearray()
        self._in_file = 0
        self.size = 0
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.trouble = ""
        """Why the file is not written any further."""

    def add(self, data: bytes) -> None:
        with self._lock:
            self._tail += data
            del self._tail[:-self._kept]
            self.size += len(data)
            while data and not self.trouble:
                room = self._room - self._in_file
                try:
                    written = os.write(self._fd, data[:room]) if room > 0 else 0
                except OSError as e:
                    self.trouble, written = str(e), 0
                if not written and not self.trouble:
                    self.trouble = f"it is longer than {self._room} bytes"
                self._in_file += written
                data = data[written:]

    def read(self, offset: int, most: int) -> tuple[bytes, int]:
        """(what comes at an offset, the offset behind it). What is lost is skipped, so the second may be larger than expected."""
        with self._lock:
            if 0 <= offset < self._in_file:
                data = os.pread(self._fd, min(most, self._in_file - offset), offset)
                return data, offset + len(data)
            start = max(offset, self.size - len(self._tail))
            index = start - (self.size - len(self._tail))
            data = bytes(self._tail[index:index + most])
            return data, start + len(data)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._in_file = -1, 0
