"""Who may finish a CURVE handshake: libzmq asks over ZAP (RFC 27), this answers.

Without a handler libzmq lets every client key in, so a socket with keys is bound only after `Zap` is there. One per zmq context;
whoever owns it polls `socket` and calls `serve`. What it is given is checked as strictly as anything from a peer.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

Decide = Callable[[str, str, bytes], str | None]
"""(domain, address, client's public key: 32 bytes) → the user id that its messages will carry; None: refused."""

ENDPOINT = "inproc://zeromq.zap.01"


class Zap:
    """The answering end. Made and served by one thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], decide: Decide) -> None:
        self._decide = decide
        self.accepted = self.rejected = 0
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ENDPOINT)

    def serve(self) -> None:
        """Answer every request that is there."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            answer = self._answer(frames)
            if answer is not None:
                self.socket.send_multipart(answer)

    def _answer(self, frames: list[bytes]) -> list[bytes] | None:
        cut = frames.index(b"") + 1 if b"" in frames else len(frames)
        envelope, request = frames[:cut], frames[cut:]
        if len(request) < 6 or request[0] != b"1.0":
            return None
        domain, address, mechanism, credentials = request[2], request[3], request[5], request[6:]
        user = None
        if mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32:
            user = self._decide(domain.decode(errors="replace"), address.decode(errors="replace"), credentials[0])
        if user is None:
            self.rejected += 1
            return [*envelope, b"1.0", request[1], b"400", b"key not allowed", b"", b""]
        self.accepted += 1
        return [*envelope, b"1.0", request[1], b"200", b"", user.encode(), b""]

    def close(self) -> None:
        self.socket.close(0)
