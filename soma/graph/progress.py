"""A progress bar on stderr, drawn from a run's events: nodes done, chunks, cache hits, time left. Silent, and without loading rich, where
stderr is no terminal."""

from __future__ import annotations

import sys
from typing import Any

from soma.cluster.hub import Subscriber
from soma.events import (
    EpochCompleted,
    Event,
    NodeCacheHit,
    NodeCompleted,
    NodeFailed,
    NodeProgress,
    NodeStarted,
    RunCompleted,
    RunFailed,
    RunStarted,
)


def bar(title: str, shown: bool | None, chunks: int | None = None) -> tuple[Subscriber, ...]:
    """Who draws a run; nobody if nothing is to be shown. `shown=None` shows it in a terminal; True always; False never."""
    return (Bar(title, chunks),) if (sys.stderr.isatty() if shown is None else shown) else ()


class Bar:
    """Subscribes to a run. Begins with its first event and ends with its last."""

    def __init__(self, title: str, chunks: int | None) -> None:
        self._title, self._chunks, self._nodes = title, chunks, 0
        self._bar: Any = None
        self._done: set[str] = set()
        self._running: dict[str, str] = {}
        self._hits = self._last_chunk = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._nodes = event.nodes
        if self._bar is None:
            self._start()
        self._take(event)
        if isinstance(event, (RunCompleted, RunFailed)):
            self._show()
            self._bar.stop()
        else:
            self._show()

    def _take(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self._running[event.node] = ""
            case NodeCompleted():
                self._done.add(event.node)
                self._running.pop(event.node, None)
                if event.chunk is not None:
                    self._last_chunk = max(self._last_chunk, event.chunk + 1)
            case NodeFailed():
                self._running.pop(event.node, None)
            case NodeCacheHit():
                self._hits += 1
                self._done.add(event.node)
            case NodeProgress():
                share = f"{event.done / event.total:.0%}" if event.total else f"{event.done:g}"
                self._running[event.node] = f" {share} {event.text}".rstrip()
            case EpochCompleted():
                self._running[event.node] = f" epoch {event.epoch + 1}/{event.epochs}, loss {event.loss:.3g}"

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[said]}", markup=True))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(self._title, total=self._chunks or self._nodes, said="")
        self._bar.start()

    def _show(self) -> None:
        from rich.markup import escape

        said = [f"{self._hits} from the cache"] if self._hits else []
        if self._last_chunk and self._chunks is None:
            said.append(f"chunk {self._last_chunk}")
        running = [f"{node}{more}" for node, more in list(self._running.items())[:3]]
        said.append(", ".join(running) + (" …" if len(self._running) > 3 else ""))
        done = self._last_chunk if self._chunks is not None else len(self._done)
        self._bar.update(self._task, completed=done, said=escape("; ".join(s for s in said if s)))
