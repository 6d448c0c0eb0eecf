"""Server-sent events: what a prediction says, while it says it.

One event is `event: <kind>` and `data: <compact JSON>`. A reader that hears nothing for a while gets a comment, so that nothing between
us thinks the connection dead. One that does not take what it is sent is cut off; one that is gone is noticed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from soma.serve.http.answers import NOSNIFF, Answer, Send, encode
from soma.serve.http.connection import Connection
from soma.serve.http.options import HttpOptions
from soma.serve.protocol import Prediction, Refused

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), NOSNIFF]
PING = b": still here\n\n"


def event(kind: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode(data))


class Readers:
    """All readers of events at one time."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self.count = 0

    async def follow(self, prediction: Prediction, connection: Connection, send: Send, *, owns: bool) -> Answer | None:
        """Tell one reader all of it; there is nothing to answer any more then.

        Args:
            owns: the prediction was made for this reader: it is abandoned when the reader goes.

        Raises:
            Refused: 429, there are too many.
        """
        if self.count >= self._options.streams:
            raise Refused(429, f"there are {self._options.streams} readers of events already", retry_after=1.0)
        self.count += 1
        try:
            await _Reader(self._options, connection, send).run(prediction)
        finally:
            self.count -= 1
            if owns and connection.gone:
                prediction.abandoned()
        return None


class _Reader:
    """One of them."""

    def __init__(self, options: HttpOptions, connection: Connection, send: Send) -> None:
        self._options, self._connection, self._send = options, connection, send
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._pings: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, prediction: Prediction) -> None:
        events = prediction.events()
        task = asyncio.current_task()
        assert task is not None
        first = asyncio.ensure_future(anext(events, None))  # a generator refuses in its first step, before there is an answer

        def leave() -> None:
            task.cancel()

        self._connection.on_gone = leave
        if self._connection.gone:
            task.cancel()
        try:
            await asyncio.sleep(0)
            if first.done() and first.exception() is not None:
                first.result()
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._say(b": hello\n\n")
            self._arm()
            if (said := await first) is not None:
                await self._say(event(*said))
                async for kind, data in events:
                    await self._say(event(kind, data))
            await self._say(b"", more=False)
        except asyncio.CancelledError:
            if not self._connection.gone:
                raise
        except TimeoutError:
            self._connection.abort()
        finally:
            self._connection.on_gone = None
            if self._timer is not None:
                self._timer.cancel()
            for ping in self._pings:
                ping.cancel()
            await _end(first, events)

    async def _say(self, part: bytes, *, more: bool = True) -> None:
        self._heard = self._loop.time()
        if self._connection.flow.write_paused:
            async with asyncio.timeout(self._options.write_timeout):
                await self._connection.flow.drain()
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._heard + self._options.ping, self._ping)

    def _ping(self) -> None:
        if self._loop.time() - self._heard >= self._options.ping and not self._connection.flow.write_paused:
            self._heard = self._loop.time()
            task = self._loop.create_task(self._send({"type": "http.response.body", "body": PING, "more_body": True}))
            self._pings.add(task)
            task.add_done_callback(self._pings.discard)
        elif self._connection.flow.write_paused:
            self._heard = self._loop.time()
        self._arm()


async def _end(first: asyncio.Future[Any], events: AsyncIterator[Any]) -> None:
    """Let go of a prediction's events, wherever reading them stopped."""
    if not first.done():
        first.cancel()
        await asyncio.wait([first])
    close: Callable[[], Any] | None = getattr(events, "aclose", None)
    if close is not None:
        await close()
