"""A pipeline's checkpoint: what was learnt, what optimizers remember, and which fit it is of. Written whole or not at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soma.store.checkpoint import read_states, write_states
from soma.train.pipelining.processes import Saved

History = list[dict[str, float]]
"""Figures of each epoch."""


@dataclass(slots=True, kw_only=True)
class Course:
    """How a fit goes over the data. `rows` is known when the stages have it."""

    epochs: int
    batch_size: int
    shuffle: bool
    seed: int
    micro_batches: int
    rows: int = 0

    def params(self) -> dict[str, Any]:
        """For the manifest of its run."""
        return {key: value for key, value in asdict(self).items() if key != "rows"}


def write(path: Path, saved: Saved, course: Course, history: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_states({"states": saved.states, "momentum": saved.momentum, "course": asdict(course), "history": history}, path)


def read(path: Path, course: Course) -> tuple[Saved, History, int]:
    """What was saved, the figures of the epochs so far, and of how many rows they are.

    Raises:
        ValueError: it is of another fit, which going on from it would not repeat; says what differs.
    """
    told = read_states(path)
    if sorted(told) != ["course", "history", "momentum", "states"]:
        raise ValueError(f"{path} is no checkpoint of a pipeline")
    differing = [f"{key}={was!r} there and {now!r} here" for key, now in course.params().items()
                 if key != "epochs" and (was := told["course"][key]) != now]
    if differing:
        raise ValueError(f"{path} is of another fit: {', '.join(differing)}")
    return Saved(told["states"], told["momentum"]), told["history"], told["course"]["rows"]
