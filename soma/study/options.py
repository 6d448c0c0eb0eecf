"""What `Study` takes besides: options of samplers, pruners, workers and failures; and the checks of its arguments. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soma.errors import StudyError


@dataclass(frozen=True, slots=True)
class Options:
    """Further arguments of `Study`.

    Attributes:
        points: values of each range in a grid; one number, or a dict by dimension.
        sampler_options, pruner_options: arguments of optuna's sampler or pruner, e.g. `{"n_startup_trials": 20}`.
        num_cpus, num_gpus, memory, resources: of each worker process, as for an actor; trials run at once as far as they are there.
        worker: further options of the worker actors, e.g. `{"runtime_env": …, "scheduling_strategy": …, "tags": …}`.
        trial_timeout: seconds after which a trial is ended, and has failed.
        max_retries: how often a set of parameters is begun again after its process died; each time as a trial of its own.
        max_failures: with more failed trials than that in a run, no further one is taken; None: the study goes on.
        prune_grace: seconds that a trial may go on which the pruner has given up; then it is interrupted, and after one more killed.
    """

    points: int | Mapping[str, int] = 5
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    num_cpus: float = 1
    num_gpus: float = 0
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    worker: Mapping[str, Any] = field(default_factory=dict)
    trial_timeout: float | None = None
    max_retries: int = 0
    max_failures: int | None = None
    prune_grace: float = 5.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """TypeError for an unknown name; StudyError for a value that cannot be."""
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise TypeError(f"Study has no argument {', '.join(map(repr, unknown))}; further ones are {', '.join(known)}")
        return cls(**given)

    def __post_init__(self) -> None:
        checked_seconds("trial_timeout", self.trial_timeout)
        checked_seconds("prune_grace", self.prune_grace)
        checked_whole("max_retries", self.max_retries, 0)
        if self.max_failures is not None:
            checked_whole("max_failures", self.max_failures, 0)

    def worker_options(self) -> dict[str, Any]:
        """Of a worker actor."""
        told = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory, "resources": self.resources}
        return {**{k: v for k, v in told.items() if v}, "num_cpus": self.num_cpus, **self.worker}


def names_of(objectives: str | Sequence[str]) -> tuple[str, ...]:
    """The objectives' names; StudyError if they are none."""
    names = (objectives,) if isinstance(objectives, str) else tuple(objectives)
    if not names or not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
        raise StudyError(f"objectives={objectives!r}: a name, or several different ones")
    return names


def directions_of(directions: str | Sequence[str], objectives: tuple[str, ...]) -> tuple[str, ...]:
    """One for each objective; StudyError if they are none."""
    ways = (directions,) * len(objectives) if isinstance(directions, str) else tuple(directions)
    if wrong := [w for w in ways if w not in ("minimize", "maximize")]:
        raise StudyError(f"directions: {wrong[0]!r} is neither 'minimize' nor 'maximize'")
    if len(ways) != len(objectives):
        raise StudyError(f"directions={directions!r}: {len(ways)} for {len(objectives)} objectives ({', '.join(objectives)})")
    return ways


def checked_whole(name: str, value: Any, least: int) -> int:
    """A whole number from `least` on; StudyError if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise StudyError(f"{name}={value!r}: a whole number from {least}")
    return int(value)


def checked_seconds(name: str, value: Any) -> None:
    """A time that is not negative, or None; StudyError if it is neither."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value) or value < 0):
        raise StudyError(f"{name}={value!r}: seconds from 0, or None")


SAME = ("objectives", "directions", "seeds", "seed", "storage")
"""What a study that is there already and one that is made again have in common."""


def sameness(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare two descriptions. StudyError, naming what differs, if one cannot go on with the other's trials."""
    now = json.loads(json.dumps(now, default=str))
    keys = (*SAME, "space", "sampler", "points") if "grid" in (before.get("sampler"), now["sampler"]) else SAME
    for key in keys:
        if before.get(key) != now[key]:
            raise StudyError(f"study {now['name']!r} is there already, with {key}={before.get(key)!r}, not {now[key]!r}: give this one "
                             "another name, or remove that one's directory")
