"""A training's progress bar on stderr, drawn from its events: epochs, rounds or generations done, loss, rows per second, ranks, time left.

Events are only counted in (about a microsecond each); a thread of rich's draws what was counted, ten times a second. Silent, and without
loading rich, where stderr is no terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from soma.cluster.hub import Subscriber
from soma.events import (
    EpochCompleted,
    EpochStarted,
    Event,
    GenerationCompleted,
    GenerationStarted,
    GroupRestarted,
    MemberExploited,
    MetricReported,
    RoundCompleted,
    RoundStarted,
    RunCompleted,
    RunFailed,
    StepCompleted,
)
from soma.runs.drawing import RunView


def training_bar(title: str, shown: bool | None, ranks: int = 1, steps: int | None = None,
                 generations: int | None = None) -> tuple[Subscriber, ...]:
    """Who draws a training; nobody if nothing is to be shown.

    Args:
        title: what is trained.
        shown: None shows it in a terminal; True always; False never.
        ranks: how many train together.
        steps: optimizer steps of an epoch, where they are known; else there is no time left before the first epoch is done.
        generations: of a population, whose events do not tell it.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        return ()
    seen = Seen(ranks, steps, generations)
    return (RunView(lambda event: seen.take(event, time.monotonic()), lambda width: _drawn(title, seen, width)),)


def _drawn(title: str, seen: Seen, width: int) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    now = time.monotonic()
    left = seen.left(now)
    row = Table.grid(padding=(0, 1))
    for _ in range(3):
        row.add_column(no_wrap=True)
    row.add_column()  # the one that is cut where the terminal is narrow
    row.add_row(Text(title, "bold"), ProgressBar(seen.total, seen.done(), width=min(24, width // 8)),
                f"{seen.where()} in {clock(seen.elapsed(now))}" + (f", {clock(left)} left" if left is not None else ""),
                Text(seen.words(now), "dim", no_wrap=True, overflow="ellipsis"))
    return row


class Seen:
    """What a training has told so far. Pure: events and seconds in; how far it is, and words, out.

    Epochs inside of rounds and generations (of a client, of a member) do not move the bar.
    """

    def __init__(self, ranks: int = 1, steps: int | None = None, generations: int | None = None) -> None:
        self.total: int | None = None
        self._ranks, self._steps_each, self._generations = ranks, float(steps or 0), generations
        self._unit, self._at, self._whole, self._first = "", 0, 0, 0
        self._began = self._since = self._ended = -1.0
        self._step, self._restarted = -1, False
        self._loss = self._weight = self._rate = 0.0
        self._rows = self._exploited = 0
        self._metrics: dict[str, float] = {}
        self._also: dict[str, str] = {}
        self._told: set[str] = set()

    def take(self, event: Event, now: float) -> str:
        """Counts it in. Returns what should be said above the bar: of deaths and of clients left out."""
        if self._began < 0:
            self._began = now
        match event:
            case StepCompleted():
                self._step = event.step
                self._rows += event.rows
                self._weight += event.rows or 1
                self._loss += event.loss * (event.rows or 1)
            case MetricReported() if not event.node:  # not what each client or member says of itself
                self._metrics[event.name] = event.value
            case EpochStarted() | RoundStarted() | GenerationStarted():
                self._begins(event, now)
            case EpochCompleted() | RoundCompleted() | GenerationCompleted():
                return self._ends(event)
            case MemberExploited():
                self._exploited += 1
                self._also["exploited"] = f"{self._exploited} exploited"
            case GroupRestarted():
                return self._restarts(event)
            case RunCompleted():
                self._ended = now
            case RunFailed():
                self._ended, self._also["failed"] = now, f"failed: {event.error_type}"
        return ""

    def _begins(self, event: EpochStarted | RoundStarted | GenerationStarted, now: float) -> None:
        match event:
            case EpochStarted() if self._unit in ("", "epoch"):
                self._enters("epoch", event.epoch, event.epochs, now)
            case RoundStarted():
                self._enters("round", event.round, event.rounds, now)
                self._also["clients"] = counted(len(event.clients), "client")
            case GenerationStarted():
                self._enters("generation", event.generation, self._generations, now)
                self._also["members"] = counted(event.members, "member")

    def _enters(self, unit: str, at: int, total: int | None, now: float) -> None:
        if self._unit != unit:
            self._first = self._whole = at
        self._unit, self._at, self.total, self._since = unit, at, total, now
        self._loss = self._weight = 0.0
        self._rows = 0

    def _ends(self, event: EpochCompleted | RoundCompleted | GenerationCompleted) -> str:
        match event:
            case EpochCompleted():
                self._metrics |= event.metrics
                if self._unit == "epoch":
                    self._whole = event.epoch + 1
                    self._loss, self._weight = event.loss, 1.0
                    self._rate = event.rows / event.duration_ms * 1e3 if event.duration_ms else 0.0
                    self._steps_each = (self._step + 1) / self._whole
            case RoundCompleted():
                self._whole = event.round + 1
                self._metrics |= event.metrics
                self._also["left out"] = f"left out: {', '.join(event.left_out)}" if event.left_out else ""
                return self._first_time(event.left_out)
            case GenerationCompleted():
                self._whole = event.generation + 1
                self._also["best"] = f"best {event.best:.4g} (member {event.member})"
        return ""

    def _first_time(self, left_out: Mapping[str, str]) -> str:
        fresh = [f"client {name} is left out: {why}" for name, why in left_out.items() if f"{name}: {why}" not in self._told]
        self._told |= {f"{name}: {why}" for name, why in left_out.items()}
        return "\n".join(fresh)

    def _restarts(self, event: GroupRestarted) -> str:
        self._ranks, self._step, self._restarted = event.ranks, event.step - 1, True
        lost = ("rank " if len(event.lost) == 1 else "ranks ") + ", ".join(map(str, event.lost)) if event.lost else "a rank"
        why = f" ({event.reason.splitlines()[0][:120]})" if event.reason else ""
        return f"lost {lost}{why}: {counted(event.ranks, 'rank')} from step {event.step} on, as generation {event.generation}"

    def done(self) -> float:
        """Epochs, rounds or generations; of an epoch under way the share, once it is known how many steps one has."""
        if self._whole > self._at or self._unit != "epoch" or not self._steps_each:
            return float(self._whole)
        return self._at + min(max((self._step + 1) / self._steps_each - self._at, 0.0), 0.99)

    def elapsed(self, now: float) -> float:
        return (self._ended if self._ended >= 0 else now) - self._began

    def left(self, now: float) -> float | None:
        """Seconds, if it goes on as it went so far."""
        gone = self.done() - self._first
        if self._ended >= 0 or self.total is None or gone <= 0:
            return None
        return self.elapsed(now) / gone * (self.total - self.done())

    def where(self) -> str:
        return f"{self._unit} {self._at + 1}{f'/{self.total}' if self.total else ''}" if self._unit else "starting"

    def words(self, now: float) -> str:
        under_way = self._whole <= self._at and now > self._since and self._ended < 0
        rate = self._rows / (now - self._since) if self._rows and under_way else self._rate
        said = (f"step {self._step + 1:,}" if self._step >= 0 else "", f"loss {self._loss / self._weight:.4g}" if self._weight else "",
                f"{rate:,.0f} rows/s" if rate else "", counted(self._ranks, "rank") if self._ranks > 1 or self._restarted else "",
                *(f"{name} {value:.4g}" for name, value in list(self._metrics.items())[:3]), *self._also.values())
        return ", ".join(s for s in said if s)


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"
