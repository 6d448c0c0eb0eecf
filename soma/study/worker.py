"""`TrialWorker`: the actor in whose process trials run, one after the other; and `Verdicts`, where a worker waits for the pruner.

A worker has neither optuna nor the study. What it reports goes to the driver as news of its call; what the driver's pruner makes of it
comes back by `Verdicts`, so that the objective can run in the process's main thread, where a call can be interrupted.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.filters.seeds import seeded
from soma.study.outcome import outcome
from soma.study.trial import Trial

Ended = dict[str, Any]
"""How a trial ended, as plain data: `state` ("completed", "pruned", "failed") and, as it goes with that, `values`, `extra`, `error`,
`error_type`, `trace`."""


@dataclass(frozen=True, slots=True)
class Task:
    """One trial for a worker."""

    number: int
    params: Mapping[str, Any]
    seed: int
    attempt: int = 0


class Verdicts:
    """What the pruner said, by trial."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[int, bool]] = {}
        self._changed = asyncio.Condition()

    async def give(self, number: int, reports: int, prune: bool) -> None:
        """By the trial's first so many reports it is to be pruned, or not."""
        async with self._changed:
            self._said[number] = reports, prune
            self._changed.notify_all()

    async def wait(self, number: int, reports: int) -> bool:
        """The verdict on so many reports, as soon as it is there. What was to be pruned once stays so."""
        def known() -> bool:
            count, prune = self._said.get(number, (0, False))
            return prune or count >= reports

        async with self._changed:
            await self._changed.wait_for(known)
            return self._said[number][1]

    async def forget(self, number: int) -> None:
        """The trial is over."""
        async with self._changed:
            self._said.pop(number, None)


class _Wire:
    """The channel of a trial in a worker."""

    def __init__(self, number: int, verdicts: Any) -> None:
        self._number, self._verdicts = number, verdicts
        self.last: dict[str, float] = {}

    def report(self, name: str, value: float, step: int) -> None:
        self.last[name] = value
        cluster.tell({"kind": "report", "name": name, "value": value, "step": step})

    def verdict(self, reports: int) -> bool:
        return self._verdicts is not None and bool(cluster.get(self._verdicts.wait.remote(self._number, reports)))

    def note(self, name: str, value: Any) -> None:
        cluster.tell({"kind": "note", "name": name, "value": value})


class TrialWorker:
    """Runs trials of one objective. `verdicts` is None where nothing is pruned."""

    def __init__(self, objective: Callable[[Trial], Any], objectives: tuple[str, ...], verdicts: Any) -> None:
        self._objective, self._objectives, self._verdicts = objective, objectives, verdicts
        self._fresh = True

    def run(self, task: Task) -> Ended:
        """One trial. What the objective raises is an outcome too, and told as text: a study goes on. The first says who runs it."""
        if self._fresh:
            self._fresh = False
            cluster.tell({"kind": "began", "pid": os.getpid(), "node": str(cluster.get_runtime_context().node_id)})
        wire = _Wire(task.number, self._verdicts)
        judged = self._objectives[0] if self._verdicts is not None else None
        return played(self._objective, Trial(task.number, task.params, task.seed, wire, judged=judged, attempt=task.attempt),
                      self._objectives, wire.last)


def played(objective: Callable[[Trial], Any], trial: Trial, objectives: tuple[str, ...], last: Mapping[str, float]) -> Ended:
    """Call the objective and say how it ended. `last` are the last values it reported, which it may change meanwhile."""
    try:
        with seeded(trial.seed):
            returned = objective(trial)
    except Exception as e:
        if any(kind.__name__ == "TrialPruned" for kind in type(e).__mro__):
            return {"state": "pruned"}
        return {"state": "failed", "error": str(e)[:4000], "error_type": type(e).__name__, "trace": _trace(e)}
    try:
        came = outcome(returned, objectives, last)
    except ValueError as e:
        return {"state": "failed", "error": str(e), "error_type": "ValueError", "trace": ""}
    return {"state": "completed", "values": came.values, "extra": came.metrics}


def _trace(error: BaseException) -> str:
    """The traceback from the objective on."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(type(error), error, below))[-8000:]
