"""What a setup prints, read by the front end itself from a named pipe: it is whole even if the process of the setup kills itself."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

CHUNK = 64 * 1024


class SetupLog:
    """Of one process, in the running event loop; `close` takes what is left.

    Args:
        hear: told what is printed, as it comes.
    """

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._directory = tempfile.mkdtemp(prefix="soma-setup-")
        self.path = os.path.join(self._directory, "log")
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # for writing too: so there is never an end
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, CHUNK):
                self._hear(self._decode.decode(data))

    def close(self) -> None:
        """What was printed before is heard before this returns. Once."""
        if self._fd < 0:
            return
        self._read()
        if rest := self._decode.decode(b"", final=True):
            self._hear(rest)
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        shutil.rmtree(self._directory, ignore_errors=True)
