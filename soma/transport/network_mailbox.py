"""A mailbox that is bound for this machine (ipc, as ever) and for others (TCP with CURVE), and reads both as one.

What comes from other machines are pieces of sessions (see `receiving`); messages from this one are given as they are. One ROUTER
for both: libzmq copies a socket's options when it binds.
"""

from __future__ import annotations

import functools
import select
import time
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

_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)


class NetworkMailbox(ZmqMailbox):
    """`listen`, then `open_as`, then read."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str | None) -> None:
        super().__init__(context, address)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who connects again is the same peer: libzmq would refuse it for a while
        self._receiving = Receiving("")
        self._held: list[Any] | None = None
        """A message that `poll` has read already."""
        self._dry = False
        """libzmq has nothing for us, and has heard of nothing since: its descriptor will tell."""
        self._poller = select.poll()
        self._poller.register(int(self._socket.getsockopt(zmq.FD)), select.POLLIN)
        self._poller.register(self._waker.fd, select.POLLIN)
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

    def open_as(self, name: str, receiving: type[Receiving] = Receiving) -> None:
        """Say which mailbox this is; sessions that mean another one are refused."""
        self._receiving = receiving(name, room=room)

    def poll(self, timeout: float | None) -> bool:
        """As ever; `zmq_poll` would make a dozen system calls where one or two do."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._held is None:
            if self._dry or not self.ready():
                woken = self.await_sign(timeout)
                if not woken:
                    return False
                if len(woken) == 1 and woken[0][0] == self._waker.fd:
                    self._waker.clear()
                    return False
            self._held = self.take_nowait()
            if end is not None:
                timeout = max(0.0, end - time.monotonic())
        return True

    def await_sign(self, timeout: float | None) -> list[tuple[int, int]]:
        """Descriptors that something came to; nothing else is done here, so an exception out of a signal loses nothing."""
        return self._poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999)))

    def take(self) -> list[bytes]:
        taken, self._held = self._held, None
        assert taken is not None
        return taken

    def take_nowait(self) -> list[bytes] | None:
        message, self._held = self._held, None
        self._dry = False
        try:
            while message is None:
                message = self._read()
        except zmq.Again:
            self._dry = True
            return None
        return message

    def ready(self) -> bool:
        self._dry = not int(self._get(_EVENTS)) & _POLLIN
        return self._held is not None or not self._dry

    def _read(self) -> list[Any] | None:
        """Take what is next off the socket. A message, or None if it was a piece that makes none yet."""
        recv = self._recv
        label: Any = recv(_NOBLOCK)
        frame: Any = recv(_NOBLOCK, False)  # behind a label there is always one; and to ask a frame for more is the fastest way
        header = frame.bytes
        is_piece = len(header) >= HEADER_BYTES and header[0] == MARK
        frames: list[Any] = []
        while frame.more:
            frame = recv(_NOBLOCK, False)
            # the bytes of a chunk are copied to where they belong, once
            frames.append(frame.buffer if is_piece and header[1] == CHUNK and not frames else frame.bytes)
        if not is_piece:
            return [label, header, *frames]
        message, answer = self._receiving.receive(header, frames)
        if answer is not None:
            self._send(label, _MORE)
            self._send(answer[0], _NOBLOCK)  # that may take the sign that something came: who reads on does so until there is nothing
        return message
