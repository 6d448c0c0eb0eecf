"""A run as it is drawn on stderr while it goes on: what was counted from its events, redrawn a few times a second by a thread of rich's.

rich is loaded with the first event: whoever draws nothing never loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from soma.events import Event, RunCompleted, RunFailed

REDRAWS = 10
"""A second, at most."""


class RunView:
    """Subscribes to a run. Begins with its first event and ends with its last.

    Args:
        take: counts an event in; gives what is to be said above the picture, or "".
        draw: gives what rich shows, for a terminal so many columns wide.
    """

    def __init__(self, take: Callable[[Event], str], draw: Callable[[int], Any]) -> None:
        self._take, self._draw = take, draw
        self._live: Any = None
        self._console: Any = None

    def __call__(self, event: Event) -> None:
        aloud = self._take(event)
        if self._live is None:
            self._start()
        if aloud:
            self._console.print(aloud, markup=False, highlight=False)
        if isinstance(event, RunCompleted | RunFailed):
            self._live.stop()

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=REDRAWS, get_renderable=lambda: self._draw(self._console.width))
        self._live.start()
