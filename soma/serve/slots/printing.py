"""What coroutines print, told apart by context: `sys.stdout` and `sys.stderr` of a process that runs several predictions at once.

A text goes to the page of the prediction whose coroutine, or whose `asyncio.to_thread`, printed it. What is printed past Python's
`print` (C code, child processes, `sys.stdout.buffer`) or by threads of another making cannot be told apart and goes to the log of the
process.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from soma.serve.slots.lines import LineBlocks

PAUSE = 0.005
"""Seconds between two messages of a prediction that prints all the time,"""
MANY = 16_000
"""and characters after which it is not waited for."""


class Page:
    """One prediction's prints. `tell` is called in the context of its making; by `end`, all was told."""

    def __init__(self, tell: Callable[[str], None], loop: asyncio.AbstractEventLoop) -> None:
        self._tell, self._loop = tell, loop
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._lines = LineBlocks()
        self._pieces: list[str] = []
        self._size, self._told = 0, 0.0
        self._waiting = self.ended = False

    def write(self, text: str) -> None:
        with self._lock:
            self._pieces.append(text)
            self._size += len(text)
            now = time.monotonic()
            if self._size > MANY or (now - self._told > PAUSE and text.endswith("\n")):
                self._pass_on()
            elif not self._waiting:
                self._waiting = True
                self._loop.call_soon_threadsafe(self._loop.call_later, PAUSE, self._in_time)

    def end(self) -> None:
        with self._lock:
            self._pass_on()
            self._say(self._lines.end())
            self.ended = True

    def _in_time(self) -> None:
        with self._lock:
            self._waiting = False
            if not self.ended:
                self._pass_on()

    def _pass_on(self) -> None:
        text, self._pieces, self._size = "".join(self._pieces), [], 0
        self._say(self._lines.feed(text.encode("utf-8", "backslashreplace")))
        self._told = time.monotonic()

    def _say(self, texts: list[str]) -> None:
        for text in texts:
            self._context.run(self._tell, text)


PAGE: contextvars.ContextVar[Page | None] = contextvars.ContextVar("soma_serve_page", default=None)


class Print:
    """Stands in for a stream of the process, and has all that it has; only what is written goes elsewhere."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def write(self, text: str) -> int:
        page = PAGE.get()
        if page is None or page.ended:
            return int(self._own.write(text))
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        page.write(text)
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def install() -> Callable[[], None]:
    """Put both streams in place; returns the undoing."""
    own = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Print(own[0])), cast(TextIO, Print(own[1]))

    def undo() -> None:
        sys.stdout, sys.stderr = own

    return undo
