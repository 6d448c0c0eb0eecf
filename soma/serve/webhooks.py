"""Webhooks: a client is told by POST what becomes of its prediction. Predictions never wait for them.

Every message is the prediction as it then is, so what was not sent in time is not lost: the next one says it. At most three wait for
each prediction: that it started, one for output or logs (not more often than `THROTTLE`), and its end. They are sent in order, the end
last; only the end is tried again, for it is the one that nobody may miss. `Schedule` decides; `Webhooks` sends, in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soma.serve.protocol import WEBHOOK_EVENTS, Prediction

if TYPE_CHECKING:
    import httpx

THROTTLE = 0.5
"""Seconds between two messages about output or logs."""
RETRIES = 12
TIMEOUT = 10.0
"""Seconds for one try."""
DELIVERIES = 10_000
"""Predictions whose messages may be under way at one time; more are not told, which is said in the log."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

_EVENT_OF = {"start": "start", "output": "output", "log": "logs", "completed": "completed", "error": "completed"}


def backoff(tries: int) -> float | None:
    """Seconds from one failed try to the next: 0.1, 0.2, 0.4 … 60. None after the last."""
    return min(60.0, 0.1 * 2.0 ** (tries - 1)) if tries <= RETRIES else None


@dataclass(frozen=True, slots=True)
class Message:
    """To be sent now.

    Attributes:
        event: start, output, logs or completed.
        body: what is sent; None for the prediction as it is when it is sent.
    """

    event: str
    body: bytes | None = None


class Schedule:
    """What to send, and when, for one prediction. Pure: time is an argument."""

    def __init__(self, wanted: tuple[str, ...] | None) -> None:
        self._wanted = frozenset(WEBHOOK_EVENTS if wanted is None else wanted)
        self._start: Message | None = None
        self._update: str | None = None
        self._free_at = float("-inf")
        self._ended = self._end = False

    def hear(self, event: str, body: Callable[[], bytes]) -> None:
        """Something happened. `body` says how the prediction is now."""
        if event == "completed":
            self._ended, self._end = True, "completed" in self._wanted
            if self._end:
                self._update = None  # the end says it too
        elif event not in self._wanted:
            return
        elif event == "start":
            self._start = Message("start", body())
        else:
            self._update = event

    @property
    def over(self) -> bool:
        """All is sent, and there will be nothing more."""
        return self._ended and not (self._start or self._update or self._end)

    def next(self, now: float) -> Message | float:
        """What to send now, or for how many seconds there is nothing; infinity: until something is heard."""
        if self._start is not None:
            message, self._start = self._start, None
        elif self._end:
            message, self._end = Message("completed"), False
        elif self._update is None:
            return float("inf")
        elif now < self._free_at and not self._ended:
            return self._free_at - now
        else:
            message, self._update, self._free_at = Message(self._update), None, now + THROTTLE
        return message


class Webhooks:
    """See the module. Made and used in one event loop.

    Args:
        say: told, level and words, what could not be delivered.
        backoff: seconds before another try, from the number of those that failed.
    """

    def __init__(self, say: Callable[[str, str], None] = lambda level, words: None,
                 backoff: Callable[[int], float | None] = backoff) -> None:
        self._say, self._backoff = say, backoff
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, prediction: Prediction) -> None:
        """Tell its webhook, if it has one, from now on. Call it before the prediction begins."""
        url = prediction.request.webhook
        if url is None:
            return
        if len(self._tasks) >= DELIVERIES:
            self._say("error", f"webhook of {prediction.id!r}: not told, {DELIVERIES} others are under way")
            return
        schedule, heard = Schedule(prediction.request.webhook_events_filter), asyncio.Event()

        def hear(kind: str) -> None:
            if (event := _EVENT_OF.get(kind)) is not None:
                schedule.hear(event, lambda: _body(prediction))
                heard.set()

        prediction.listeners.append(hear)
        task = asyncio.get_running_loop().create_task(self._tell(prediction, url, schedule, heard))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (e := task.exception()) is not None:
            self._say("error", f"a webhook was not told: {type(e).__name__}: {e}")

    async def _tell(self, prediction: Prediction, url: str, schedule: Schedule, heard: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        headers = {"content-type": "application/json", "user-agent": "soma"}
        for name in ("traceparent", "tracestate"):
            value = prediction.context.get(name, "")
            if value and value.isascii() and value.isprintable():
                headers[name] = value
        while not schedule.over:
            heard.clear()
            message = schedule.next(loop.time())
            if isinstance(message, float):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if message == float("inf") else message):
                        await heard.wait()
                continue
            body = _body(prediction) if message.body is None else message.body
            await self._deliver(prediction.id, url, body, headers, last=message.event == "completed")

    async def _deliver(self, id: str, url: str, body: bytes, headers: dict[str, str], *, last: bool) -> None:
        tries = 0
        while True:
            tries += 1
            trouble, again = await self._post(url, body, headers)
            if not trouble:
                return
            pause = self._backoff(tries) if last and again else None
            if pause is None:
                self._say("error" if last else "warning", f"webhook of {id!r}: {trouble}; given up after {tries} tries")
                return
            await asyncio.sleep(pause)

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[str, bool]:
        """What went wrong, if anything, and whether another try may go better."""
        import httpx

        if self._client is None:
            limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
            self._client = httpx.AsyncClient(timeout=TIMEOUT, limits=limits, follow_redirects=False)
        try:
            async with asyncio.timeout(TIMEOUT), self._client.stream("POST", url, content=body, headers=headers) as answer:
                status = answer.status_code  # what it says is not read: it could be without end
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            return f"{type(e).__name__}: {e}".rstrip(": "), not isinstance(e, httpx.InvalidURL | httpx.UnsupportedProtocol)
        return ("" if status < 400 else f"answered {status}"), status in TRY_AGAIN

    async def close(self, patience: float = 5.0) -> None:
        """Deliver what is under way, for so many seconds at most, and be done."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        left = [t for t in self._tasks if not t.done()]
        if left:
            self._say("error", f"webhooks: {len(left)} predictions' ends were not delivered")
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        if self._client is not None:
            await self._client.aclose()


def _body(prediction: Prediction) -> bytes:
    return json.dumps(prediction.as_dict(), separators=(",", ":"), allow_nan=False).encode()
