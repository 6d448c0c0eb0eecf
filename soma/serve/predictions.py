"""One prediction in the front end: what it is, what it said so far, who listens.

It ends once: what comes afterwards changes nothing. Readers who come late get what was said before, as far as it is kept.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from soma.serve.protocol import Refused, Request
from soma.serve.states import PREDICTION, Status, after

HISTORY = 1024
"""Events that are kept for late readers."""
BEHIND = 65_536
"""Events that a reader may be behind; who is further behind misses the oldest."""
READERS = 1024
"""Readers that a prediction may have."""

Said = tuple[str, Any]
_OVER = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})


class Prediction:
    """See the module. Belongs to the event loop's thread.

    Args:
        id, kind: "prediction" or "training".
        request: as it came.
        version: of what is served.
        on_gone: called when the client that waits for the answer has gone.
    """

    def __init__(self, id: str, kind: str, request: Request, version: str, on_gone: Callable[[], None]) -> None:
        self.id, self.kind, self.request, self.version = id, kind, request, version
        self.key = f"{kind}/{id}"
        """What it is known by: a training may have the id of a prediction."""
        self.context: Mapping[str, str] = request.context
        self._on_gone = on_gone
        self.clean: dict[str, Any] = {}
        """Its input, checked."""
        self.ended_at = 0.0
        self._status = Status.STARTING
        self._created = time.time()
        self._started = self._completed = 0.0
        self._began = 0.0
        self.took: float | None = None
        """Seconds from its beginning to its end."""
        self._output: Any = None
        self._listed = False
        self._logs: list[str] = []
        self.error = ""
        self._metrics: dict[str, Any] = {}
        self._history: deque[Said] = deque()
        self._trim_at = HISTORY + HISTORY // 4
        self._said = 0
        self._readers: dict[object, int] = {}
        """How much of what was said each has got."""
        self._changed: asyncio.Event | None = None
        self._end: asyncio.Future[None] | None = None
        self.listeners: list[Callable[[str], None]] = []
        """Told the kind of every event, here and now."""

    # -- what happens to it ----------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        self._status, self._began, self._started = after(PREDICTION, self._status, "begin"), now, time.time()
        self._tell("start", self._started)

    def requeue(self) -> None:
        """Its slot died before it had begun there."""
        self._status, self._started = after(PREDICTION, self._status, "requeue"), 0.0

    def log(self, text: str) -> None:
        if not self.done:
            self._logs.append(text)
            self._tell("log", {"source": "stdout", "data": text})

    def output(self, index: int, value: Any) -> None:
        """One item of an output that is a list."""
        if not self.done:
            if not self._listed:
                self._output, self._listed = [], True
            self._output.append(value)
            self._tell("output", {"chunk": value, "index": index})

    def metric(self, name: str, value: Any, mode: str) -> None:
        if not self.done:
            at = self._metrics
            *path, last = name.split(".")
            for part in path:
                at = at.setdefault(part, {})
            match mode:
                case "increment":
                    at[last] = at.get(last, 0) + value
                case "append":
                    at.setdefault(last, []).append(value)
                case _:
                    at[last] = value
            self._tell("metric", {"name": name, "value": value, "mode": mode})

    def finish(self, how: str, now: float, *, output: Any = None, is_list: bool = False, error: str = "",
               metrics: Mapping[str, Any] | None = None, took: float | None = None) -> bool:
        """It has ended: `how` is "succeed", "fail" or "cancel". False if it had ended before. `took`: as measured where it ran."""
        if self.done:
            return False
        begun = self._status is Status.PROCESSING
        self._status = after(PREDICTION, self._status, how)
        self._completed, self.took = time.time(), took if took is not None else now - self._began if begun else 0.0
        if not self._listed:
            self._output = [] if is_list and output is None else output
        self.error = error
        self._metrics = {**self._metrics, **(metrics or {}), "predict_time": self.took}
        self._tell("error" if how == "fail" else "completed", None)
        self.listeners.clear()  # they know this prediction, and would keep it until the garbage collector comes by
        if self._end is not None:
            self._end.set_result(None)
        return True

    def _tell(self, kind: str, data: Any) -> None:
        self._history.append((kind, data))
        self._said += 1
        if len(self._history) >= self._trim_at:
            self._trim()
        for fn in self.listeners:
            fn(kind)
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _trim(self) -> None:
        """Forget what is too old for late readers, and what the present ones have got."""
        needed = self._said - min(self._readers.values(), default=self._said)
        for _ in range(len(self._history) - max(HISTORY, min(needed, BEHIND))):
            self._history.popleft()
        self._trim_at = len(self._history) + HISTORY // 4

    # -- what it is ------------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        return self._status.value

    @property
    def done(self) -> bool:
        return self._status in _OVER

    def as_dict(self) -> dict[str, Any]:
        """As answers and webhooks say it: Cog's fields."""
        told = {"id": self.id, "status": self._status.value, "input": self.request.input, "output": self._output,
                "logs": "".join(self._logs), "error": self.error or None, "metrics": self._metrics, "version": self.version,
                "created_at": self.request.created_at or stamp(self._created), "started_at": stamp(self._started),
                "completed_at": stamp(self._completed)}
        if self.request.webhook is not None:
            told["webhook"] = self.request.webhook
        return told

    # -- who waits -------------------------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until it has ended."""
        if not self.done:
            if self._end is None:
                self._end = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._end)

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    async def events(self) -> AsyncIterator[Said]:
        """What it says, from the beginning as far as that is kept, to its end.

        Raises:
            Refused: it has too many readers.
        """
        if len(self._readers) >= READERS:
            raise Refused(429, f"this prediction has {READERS} readers already")
        me = object()
        self._readers[me] = self._said - min(len(self._history), HISTORY)
        try:
            while True:
                while self._readers[me] < self._said:
                    at = max(self._readers[me], self._said - len(self._history))
                    kind, data = self._history[at - self._said]
                    self._readers[me] = at + 1
                    yield kind, self._shown(kind, data)
                if self.done:
                    return
                await self._change()
        finally:
            del self._readers[me]

    def _shown(self, kind: str, data: Any) -> Any:
        """An event as it is told; most predictions have nobody who reads them."""
        if kind == "start":
            return {"id": self.id, "status": Status.PROCESSING.value, "started_at": stamp(data)}
        return self.as_dict() if data is None else data

    def abandoned(self) -> None:
        """The client that waited for the answer has gone."""
        if not self.done:
            self._on_gone()


def stamp(at: float) -> str | None:
    """Unix seconds as ISO 8601 in UTC, to the microsecond; None for 0, which is never."""
    if not at:
        return None
    micros = round(at * 1e6)
    return f"{_second(micros // 1_000_000)}.{micros % 1_000_000:06d}+00:00"


@functools.lru_cache(maxsize=16)
def _second(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
