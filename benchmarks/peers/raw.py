"""pyzmq alone, the limit for everything built on it: DEALER to ROUTER over ipc, two processes, no pickling, no futures.

A message is a 60-byte header, whose first byte says what is wanted, and a body of 40 bytes or of the array. Large bodies
are neither copied when sent nor when received; `python -m benchmarks.peers.raw ADDRESS` is the process that answers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import zmq

from benchmarks.system import System

BODY = b"b" * 40
HEADERS = {name: name[:1].encode().ljust(60, b".") for name in ("ping", "take", "hold", "give")}


def serve(address: str) -> None:
    """Receives by copy until the first array comes, without from then on: each is the faster way for its size."""
    import numpy as np

    router = zmq.Context().socket(zmq.ROUTER)
    router.set_hwm(0)
    router.bind(address)
    print("ready", flush=True)
    message: list[Any] = router.recv_multipart()
    while message[1][:1] == b"p":
        router.send_multipart(message)
        message = router.recv_multipart()
    held: Any = np.ones(1)
    while True:
        peer, header, body = message
        x = np.frombuffer(body)
        match bytes(header[:1]):
            case b"t":
                router.send_multipart([peer, header, np.array([x[0] + x[-1] + x.nbytes]).data])
            case b"h":
                held = np.ones(int(x[0]) // 8)
                router.send_multipart([peer, header, BODY])
            case b"g":
                held[0] = x[0]
                router.send_multipart([peer, header, held], copy=False)
        message = [frame.buffer for frame in router.recv_multipart(copy=False)]


class Raw(System):
    name = "raw"
    package = "zmq"
    skips = frozenset({"import", "start", "further", "wait", "four", "death", "driver_killed"})
    note = ("bytes only: no pickling, no futures, no supervision; the limit for anything built on ZeroMQ. Its round trip depends on "
            "whether the kernel keeps both processes on one core, as it mostly does in a round of its own: so soma is compared in blocks "
            "that alternate")

    def start(self) -> None:
        self._context = zmq.Context()
        self._directory = tempfile.TemporaryDirectory()
        self._children: list[subprocess.Popen[str]] = []

    def stop(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
        self._context.destroy(linger=0)
        self._directory.cleanup()

    def actor(self) -> zmq.Socket[bytes]:
        address = f"ipc://{self._directory.name}/{len(self._children)}"
        child = subprocess.Popen([sys.executable, "-m", __name__, address], stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        if child.stdout is None or not child.stdout.readline():
            raise RuntimeError(f"the echo process did not start: {child.wait()}")
        dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        dealer.set_hwm(0)
        dealer.connect(address)
        return dealer

    def method(self, actor: zmq.Socket[bytes], name: str) -> Callable[..., Any]:
        header = HEADERS[name]
        if name == "ping":

            def ping() -> tuple[zmq.Socket[bytes], str]:
                actor.send_multipart([header, BODY])
                return actor, name

            return ping

        import numpy as np

        def send(value: Any) -> tuple[zmq.Socket[bytes], str]:
            array = np.atleast_1d(np.asarray(value, float))
            actor.send_multipart([header, array.data], copy=array.nbytes < 1 << 18)
            return actor, name

        return send

    def get(self, ref: tuple[zmq.Socket[bytes], str], timeout: float | None = None) -> Any:
        actor, name = ref
        if name == "ping":
            return actor.recv_multipart()[1]
        import numpy as np

        body = actor.recv_multipart(copy=False)[1].buffer
        if name == "hold":
            return None
        return np.frombuffer(body) if name == "give" else float(np.frombuffer(body)[0])


SYSTEM = Raw

if __name__ == "__main__":
    serve(sys.argv[1])
