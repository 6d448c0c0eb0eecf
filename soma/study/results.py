"""What became of trials: frozen, read from optuna's storage."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from soma.study.terms import ATTEMPT, CONFIG, ERROR, ERROR_TYPE, METRICS, REPEAT_OF, SEED, WORKER, told

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from soma.study.space import Space

State = Literal["completed", "pruned", "failed", "running", "waiting"]
STATES: Mapping[str, State] = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
"""Ours by optuna's."""


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """One trial as it was recorded.

    Attributes:
        number: 0, 1, 2, … in the study.
        state: "completed", "pruned", "failed", or "running" or "waiting".
        params: by name.
        values: by objective; of a completed one.
        metrics: what it reported: name → step → value.
        notes: what it noted.
        seed: of its random numbers.
        config: which set of parameters, 0, 1, 2, …; trials of several seeds have one in common.
        started, ended: seconds since 1970, or None.
        error, error_type: of a failed one.
        constraints: numbers that are at most 0 where a constraint holds.
        repeat_of: the trial that this one runs again, because its process or its driver died; None for most.
        attempt: how many there were before it.
        worker: who ran it: "worker" (0, 1, …), and "pid" and "node" as far as they were known.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    config: int = 0
    started: float | None = None
    ended: float | None = None
    error: str = ""
    error_type: str = ""
    constraints: tuple[float, ...] = ()
    repeat_of: int | None = None
    attempt: int = 0
    worker: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float | None:
        """Seconds it took; None as long as it has not ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def value(self) -> float:
        """Of the first objective; NaN if it has none."""
        return next(iter(self.values.values()), math.nan)

    @property
    def feasible(self) -> bool:
        """Whether all constraints hold."""
        return all(c <= 0 for c in self.constraints)


def finished(frozen: FrozenTrial, space: Space, objectives: Sequence[str]) -> FinishedTrial:
    """A trial as optuna keeps it, in our words."""
    ours = told(frozen.user_attrs)
    state = STATES[frozen.state.name]
    values = dict(zip(objectives, frozen.values, strict=True)) if state == "completed" and frozen.values is not None else {}
    others = frozen.user_attrs.get(METRICS, {})
    metrics = {name: {int(step): float(v) for step, v in found.items()} for name, found in others.items()}
    if frozen.intermediate_values:
        metrics = {objectives[0]: dict(sorted(frozen.intermediate_values.items())), **metrics}
    return FinishedTrial(
        number=frozen.number, state=state, params=space.decoded(frozen.params), values=values, metrics=metrics,
        notes={k: v for k, v in frozen.user_attrs.items() if not k.startswith("soma:")}, seed=int(ours.get(SEED, 0)),
        config=int(ours.get(CONFIG, frozen.number)), started=_unix(frozen.datetime_start), ended=_unix(frozen.datetime_complete),
        error=str(ours.get(ERROR, "")), error_type=str(ours.get(ERROR_TYPE, "")), constraints=tuple(frozen.constraints.values()),
        repeat_of=ours.get(REPEAT_OF), attempt=int(ours.get(ATTEMPT, 0)), worker=dict(ours.get(WORKER, {})))


def _unix(at: datetime.datetime | None) -> float | None:
    return None if at is None else at.timestamp()


@dataclass(frozen=True, slots=True)
class Configuration:
    """One set of parameters, over all trials of it that completed.

    Attributes:
        config: its number.
        params: by name.
        values: mean of each objective.
        spread: standard deviation of each, of the sample; 0 for a single trial.
        trials: how many completed.
    """

    config: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    spread: Mapping[str, float]
    trials: int


def by_config(trials: Sequence[FinishedTrial], objectives: Sequence[str], directions: Sequence[str]) -> list[Configuration]:
    """Means over seeds, best first by the first objective."""
    groups: dict[int, list[FinishedTrial]] = {}
    for trial in trials:
        if trial.state == "completed":
            groups.setdefault(trial.config, []).append(trial)
    made = []
    for config, members in groups.items():
        columns = {name: [t.values[name] for t in members] for name in objectives}
        made.append(Configuration(config, members[0].params, {name: statistics.fmean(c) for name, c in columns.items()},
                                  {name: statistics.stdev(c) if len(c) > 1 else 0.0 for name, c in columns.items()}, len(members)))
    sign = -1 if directions[0] == "maximize" else 1
    return sorted(made, key=lambda c: (sign * c.values[objectives[0]], c.config))


def rows(trials: Sequence[FinishedTrial]) -> list[dict[str, Any]]:
    """A flat dict for each trial, all with the same keys."""
    flat = [{"number": t.number, "state": t.state, **{f"params_{k}": v for k, v in t.params.items()},
             **{f"values_{k}": v for k, v in t.values.items()}, **{f"notes_{k}": v for k, v in t.notes.items()}, "seed": t.seed,
             "config": t.config, "started": t.started, "duration_s": t.duration_s, "error": t.error} for t in trials]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    return [{key: row.get(key) for key in columns} for row in flat]
