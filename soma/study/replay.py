"""A study as its recorded events tell it: of one that was kept in memory, and of which nothing else is left. Pure.

Events name neither a trial's seed nor its worker, nor the space: dimensions go from the lowest to the highest value that was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from soma.events import Event, TrialCompleted, TrialFailed, TrialMetric, TrialPruned, TrialStarted
from soma.study.board import Board, Dimension, text
from soma.study.results import FinishedTrial

WIDE = 100
"""Positive numbers over more than this factor are seen on a logarithmic scale."""


def replayed(name: str, told: Mapping[str, Any], events: Iterable[Event]) -> Board:
    """The board of a run.

    Args:
        name: of the study.
        told: what the run's manifest says of it: "objectives" and, unless all are minimized, "directions".
        events: of the run.
    """
    trials: dict[int, FinishedTrial] = {}
    for event in events:
        match event:
            case TrialStarted():
                trials[event.trial] = FinishedTrial(event.trial, "running", dict(event.params), started=event.time, config=event.trial)
            case TrialMetric() if event.trial in trials and event.step is not None:
                known = trials[event.trial]
                curve = {**known.metrics.get(event.name, {}), event.step: event.value}
                trials[event.trial] = replace(known, metrics={**known.metrics, event.name: curve})
            case TrialCompleted() if event.trial in trials:
                trials[event.trial] = replace(trials[event.trial], state="completed", values=dict(event.values), ended=event.time)
            case TrialPruned() if event.trial in trials:
                trials[event.trial] = replace(trials[event.trial], state="pruned", ended=event.time)
            case TrialFailed() if event.trial in trials:
                trials[event.trial] = replace(trials[event.trial], state="failed", ended=event.time, error=event.error,
                                              error_type=event.error_type)
    seen = [trials[number] for number in sorted(trials)]
    objectives = tuple(told.get("objectives") or dict.fromkeys(n for t in seen for n in t.values) or ("value",))
    ways = tuple(told.get("directions") or ("minimize",) * len(objectives))
    values: dict[str, list[Any]] = {}
    for trial in seen:
        for param, value in trial.params.items():
            values.setdefault(param, []).append(value)
    return Board(name, tuple(seen), objectives, tuple(way == "minimize" for way in ways),
                 tuple(_dimension(param, found) for param, found in values.items()))


def _dimension(name: str, values: list[Any]) -> Dimension:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = float(min(values)), float(max(values))
        kind: Literal["int", "float"] = "int" if all(isinstance(v, int) for v in values) else "float"
        return Dimension(name, kind, low, high, log=low > 0 and high > WIDE * low)
    choices = tuple(dict.fromkeys(text(v) for v in sorted(values, key=str)))
    return Dimension(name, "choice", 0.0, len(choices) - 1.0, choices=choices)
