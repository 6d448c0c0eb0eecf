"""What a study was made to be, the trials that are under way, and the names of what is kept with each trial in optuna's storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.study.results import FinishedTrial
from soma.study.space import Space

if TYPE_CHECKING:
    from optuna.trial import Trial

CONFIG = "soma:config"
SEED, DRIVER, WORKER, REPEAT_OF, ATTEMPT = "soma:seed", "soma:driver", "soma:worker", "soma:repeat_of", "soma:attempt"
SIBLING_OF, RETRIES = "soma:sibling_of", "soma:retries"
ERROR, ERROR_TYPE, METRICS = "soma:error", "soma:error_type", "soma:metrics"


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
    """A trial that this driver has taken and not ended. `attempt` is how often it was begun before, `retries` how many of those ended
    with their own process."""

    trial: Trial
    id: int
    number: int
    params: Mapping[str, Any]
    seed: int
    attempt: int
    retries: int = 0
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    reports: int = 0
    pruned: bool = False
    ended: bool = False
