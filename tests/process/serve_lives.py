"""What the tests of serving share: a server in a thread, and what may be seen of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx

from soma.serve.http.server import new_loop
from soma.serve.serving import Serving, options_of

new_loop().close()
"""libuv makes a pipe for the whole process with its first loop: not what a test left behind."""

LATE = 20.0
"""Seconds after which something will not happen any more."""


class Server:
    """A server, a client of it, and its service."""

    def __init__(self, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        self.serving, self._loop = serving, loop
        self.url = f"http://127.0.0.1:{serving.server.port}"
        self.client = httpx.Client(base_url=self.url, timeout=LATE)

    def begin(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Something in the service's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.begin(work).result(LATE)

    # -- requests --------------------------------------------------------------------------------------------------------------

    def predict(self, do: str, n: float = 1, client: httpx.Client | None = None, **more: Any) -> dict[str, Any]:
        """What a prediction came to."""
        answer = (client or self.client).post("/predictions", json={"input": {"do": do, "n": n}, **more})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def start(self, do: str, n: float = 1, **more: Any) -> str:
        """Begin one, and do not wait for it."""
        answer = self.client.post("/predictions", json={"input": {"do": do, "n": n}, **more}, headers={"prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def get(self, id: str) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get(f"/predictions/{id}").json()
        return told

    def cancel(self, id: str) -> None:
        assert self.client.post(f"/predictions/{id}/cancel").status_code == 200

    def health(self) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get("/health-check").json()
        return told

    def events(self, do: str, n: float = 1) -> list[tuple[str, Any]]:
        """All that is told of a prediction."""
        body = {"input": {"do": do, "n": n}}
        with self.client.stream("POST", "/predictions", json=body, headers={"accept": "text/event-stream"}) as answer:
            assert answer.status_code == 200
            return list(events_of(answer.iter_lines()))

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def ended(self, id: str) -> dict[str, Any]:
        """It, when it has ended: its events say so."""
        with self.client.stream("GET", f"/predictions/{id}", headers={"accept": "text/event-stream"}) as answer:
            told: dict[str, Any] = list(events_of(answer.iter_lines()))[-1][1]
        return told

    def heard(self, id: str, text: str) -> None:
        """Until its logs say so."""
        with self.client.stream("GET", f"/predictions/{id}", headers={"accept": "text/event-stream"}) as answer:
            assert any(kind == "log" and text in said["data"] for kind, said in events_of(answer.iter_lines()))

    def until(self, fine: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its health, once it is so."""
        told = self.health()

        def look() -> bool:
            nonlocal told
            told = self.health()
            return fine(told)

        until(look, lambda: told)
        return told

    def until_free(self, slots: int) -> dict[str, Any]:
        return self.until(lambda told: told["slots"]["ready"] == slots)


def until(true: Callable[[], bool], what: Callable[[], Any] = lambda: "not in time") -> None:
    """Looks again after a moment, until it is so."""
    end, over = time.monotonic() + LATE, threading.Event()
    while not true():
        assert time.monotonic() < end, what()
        over.wait(0.005)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def served(target: Any, *, ready: bool = True, **options: Any) -> Iterator[Server]:
    """A server in a thread of its own; READY, unless told otherwise, and gone afterwards."""
    chosen, http = options_of({"port": 0, "log": "none", **options})
    loop, made = new_loop(), concurrent.futures.Future[Serving]()

    async def main() -> None:
        try:
            serving = Serving(target, chosen, http)
            await serving.open()
            if ready:
                assert await serving.service.ready(), serving.service.health()
        except BaseException as e:
            made.set_exception(e)
            return
        made.set_result(serving)
        await serving.wait_closed()

    def live() -> None:
        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=live, name="server")
    thread.start()
    try:
        server = Server(made.result(LATE), loop)
        try:
            yield server
        finally:
            server.client.close()
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    loop.call_soon_threadsafe(server.serving.server.stop)
    finally:
        thread.join()


def threads_and_files() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def written(folder: Path, text: str) -> str:
    """The target of a predictor file of this text."""
    file = folder / "predict.py"
    file.write_text(text)
    return f"{file}:Predictor"
