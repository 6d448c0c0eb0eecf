"""The runs of a graph that are under way, so that somebody else can end them.

Cancelling asks first and forces then: the waiting thread raises `TaskCancelledError`, processes that the cancelled runs had started are
ended, others stay as they were, and what did not end when asked is made anew when it is needed again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from soma.graph.execution import GRACE, Execution
from soma.graph.processes import Processes

ENDED = 2.0
"""Seconds that a run has to be over once its processes were ended by force."""


def _nothing() -> None:
    """Who runs it does not pause."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One run: what drives it now, who does, and what ends it where nobody drives it at the moment."""

    thread: int
    processes: Processes
    if_idle: Callable[[], None]
    execution: Execution | None = None
    asked: bool = False
    forcible: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, force: bool) -> None:
        self.asked, self.forcible = True, self.forcible or force
        if self.execution is not None:
            self.execution.cancel(force=force)
        self.processes.ask_no_more()
        self.if_idle()


class UnderWay:
    """Of one graph."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._before: frozenset[str] = frozenset()
        self._all_cancelled = True

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._entries)

    @contextlib.contextmanager
    def run(self, id: str, processes: Processes, if_idle: Callable[[], None] = _nothing) -> Iterator[None]:
        """Around a run. `if_idle` ends one that pauses (a stream between two chunks); any thread calls it."""
        entry = _Entry(threading.get_ident(), processes, if_idle)
        with self._lock:
            if not self._entries:
                self._before, self._all_cancelled = processes.actors, True
            self._entries[id] = entry
        try:
            yield
        finally:
            if entry.execution is not None:
                entry.execution.let_go()
            with self._lock:
                del self._entries[id]
                self._all_cancelled = self._all_cancelled and entry.asked
                if not self._entries and self._all_cancelled:
                    processes.end_all_but(self._before)
            entry.over.set()

    def drives(self, id: str, execution: Execution) -> None:
        """What a run's calls go through, from now on, driven by this thread."""
        with self._lock:
            entry = self._entries.get(id)
            if entry is not None:
                entry.execution, entry.thread = execution, threading.get_ident()
        if entry is not None and entry.asked:
            execution.cancel(force=entry.forcible)

    def cancel(self, *, force: bool, only: str | None = None) -> int:
        """End all that is under way, or one run; how many there were. Returns when they are over, unless this thread is one of theirs."""
        with self._lock:
            entries = [e for id, e in self._entries.items() if only in (None, id)]
        for entry in entries:
            entry.ask(force)
        others = [e for e in entries if e.thread != threading.get_ident()]
        left = _wait(others, GRACE)
        if force:
            for entry in left:
                if entry.execution is not None:
                    entry.execution.force()
            _wait(left, ENDED)
        return len(entries)


def _wait(entries: list[_Entry], seconds: float) -> list[_Entry]:
    """Those that are not over by then."""
    until = time.monotonic() + seconds
    return [e for e in entries if not e.over.wait(max(0.0, until - time.monotonic()))]
