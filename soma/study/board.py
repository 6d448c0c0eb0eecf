"""`Board`: a study as pictures, tables and reports look at it: its trials, what they aimed at, and the dimensions of its space.

Read once from optuna's storage; afterwards everything is a pure function of it. Any study of optuna's will do: what soma noted besides
(workers, seeds, errors) is missing then. Refuses nothing that optuna could store: values may be infinite, trials may have died.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from soma.errors import StudyError
from soma.study.outcome import pareto
from soma.study.reading import Studied
from soma.study.results import STATES, FinishedTrial, State, finished
from soma.study.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

NOTHING = Space()
ENDLESS = 1e100
"""What is not less than this counts as infinite in a picture."""

@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter that is searched. `choices` are texts, in the order of the space; a number has none."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def at(self, value: Any) -> float:
        """Where a value is: itself, or the number of the choice."""
        return float(value) if self.kind != "choice" else float(self.choices.index(text(value)))

    def share(self, value: Any) -> float:
        """Where a value is between the lowest, 0, and the highest, 1."""
        at, low, high = self.at(value), self.low, self.high
        if self.log:
            at, low, high = math.log(at), math.log(low), math.log(high)
        return (at - low) / (high - low) if high > low else 0.5

    def joined(self, other: Dimension) -> Dimension:
        """Both: a space may have grown between two runs of a study."""
        if "choice" in (self.kind, other.kind):
            choices = tuple(dict.fromkeys((*self.choices, *other.choices)))
            return replace(self, kind="choice", choices=choices, low=0.0, high=max(0.0, len(choices) - 1.0), log=False)
        return replace(self, kind=self.kind if self.kind == other.kind else "float", low=min(self.low, other.low),
                       high=max(self.high, other.high), log=self.log and other.log)


@dataclass(frozen=True, slots=True)
class Board:
    """Attributes:
        name: of the study.
        trials: by number.
        objectives: their names.
        minimized: for each objective whether less is better.
        dimensions: in the order of the space, then as trials had them.
    """

    name: str
    trials: tuple[FinishedTrial, ...]
    objectives: tuple[str, ...]
    minimized: tuple[bool, ...]
    dimensions: tuple[Dimension, ...]

    def of(self, *states: State) -> list[FinishedTrial]:
        return [t for t in self.trials if t.state in states]

    def counts(self) -> dict[State, int]:
        """How many trials are in each state, of those states that there are."""
        found = {state: len(self.of(state)) for state in STATES.values()}
        return {state: n for state, n in found.items() if n}

    def summary(self) -> str:
        return ", ".join(f"{n} {state}" for state, n in self.counts().items())

    def objective(self, chosen: str | int | None = None) -> str:
        """The name of an objective; by default the first's.

        Raises:
            StudyError: there is none of that name or number.
        """
        if chosen is None or chosen in self.objectives:
            return self.objectives[0] if chosen is None else str(chosen)
        if isinstance(chosen, int) and 0 <= chosen < len(self.objectives):
            return self.objectives[chosen]
        raise StudyError(f"objective={chosen!r}: study {self.name!r} has {', '.join(map(repr, self.objectives))}")

    def less_is_better(self, objective: str) -> bool:
        return self.minimized[self.objectives.index(objective)]

    def valued(self, objective: str) -> list[FinishedTrial]:
        """Completed trials whose value can be drawn."""
        return [t for t in self.of("completed") if drawable(t.values.get(objective, math.nan))]

    def improvements(self, objective: str) -> list[FinishedTrial]:
        """Those that were better than all that have lower numbers, constraints heeded."""
        sign = 1 if self.less_is_better(objective) else -1
        found: list[FinishedTrial] = []
        for trial in self.of("completed"):
            value = trial.values.get(objective)
            if trial.feasible and value is not None and (not found or sign * value < sign * found[-1].values[objective]):
                found.append(trial)
        return found

    def best(self) -> list[FinishedTrial]:
        """The best trial, or the Pareto front where there are several objectives."""
        if len(self.objectives) == 1:
            return self.improvements(self.objectives[0])[-1:]
        rows = [t for t in self.of("completed") if t.feasible and len(t.values) == len(self.objectives)]
        ways = ["minimize" if less else "maximize" for less in self.minimized]
        return [rows[i] for i in pareto([tuple(t.values.values()) for t in rows], ways)]

    def learned(self) -> list[str]:
        """Names of what was reported with steps, the objectives first."""
        names = dict.fromkeys(name for t in self.trials for name in t.metrics)
        return [*(n for n in self.objectives if n in names), *(n for n in names if n not in self.objectives)]


def drawable(value: float) -> bool:
    """Whether an axis can hold it."""
    return abs(value) < ENDLESS  # NaN is not


Drawable: TypeAlias = "Study | Studied | Board"
"""A study of optuna's, one of ours, or what was read from one."""


def board_of(study: Drawable, objectives: Sequence[str] | None = None) -> Board:
    """A study as a board. Parameters are as optuna keeps them: numbers, and choices as texts.

    Args:
        study: soma's, or optuna's.
        objectives: names; by default those that the study was given.
    """
    if isinstance(study, Board):
        return study
    if isinstance(study, Studied):
        return board_of(study.optuna, study.objectives)
    names = tuple(objectives or study.metric_names or (["value"] if len(study.directions) == 1 else
                                                       [f"value {i}" for i in range(len(study.directions))]))
    frozen = study.get_trials(deepcopy=False)
    dimensions: dict[str, Dimension] = {}
    seen: dict[str, BaseDistribution] = {}
    for trial in frozen:
        for name, distribution in trial.distributions.items():
            if seen.get(name) is not distribution and seen.get(name) != distribution:
                seen[name] = distribution
                fresh = dimension(name, distribution)
                dimensions[name] = dimensions[name].joined(fresh) if name in dimensions else fresh
    trials = tuple(replace(finished(t, NOTHING, names), params=dict(t.params)) for t in frozen)
    return Board(study.study_name, trials, names, tuple(d.name == "MINIMIZE" for d in study.directions), tuple(dimensions.values()))


def dimension(name: str, distribution: Any) -> Dimension:
    """One of optuna's distributions."""
    if hasattr(distribution, "choices"):
        choices = tuple(dict.fromkeys(map(text, distribution.choices)))
        return Dimension(name, "choice", 0.0, max(0.0, len(choices) - 1.0), choices=choices)
    kind: Literal["float", "int"] = "int" if type(distribution).__name__.startswith("Int") else "float"
    return Dimension(name, kind, float(distribution.low), float(distribution.high), bool(distribution.log))


def text(value: Any) -> str:
    """A value of a parameter, short enough for a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    said = str(value)
    return said if len(said) <= 80 else said[:79] + "…"
