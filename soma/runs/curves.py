"""The curves of a recorded run, out of its events. Pure: events in, panels of points out; `plotting` draws them.

Axes count what is done, from 1: after the first optimizer step x is 1. Steps that a group lost with a rank and did again are drawn once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from soma.events import (
    EpochCompleted,
    Event,
    GenerationCompleted,
    GenerationStarted,
    GroupRestarted,
    MemberExploited,
    MetricReported,
    RoundCompleted,
    RoundStarted,
    StepCompleted,
)

VALIDATION = "val_"


@dataclass(slots=True)
class Series:
    """Points of one metric of one node. `each` says that they are of single steps, not means over an epoch."""

    name: str
    node: str
    axis: str
    each: bool = False
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        if self.x and self.x[-1] == x:  # said twice: as a report, and with its epoch or round
            self.y[-1] = y
            return
        self.x.append(x)
        self.y.append(y)

    def forget_after(self, x: float) -> None:
        while self.x and self.x[-1] > x:
            self.x.pop()
            self.y.pop()


@dataclass(slots=True)
class Panel:
    """What is drawn in one axes: a metric of whatever nodes, and its `val_` twin."""

    title: str
    axis: str
    series: list[Series]
    restarts: list[float] = field(default_factory=list)
    exploited: list[tuple[float, float]] = field(default_factory=list)
    """Where members of a population took over the weights of better ones."""


class Curves:
    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._series: dict[tuple[str, str, str, bool], Series] = {}
        self._steps: dict[str, int] = {}
        self._restarts: list[float] = []
        self._exploits: list[MemberExploited] = []
        self._unit = ""
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        match event:
            case StepCompleted():
                self._steps[event.node] = event.step + 1
                self._add("loss", event.node, "optimizer step", event.step + 1, event.loss, each=True)
            case EpochCompleted():
                axis, x = ("optimizer step", self._steps[event.node]) if event.node in self._steps else ("epoch", event.epoch + 1)
                for name, value in {"loss": event.loss, **event.metrics}.items():
                    self._add(name, event.node, axis, x, value)
            case RoundCompleted():
                for name, value in event.metrics.items():
                    self._add(name, "", "round", event.round + 1, value)
                self._add("clients", "took part", "round", event.round + 1, len(set(event.clients) - set(event.left_out)))
                self._add("clients", "left out", "round", event.round + 1, len(event.left_out))
            case RoundStarted() | GenerationStarted():
                self._unit = "round" if isinstance(event, RoundStarted) else "generation"
            case GenerationCompleted():
                self._add("fitness", "best", "generation", event.generation + 1, event.best)
            case MemberExploited():
                self._exploits.append(event)
            case GroupRestarted():
                self._restarts.append(event.step)
                for series in self._series.values():
                    if series.axis == "optimizer step":
                        series.forget_after(event.step)
            case MetricReported():
                self._report(event)

    def _report(self, event: MetricReported) -> None:
        name, node, step = event.name, event.node, event.step
        if step is None:
            before = self._series.get((name, node, "report", False))
            self._add(name, node, "report", 1 + len(before.x if before else ()), event.value)
        elif self._unit:
            self._add(name, node, self._unit, step + 1, event.value)
        else:
            self._add(name, node, "optimizer step" if node in self._steps else "step", step, event.value)

    def _add(self, name: str, node: str, axis: str, x: float, y: float, each: bool = False) -> None:
        key = name, node, axis, each
        if key not in self._series:
            self._series[key] = Series(name, node, axis, each)
        self._series[key].add(x, y)

    def panels(self, metrics: Collection[str] | None = None) -> list[Panel]:
        """One for each metric (with its `val_` twin), in the order they were first heard of, the loss first.

        Raises:
            ValueError: nothing was recorded, or nothing of a name in `metrics`.
        """
        names = list(dict.fromkeys(s.name for s in self._series.values()))
        if unknown := sorted(set(metrics or ()) - set(names)):
            raise ValueError(f"metrics: nothing of {', '.join(unknown)} was recorded; there is {', '.join(names) or 'nothing'}")
        found: dict[tuple[str, str], Panel] = {}
        for series in sorted(self._series.values(), key=lambda s: (s.name != "loss", s.name.startswith(VALIDATION), not s.each)):
            if metrics is None or series.name in metrics:
                title = series.name.removeprefix(VALIDATION)
                found.setdefault((title, series.axis), Panel(title, series.axis, [])).series.append(series)
        if not found:
            raise ValueError("no loss and no metric was recorded, so there is nothing to draw")
        for panel in found.values():
            panel.restarts = self._restarts if panel.axis == "optimizer step" else []
            panel.exploited = list(self._exploited(panel))
        return list(found.values())

    def _exploited(self, panel: Panel) -> Iterable[tuple[float, float]]:
        if panel.title != "fitness":
            return
        for event in self._exploits:
            for series in panel.series:
                if member_of(series.node) == event.member and event.generation + 1 in series.x:
                    yield event.generation + 1, series.y[series.x.index(event.generation + 1)]


def member_of(node: str) -> int | None:
    """The number at the end of a member's name."""
    found = re.search(r"\d+$", node)
    return int(found.group()) if found else None
