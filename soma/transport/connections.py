"""The TCP connections of a bound socket, by what libzmq's monitor tells of them: how many there are, whose they are, how to end one.

libzmq bounds no number of connections and closes none at our wish. Each event and each message says which descriptor its connection
has; a copy of the descriptor is shut down, once it is sure that the copy is a connection of this port.
"""

from __future__ import annotations

import collections
import os
import socket

import zmq
from zmq.utils.monitor import parse_monitor_message

_FAILED = {int(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL), int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL), int(zmq.Event.HANDSHAKE_FAILED_AUTH)}
_ACCEPTED, _ENDED = int(zmq.Event.ACCEPTED), int(zmq.Event.DISCONNECTED)

Ended = tuple[str, bytes]
"""The user id and the client of a connection that is over."""


class Connections:
    """Kept by the thread that reads the socket; made before it is bound. `port` is told afterwards."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: zmq.Socket[bytes], most: int,
                 counts: collections.Counter[str]) -> None:
        self._most, self._counts = most, counts
        self._watched = watched
        self._open: set[int] = set()
        self._whose: dict[int, Ended] = {}
        self._owed: collections.Counter[int] = collections.Counter()
        """Ends that were seen by who followed on the same descriptor, before the monitor told of them."""
        self.port = 0
        name = f"inproc://monitor-{id(self)}"
        watched.monitor(name, sum(_FAILED) | _ACCEPTED | _ENDED)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.LINGER, 0)
        self.monitor.setsockopt(zmq.RCVHWM, 0)  # the I/O thread would wait for us past a mark
        self.monitor.connect(name)

    def __len__(self) -> int:
        return len(self._open)

    def drain(self) -> list[Ended]:
        """Take note of what happened. Returns whose connections ended."""
        ended: list[Ended] = []
        while True:
            try:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return ended
            number, fd = int(event["event"]), event["value"]
            if number in _FAILED:
                self._counts["auth_rejected"] += 1
            elif number == _ACCEPTED:
                self._open.add(fd)
                if len(self._open) > self._most:
                    self._counts["too_many_connections"] += 1
                    self.cut(fd)
            elif number == _ENDED:
                self._open.discard(fd)
                if self._owed[fd]:
                    self._owed[fd] -= 1
                elif fd in self._whose:
                    ended.append(self._whose.pop(fd))
                self._owed += collections.Counter()  # keeps what is above zero

    def heard(self, fd: int, user_id: str, client: bytes) -> Ended | None:
        """A message came on this connection. Returns whose descriptor it was before, if the end of that one was not told yet."""
        before, now = self._whose.get(fd), (user_id, client)
        if before == now or fd < 0:
            return None
        self._whose[fd] = now
        if before is not None:
            self._owed[fd] += 1
        return before

    def cut(self, fd: int) -> bool:
        """End a connection, if it still is one."""
        try:
            copy = os.dup(fd)  # so that nobody else gets the number while we look
        except OSError:
            return False
        try:
            connection = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            return False
        with connection:
            try:
                if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] != self.port:
                    return False
                connection.getpeername()  # the listening socket has none
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return False
        return True

    def close(self) -> None:
        self._watched.disable_monitor()
        self.monitor.close(0)
