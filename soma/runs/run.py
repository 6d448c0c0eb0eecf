"""One run: its events, numbered, in order, to its directory and to who subscribed."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from soma.cluster.hub import HUB, Hub, Subscriber
from soma.events import Event, MetricReported, RunCompleted, RunFailed, TrialMetric, event_of
from soma.runs.folder import RunFolder


class Run:
    """Use it in a `with`: its end is the run's end, and an exception makes it a failed one.

    Args:
        what: "fit", "forward", "run", "stream", "train", "study".
        folder: where it is recorded; None records nothing.
        listeners: who hears its events besides the process's subscribers (a progress bar).
        hub: the process's subscribers.

    Events may come from any thread; each gets the next number. One thread at a time tells them, in order, without a lock held: a listener
    may call any verb, and what that makes happen is told when it returns.
    """

    def __init__(self, what: str, folder: RunFolder | None = None, listeners: tuple[Subscriber, ...] = (), hub: Hub = HUB) -> None:
        self.what, self.folder, self._listeners, self._hub = what, folder, listeners, hub
        self.id = folder.id if folder is not None else new_id(what)
        self._changed = threading.Condition()
        self._seq = 0
        self._noted: deque[Event] = deque()
        self._telling = False
        self._began = time.perf_counter()
        self.failed_node = ""
        """Named in `RunFailed`."""
        self.wanted = bool(listeners) or folder is not None or hub.wanted
        """Whether anybody hears of it; if not, events need not be made."""

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """The next event of this run, told at once; by who is telling already, if somebody is."""
        if self.wanted:
            self._add(kind, fields)
            self.tell()

    def note(self, kind: type[Event], **fields: Any) -> None:
        """The next event of this run; told by `tell`, or with the next one that is emitted. For where something else should go first,
        so that who waits for it works meanwhile."""
        if self.wanted:
            self._add(kind, fields)

    def tell(self) -> None:
        """Tell what was noted."""
        with self._changed:
            if self._telling or not self._noted:
                return
            self._telling = True
        try:
            while (event := self._next()) is not None:
                self._deliver(event)
        except BaseException:
            self._stop_telling()
            raise

    def _next(self) -> Event | None:
        """To be told now; None, and others may tell again, when there is nothing more."""
        with self._changed:
            if self._noted:
                return self._noted.popleft()
            self._stop_telling()
            return None

    def _stop_telling(self) -> None:
        with self._changed:
            self._telling = False
            self._changed.notify_all()

    def _add(self, kind: type[Event], fields: dict[str, Any]) -> None:
        with self._changed:
            self._noted.append(kind(run_id=self.id, seq=self._seq, time=time.time(), **fields))
            self._seq += 1

    def _deliver(self, event: Event) -> None:
        if self.folder is not None:
            self.folder.add(event)
            if isinstance(event, MetricReported | TrialMetric):
                self.folder.add_metric(event)
        for fn in self._listeners:
            fn(event)
        self._hub.publish(event)

    def told(self, fields: dict[str, Any]) -> None:
        """An event that an actor of this run told of, as plain data without a number."""
        if self.wanted:
            event = event_of(fields)
            known = {k: v for k, v in event.as_dict().items() if k not in ("kind", "run_id", "seq", "time")}
            self.emit(type(event), **known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        ms = (time.perf_counter() - self._began) * 1e3
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                stack.callback(self.folder.close, "completed" if error is None else "failed", error)
            if error is None:
                self.emit(RunCompleted, duration_ms=ms)
            else:
                self.emit(RunFailed, error=str(error)[:2000], error_type=type(error).__name__, node=self.failed_node, duration_ms=ms)
            with self._changed:  # another thread may be telling the last ones
                self._changed.wait_for(lambda: not self._telling)


def new_id(what: str) -> str:
    """Sorts by time and cannot collide: `20261124-135704-fit-3fa9c1`."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{what}-{secrets.token_hex(3)}"
