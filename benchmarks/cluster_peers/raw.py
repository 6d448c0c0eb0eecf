"""pyzmq alone over TCP with CURVE, the limit for everything built on it: DEALER to ROUTER, two processes, no pickling, no futures.

`python -m benchmarks.cluster_peers.raw`, with the server's secret key (or nothing) on stdin, is the process that answers.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from benchmarks.cluster_work import Measured, on_the_far_node
from benchmarks.peers.raw import BODY, HEADERS, Raw

NOTE = "bytes only, large ones in pieces: no pickling, no futures, no supervision; the limit for anything built on ZeroMQ with CURVE"


PIECE = 1 << 19
"""A large frame is encrypted several times as slowly as the same bytes in pieces of this size, so pieces are the limit to compare with."""


def pieces(array: Any) -> list[memoryview]:
    view = memoryview(array).cast("B")
    return [view[i:i + PIECE] for i in range(0, len(view), PIECE)]


def joined(frames: Sequence[zmq.Frame]) -> Any:
    """The array that came in pieces."""
    import numpy as np

    if len(frames) == 1:
        return np.frombuffer(frames[0].buffer)
    whole: Any = np.empty(sum(map(len, frames)) // 8)
    at = 0
    view = memoryview(whole).cast("B")
    for frame in frames:
        view[at:at + len(frame)] = frame.buffer
        at += len(frame)
    return whole


def serve(secret: bytes) -> None:
    """Receives by copy until the first array comes, without from then on: each is the faster way for its size."""
    import numpy as np

    router = zmq.Context().socket(zmq.ROUTER)
    router.set_hwm(0)
    if secret:
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, secret)
    router.bind("tcp://127.0.0.1:*")
    print(router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    while (message := router.recv_multipart())[1][:1] == b"p":
        router.send_multipart(message)
    held: Any = np.ones(1)
    peer, header, x = message[0], message[1], np.frombuffer(b"".join(message[2:]))
    while True:
        match header[:1]:
            case b"p":
                router.send_multipart([peer, header, BODY])
            case b"t":
                router.send_multipart([peer, header, np.array([x[0] + x[-1] + x.nbytes]).data])
            case b"h":
                held = np.ones(int(x[0]) // 8)
                router.send_multipart([peer, header, BODY])
            case b"g":
                held[0] = x[0]
                router.send_multipart([peer, header, *pieces(held)], copy=False)
        frames = router.recv_multipart(copy=False)
        peer, header, x = bytes(frames[0].buffer), bytes(frames[1].buffer), joined(frames[2:])


class Plain(Raw):
    """Over TCP, not encrypted."""

    keys: tuple[bytes, bytes] | None = None
    """The server's: public and secret."""

    def actor(self) -> zmq.Socket[bytes]:
        public, secret = self.keys or (b"", b"")
        with on_the_far_node():
            child = subprocess.Popen([sys.executable, "-m", "benchmarks.cluster_peers.raw"], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the echo process has no pipes")
        with child.stdin as keys:  # a key is for no command line
            keys.write(secret.decode() + "\n")
        address = child.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the echo process did not start: {child.wait()}")
        dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        dealer.set_hwm(0)
        if public:
            mine, my_secret = zmq.curve_keypair()
            for option, value in ((zmq.CURVE_SERVERKEY, public), (zmq.CURVE_PUBLICKEY, mine), (zmq.CURVE_SECRETKEY, my_secret)):
                dealer.setsockopt(option, value)
        dealer.connect(address)
        return dealer

    def method(self, actor: zmq.Socket[bytes], name: str) -> Callable[..., Any]:
        if name == "ping":
            return super().method(actor, name)
        import numpy as np

        def send(value: Any) -> tuple[zmq.Socket[bytes], str]:
            array = np.atleast_1d(np.asarray(value, float))
            actor.send_multipart([HEADERS[name], *pieces(array)], copy=array.nbytes < 1 << 18)
            return actor, name

        return send

    def get(self, ref: tuple[zmq.Socket[bytes], str], timeout: float | None = None) -> Any:
        actor, name = ref
        if name == "ping":
            return super().get(ref)
        body = actor.recv_multipart(copy=False)[1:]
        if name == "hold":
            return None
        return joined(body) if name == "give" else float(joined(body)[0])


class Encrypted(Plain):
    """Over TCP with CURVE."""

    def start(self) -> None:
        super().start()
        self.keys = zmq.curve_keypair()


MEASURED = Measured(Encrypted())
STEPS, start, stop = MEASURED.steps, MEASURED.start, MEASURED.stop

if __name__ == "__main__":
    serve(sys.stdin.readline().strip().encode())
