"""A study's live view on stderr, drawn from its events: trials done, running, pruned and failed, the best so far, trials a minute, time
left.

Events are only counted in; a thread of rich's draws what was counted, a few times a second. Silent, and without loading rich, where
stderr is no terminal.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from soma.cluster.hub import Subscriber
from soma.events import (
    BestUpdated,
    Event,
    RunCompleted,
    RunFailed,
    StudyProgress,
    StudyStarted,
    TrialCompleted,
    TrialFailed,
    TrialMetric,
    TrialPruned,
    TrialStarted,
)
from soma.runs.drawing import RunView
from soma.study.outcome import dominates

RECENT = 50
"""Of so many trials the median duration and the rate are taken."""
MOST_PARAMS = 6


def watching(name: str, shown: bool | None, objectives: Sequence[str] = ("value",),
             directions: Sequence[str] = ("minimize",)) -> tuple[Subscriber, ...]:
    """Who draws a study; nobody if nothing is to be shown.

    Args:
        name: of the study.
        shown: None shows it in a terminal; True always; False never.
        objectives, directions: of the study; of several, the view tells the size of the front.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        return ()
    tally = Tally(objectives, directions)
    return (RunView(tally.take, lambda width: _drawn(name, tally, width)),)


def _drawn(name: str, tally: Tally, width: int) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    now = time.time()
    head = Table.grid(padding=(0, 1))
    for _ in range(2):
        head.add_column(no_wrap=True)
    head.add_column(no_wrap=True, overflow="ellipsis")
    head.add_row(Text(f"study {name}", "bold"), ProgressBar(tally.total, tally.done, width=min(30, width // 5)),
                 tally.where(now))
    lines = [Text(f"  {said}", style, no_wrap=True, overflow="ellipsis")
             for said, style in ((tally.words(now), "dim"), (tally.best(), "")) if said]
    return Group(head, *lines)


class Tally:
    """What a study has told so far. Pure: events, with the times they carry, in; counts and words out.

    What `done` and the like count is the study's whole, also what was there before this run; rates and times are this run's.
    """

    def __init__(self, objectives: Sequence[str] = ("value",), directions: Sequence[str] = ("minimize",)) -> None:
        self.total: int | None = None
        self.done = self.pruned = self.failed = 0
        self._objectives, self._directions = tuple(objectives), tuple(directions)
        self._running: dict[int, float] = {}
        self._at_once = self._count = 0
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._took: deque[float] = deque(maxlen=RECENT)
        self._began: float | None = None
        self._ended: float | None = None
        self._front: list[BestUpdated] = []
        self._reported: dict[int, TrialMetric] = {}
        self._told: set[str] = set()
        self._failure = ""

    def take(self, event: Event) -> str:
        """Counts it in. Returns what should be said above the view: of the first failure of each kind."""
        if self._began is None:
            self._began = event.time
        match event:
            case StudyStarted():
                self.total = event.total
            case TrialStarted():
                self._running[event.trial] = event.time
                self._at_once = max(self._at_once, len(self._running))
            case TrialMetric():
                self._reported[event.trial] = event
            case TrialCompleted() | TrialPruned() | TrialFailed():
                self._end(event.trial, event.time)
                if isinstance(event, TrialFailed):
                    return self._first_time(event)
            case BestUpdated():
                self._improve(event)
            case StudyProgress():
                self.done, self.pruned, self.failed = event.done, event.pruned, event.failed
                self.total = event.total if event.total is not None else self.total
            case RunCompleted():
                self._ended = event.time
            case RunFailed():
                self._ended, self._failure = event.time, event.error_type
        return ""

    def _end(self, trial: int, now: float) -> None:
        began = self._running.pop(trial, None)
        self._reported.pop(trial, None)
        self._ends.append(now)
        self._count += 1
        if began is not None:
            self._took.append(max(0.0, now - began))

    def _first_time(self, event: TrialFailed) -> str:
        if event.error_type in self._told:
            return ""
        self._told.add(event.error_type)
        lines = event.error.splitlines()
        return f"trial {event.trial} failed: {event.error_type}: {lines[0][:200] if lines else ''}"

    def _improve(self, event: BestUpdated) -> None:
        if len(self._objectives) == 1:
            self._front = [event]
            return
        fresh = self._point(event)
        self._front = [old for old in self._front if not dominates(fresh, self._point(old), self._directions)] + [event]

    def _point(self, event: BestUpdated) -> list[float]:
        return [event.values[name] for name in self._objectives]

    # -- numbers ---------------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return len(self._running)

    def elapsed(self, now: float) -> float:
        """Seconds of this run."""
        return 0.0 if self._began is None else max(0.0, (now if self._ended is None else self._ended) - self._began)

    def rate(self, now: float) -> float | None:
        """Trials that end in a minute: of late, as long as it goes on; over the whole run afterwards."""
        if not self._ends or self._began is None:
            return None
        if self._ended is not None or self._count <= RECENT:
            count, seconds = self._count, self.elapsed(now)
        else:
            count, seconds = RECENT - 1, now - self._ends[0]
        return 60 * count / seconds if seconds > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds until all is done: what remains takes the median of the durations so far, as many at once as there have been."""
        if self.total is None or not self._took or self._ended is not None:
            return None
        remaining = self.total - self.done
        if remaining <= 0:
            return 0.0
        each = statistics.median(list(self._took))
        gone = sum(min(each, max(0.0, now - began)) for began in list(self._running.values()))
        return max(0.0, remaining * each - gone) / max(1, min(self._at_once, remaining))

    # -- words -----------------------------------------------------------------------------------------------------------------

    def where(self, now: float) -> str:
        """"12/60 trials in 0:34, 1:40 left"."""
        left = self.left(now)
        said = f"{self.done}{f'/{self.total}' if self.total is not None else ''} trial{'' if (self.total or self.done) == 1 else 's'}"
        return f"{said} in {clock(self.elapsed(now))}" + (f", {clock(left)} left" if left else "")

    def words(self, now: float) -> str:
        """"4 running, 2 pruned, 1 failed, 21.3 trials a minute"."""
        rate = self.rate(now)
        said = [f"{n} {state}" for n, state in ((self.running, "running"), (self.pruned, "pruned"), (self.failed, "failed")) if n]
        said += [f"{rate:,.3g} trials a minute"] if rate is not None else []
        if self.running == 1 and (metric := next(iter(list(self._reported.values())), None)) is not None:
            said.append(f"{metric.name} {metric.value:.4g}" + ("" if metric.step is None else f" at step {metric.step}"))
        return ", ".join([*said, *([f"ended by {self._failure}"] if self._failure else [])])

    def best(self) -> str:
        """"best loss 0.0312 (trial 17): lr=0.00241, kernel=rbf"; of several objectives the size of the front, and its latest."""
        if not self._front:
            return ""
        latest = self._front[-1]
        values = ", ".join(f"{name} {latest.values.get(name, float('nan')):.6g}" for name in self._objectives)
        front = "best" if len(self._objectives) == 1 else f"{len(self._front)} on the front, the latest:"
        params = briefly(latest.params)
        return f"{front} {values} (trial {latest.trial})" + (f": {params}" if params else "")


def briefly(params: Mapping[str, Any]) -> str:
    """Parameters on one line."""
    said = [f"{name}={f'{value:.4g}' if isinstance(value, float) else str(value)[:24]}" for name, value in params.items()]
    return ", ".join(said[:MOST_PARAMS]) + (", …" if len(said) > MOST_PARAMS else "")


def clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"
