"""A mailbox that is bound for this machine (ipc, as ever) and for others (TCP with CURVE), and reads both as one.

What comes from other machines are pieces of sessions (see `receiving`); messages from this one are given as they are. One ROUTER
for both: libzmq copies a socket's options when it binds.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from typing import Any

import zmq
import zmq.backend

from soma.config import LIMITS
from soma.transport.endpoint import ZmqMailbox
from soma.transport.image import room
from soma.transport.pieces import CHUNK, HEADER_BYTES, MARK
from soma.transport.receiving import Receiving

HEARTBEAT_MS = 1000
SILENCE_MS = 3000
"""After so long without a sign of the other machine a connection is broken."""

_NOBLOCK, _MORE, _RCVMORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.RCVMORE)


class NetworkMailbox(ZmqMailbox):
    """`listen`, then `open_as`, then read."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str | None) -> None:
        super().__init__(context, address)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who connects again is the same peer: libzmq would refuse it for a while
        self._receiving = Receiving("")
        self._queue: deque[list[Any]] = deque()
        self._send = functools.partial(zmq.backend.Socket.send, self._socket)
        self.port = 0

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self._socket

    @property
    def received(self) -> Receiving:
        """For its counters."""
        return self._receiving

    def listen(self, address: str, public_key: bytes, secret_key: bytes) -> None:
        """Bind for other machines, at a port that is free."""
        s = self._socket
        s.setsockopt(zmq.CURVE_SERVER, 1)
        s.setsockopt(zmq.CURVE_PUBLICKEY, public_key)
        s.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
        s.setsockopt(zmq.IPV6, int("[" in address))
        s.setsockopt(zmq.MAXMSGSIZE, LIMITS.tcp_frame_bytes)
        s.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        s.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        self._bind(address)
        self.port = int(s.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def open_as(self, name: str) -> None:
        """Say which mailbox this is; sessions that mean another one are refused."""
        self._receiving = Receiving(name, room=room)

    def poll(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while not self._queue:
            if not super().poll(timeout):
                return False
            self._read()
            if end is not None:
                timeout = max(0.0, end - time.monotonic())
        return True

    def take(self) -> list[bytes]:
        return self._queue.popleft()

    def take_nowait(self) -> list[bytes] | None:
        try:
            while not self._queue:
                self._read()
        except zmq.Again:
            return None
        return self._queue.popleft()

    def ready(self) -> bool:
        return bool(self._queue) or super().ready()

    def _read(self) -> None:
        """Take one message off the socket: nothing, or one more in the queue, comes of it."""
        recv, get = self._recv, self._get
        parts: list[Any] = [recv(_NOBLOCK)]
        while get(_RCVMORE):
            if len(parts) == 2 and len(parts[1]) == HEADER_BYTES and parts[1][0] == MARK and parts[1][1] == CHUNK:
                chunk: Any = recv(_NOBLOCK, False)
                parts.append(chunk.buffer)  # it is copied to where it belongs, once
            else:
                parts.append(recv(_NOBLOCK))
        if len(parts) < 2 or len(parts[1]) != HEADER_BYTES or parts[1][0] != MARK:
            self._queue.append(parts)
            return
        message, answer = self._receiving.receive(parts[1], parts[2:])
        if message is not None:
            self._queue.append(message)
        if answer is not None:
            self._send(parts[0], _MORE)
            self._send(answer[0], _NOBLOCK)
