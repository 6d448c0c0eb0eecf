"""What a study was made to be, the trials that are under way, and the names of what is kept with each trial in optuna's storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.study.space import Space

if TYPE_CHECKING:
    from optuna.trial import Trial

    from soma.study.results import FinishedTrial

TOLD, METRICS = "soma:trial", "soma:metrics"
"""Attributes of a trial: what it is, written by whoever takes it, which is one dict, for each attribute costs statements of SQL; and what
it reported beside the value that is judged."""
CONFIG, SEED, DRIVER, WORKER, REPEAT_OF, ATTEMPT = "config", "seed", "driver", "worker", "repeat_of", "attempt"
SIBLING_OF, RETRIES, ERROR, ERROR_TYPE = "sibling_of", "retries", "error", "error_type"
"""What the dict may say. Only a set of parameters that soma planned has a `CONFIG`."""


def told(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """What soma wrote to a trial; nothing if it did not."""
    found: Mapping[str, Any] = attributes.get(TOLD, {})
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """What a study was made to be.

    Attributes:
        space: what may be tried.
        objectives, directions: as many of each; "minimize" or "maximize".
        configs: how many sets of parameters are tried; None: no end.
        seeds: each set is tried with each of these; empty: once, with a seed of its own.
        seed: of the study.
        prunes: whether there is a pruner.
        constraints: of a trial that completed: numbers that are at most 0 where they hold.
    """

    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    configs: int | None
    seeds: tuple[int, ...]
    seed: int
    prunes: bool
    constraints: Callable[[FinishedTrial], Any] | None = None

    @property
    def total(self) -> int | None:
        """Trials, repeats not counted."""
        return None if self.configs is None else self.configs * max(1, len(self.seeds))


@dataclass(slots=True)
class Open:
    """A trial that this driver has taken and not ended. `told` is what is written to it. `attempt` is how often it was begun before,
    `retries` how many of those ended with their own process."""

    trial: Trial
    number: int
    params: Mapping[str, Any]
    told: Mapping[str, Any]
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    reports: int = 0
    pruned: bool = False
    ended: bool = False

    @property
    def id(self) -> int:
        return self.trial._trial_id  # optuna's, by which its storage knows the trial

    @property
    def seed(self) -> int:
        return int(self.told[SEED])

    @property
    def attempt(self) -> int:
        return int(self.told.get(ATTEMPT, 0))

    @property
    def retries(self) -> int:
        return int(self.told.get(RETRIES, 0))
