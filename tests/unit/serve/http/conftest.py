"""A server on a real port, in front of a service that does what a test says.

`served(...)` is a context manager; its service makes real predictions, which a test ends, or which end by themselves as their input says.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from soma.serve.http.options import HttpOptions
from soma.serve.http.server import HttpServer, new_loop
from soma.serve.predictions import Prediction
from soma.serve.protocol import Refused, Request

new_loop().close()
"""libuv makes a pipe for the whole process with its first loop: not what a test left behind."""

DOCUMENT = {"openapi": "3.1.0", "info": {"title": "fake", "version": "1"}, "paths": {}}


class FakeService:
    """Does what the input says: nothing (it waits), `{"say": value}` ends with it, `{"refuse": status}`, `{"break": …}`."""

    def __init__(self) -> None:
        self.signature: Any = "signature"
        self.training: Any = "training"
        self.predictions: dict[tuple[str, str], Prediction] = {}
        self.requests: list[tuple[str, Request]] = []
        self.stopped: list[float | None] = []
        self.changed = threading.Condition()

    def health(self) -> dict[str, Any]:
        return {"status": "READY"}

    async def check_health(self) -> dict[str, Any]:
        return self.health()

    def create(self, request: Request, kind: str = "prediction") -> Prediction:
        if (status := request.input.get("refuse")) is not None:
            raise Refused(status, "as the test wants", retry_after=0.2)
        if "break" in request.input:
            raise ZeroDivisionError("as the test wants")
        id = request.id or f"made-{len(self.requests)}"
        if (kind, id) in self.predictions:
            raise Refused(409, "it is there already")
        prediction = self.predictions[kind, id] = Prediction(id, kind, request, "1", lambda: self.cancel(id, kind) and None)
        self.requests.append((kind, request))
        prediction.begin(0.0)
        if "say" in request.input:
            asyncio.get_running_loop().call_soon(self.finish, prediction, request.input["say"])
        self._notify()
        return prediction

    def find(self, id: str, kind: str = "prediction") -> Prediction | None:
        return self.predictions.get((kind, id))

    def cancel(self, id: str, kind: str = "prediction") -> bool:
        if (prediction := self.find(id, kind)) is None:
            return False
        prediction.finish("cancel", 1.0)
        self._notify()
        return True

    async def shutdown(self, patience: float | None = None) -> None:
        self.stopped.append(patience)
        for prediction in [*self.predictions.values()]:
            if patience != 0.0:
                await prediction.wait()
            prediction.finish("cancel", 1.0)

    def metrics_text(self) -> str:
        return "# nothing\n"

    # -- for tests -------------------------------------------------------------------------------------------------------------

    def finish(self, prediction: Prediction, output: Any = None, how: str = "succeed") -> None:
        prediction.finish(how, 1.0, output=output, error="" if how == "succeed" else "as the test wants")
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def wait_until(self, true: Callable[[], bool], patience: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(true, patience)


class Served:
    """A running server, from another thread."""

    def __init__(self, service: FakeService, server: HttpServer, loop: asyncio.AbstractEventLoop, client: httpx.Client) -> None:
        self.service, self.server, self.client, self._loop = service, server, client, loop
        self.port = server.port

    def do(self, fn: Callable[..., Any], *args: Any) -> Any:
        """In the server's thread."""
        done: asyncio.Future[Any] = asyncio.run_coroutine_threadsafe(_call(fn, args), self._loop)  # type: ignore[assignment]
        return done.result()

    def connect(self, patience: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=patience)

    def exchange(self, sent: bytes, patience: float = 10.0) -> bytes:
        """All that comes back until the server closes."""
        with self.connect(patience) as raw:
            raw.sendall(sent)
            return read_all(raw)


async def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return fn(*args)


def read_all(raw: socket.socket) -> bytes:
    """Until the other side closes, in whatever way."""
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            told += part
    return told


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Served]:
    options = {"port": 0, "log": "none", **options}
    service, opened = FakeService(), threading.Event()
    made: list[Any] = []

    async def run() -> None:
        server = HttpServer(service, HttpOptions(**options), lambda: DOCUMENT)
        await server.open()
        made.extend((server, asyncio.get_running_loop()))
        opened.set()
        await server.wait_closed()

    def run_in_thread() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(run())
        finally:
            opened.set()

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    try:
        assert opened.wait(10) and made, "the server did not start"
        with httpx.Client(base_url=f"http://127.0.0.1:{made[0].port}", timeout=10, trust_env=False) as client:
            yield Served(service, made[0], made[1], client)
    finally:
        if made:
            for _ in range(2):
                with contextlib.suppress(RuntimeError):  # it has ended already
                    made[1].call_soon_threadsafe(made[0].stop)
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as it:
        yield it


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[Served]]:
    return serving
