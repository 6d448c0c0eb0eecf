"""The daemon's end of the forkserver: asks for processes, hears of their ends."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from soma.actors.process import Start, encode_start
from soma.daemon.zygote import MAX_MESSAGE, zygote_main

UNANSWERED = 32
"""Requests that may be on their way."""


class Spawner:
    """Owns the channel to the zygote. Make it before any thread or socket exists: it forks."""

    def __init__(self, cluster: str, directory: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if hasattr(socket, "SOCK_SEQPACKET") else socket.SOCK_DGRAM)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            zygote_main(theirs, cluster, directory)
        theirs.close()
        ours.setblocking(False)
        self._channel = ours
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._unanswered = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def spawn(self, start: Start, fds: Sequence[int], heavy: Sequence[str], method: str) -> None:
        """Ask for a process with `fds` = stdout, stderr, blackbox, which are closed here once they are sent. `read` has the answer."""
        message = json.dumps({"spawn": encode_start(start), "heavy": list(heavy), "method": method}).encode()
        if len(message) > MAX_MESSAGE:
            for fd in fds:
                os.close(fd)
            raise ValueError(f"the start of an actor takes {len(message)} bytes (env_vars?); at most {MAX_MESSAGE}")
        self._queue.append((message, tuple(fds)))
        self._send()

    def _send(self) -> None:
        """Requests go out while few are unanswered: if both ends only wrote, both would stand still."""
        while self._queue and self._unanswered < UNANSWERED:
            message, fds = self._queue.popleft()
            self._unanswered += 1
            self._channel.setblocking(True)
            try:
                socket.send_fds(self._channel, [message], list(fds))
            finally:
                self._channel.setblocking(False)
                for fd in fds:
                    os.close(fd)

    def read(self) -> list[dict[str, Any]]:
        """What the zygote said; EOFError if it is gone."""
        said: list[dict[str, Any]] = []
        while True:
            try:
                data = self._channel.recv(MAX_MESSAGE)
            except BlockingIOError:
                return said
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError("the forkserver is gone")
            said.append(json.loads(data))
            if "spawned" in said[-1] or "failed" in said[-1]:
                self._unanswered -= 1
                self._send()

    def close(self) -> None:
        """Tell the zygote to end everything and itself."""
        self._channel.close()
