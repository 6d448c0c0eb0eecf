"""One fit of `DataParallel`: an epoch a call to all ranks, a checkpoint after each, and what happens when ranks die."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma import cluster
from soma.events import EpochCompleted, EpochStarted, GroupRestarted, MetricReported
from soma.filters.composite import Member
from soma.runs import Run
from soma.store.checkpoint import read_states
from soma.train.crew import Crew, Job, RanksLost
from soma.train.settings import EarlyStop, Settings
from soma.train.worker import Epoch, write_checkpoint

History = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many there are, what each is given, and what becomes of those that die."""

    n: int
    min_ranks: int
    max_restarts: int
    backend: str
    options: Mapping[str, Any]


class Course:
    """One `fit`; use it once."""

    def __init__(self, ranks: Ranks, settings: Settings, rows: int, run: Run, early_stop: EarlyStop | None,
                 callbacks: Sequence[Callable[[dict[str, float]], Any]]) -> None:
        self._ranks, self._settings, self._run = ranks, settings, run
        self._early_stop, self._callbacks = early_stop, callbacks
        self._replaced = 0
        self.history: History = []
        self.steps = self.skipped = self.generations = 0
        self._keeps = len(cluster.machines()) > 1  # files do not travel: there this process writes checkpoints and hands them out
        self._course = {"rows": rows, **{name: getattr(settings, name) for name in ("batch_size", "shuffle", "drop_last", "seed")}}

    def go(self, members: tuple[Member, ...], data: tuple[Any, Any], validation: tuple[Any, Any] | None, checkpoint: str | None) -> None:
        """Train to the end. `data` and `validation` are refs; `checkpoint` is where to begin."""
        own = int(self._ranks.options.get("num_cpus", 0)) if self._keeps else 0  # what other machines have is not this one's to say
        threads = own or max(1, (os.cpu_count() or 1) // self._ranks.n)
        settings = dataclasses.replace(self._settings, checkpoint="") if self._keeps else self._settings
        job = Job((settings, threads), self._ranks.options, self._ranks.backend, (cluster.put(members), *data))
        with Crew(job, self._ranks.n) as crew:
            self.steps = self._begin(crew, checkpoint)
            while len(self.history) < self._settings.epochs and not self._is_over():
                try:
                    self.steps = self._epoch(crew, validation)
                except RanksLost as lost:
                    self.steps = self._regroup(crew, lost)
            self.generations = crew.generation + 1

    def states(self) -> dict[str, Any]:
        """What was learnt: the checkpoint has each epoch's end, so no rank needs memory to send it."""
        found: dict[str, Any] = read_states(Path(self._settings.checkpoint))["model"]
        return found

    def _begin(self, crew: Crew, checkpoint: str | None) -> int:
        try:
            step = crew.begin(cluster.put(read_states(Path(checkpoint))) if self._keeps and checkpoint is not None else checkpoint)
        except RanksLost as lost:
            return self._regroup(crew, lost)
        if checkpoint is not None:
            saved = read_states(Path(checkpoint))["extra"]
            self.history, self.skipped = list(saved["history"]), int(saved["skipped"])
        return step

    def check(self, checkpoint: str) -> None:
        """ValueError if a checkpoint is of another fit than this one, which going on from it would not repeat."""
        told = read_states(Path(checkpoint)).get("extra")
        if not isinstance(told, dict) or "course" not in told:
            raise ValueError(f"{checkpoint} is no checkpoint of DataParallel")
        was = told["course"]
        if differing := [f"{k}={was.get(k)!r} there and {v!r} here" for k, v in self._course.items() if was.get(k) != v]:
            raise ValueError(f"{checkpoint} is of another fit: {', '.join(differing)}")

    def _regroup(self, crew: Crew, lost: RanksLost) -> int:
        """Ranks died: new ones take their places, or the others go on alone, from the last checkpoint."""
        its, room = self._ranks, crew.room
        new = min(len(lost.ranks), its.max_restarts - self._replaced, max(0, room - len(crew.ranks)))
        self._replaced += new if lost.ranks else 1  # where they met died: that counts as well, lest it go on for ever
        crew.size = len(crew.ranks) + new
        if crew.size < its.min_ranks or self._replaced > its.max_restarts:
            lost.reason.add_note(f"{crew.size} of {its.n} ranks are left, with max_restarts={its.max_restarts} and "
                                 f"min_ranks={its.min_ranks}" + (f"; the machines that are left can hold {room}" if room < its.n else ""))
            raise lost.reason from None
        checkpoint = self._settings.checkpoint if Path(self._settings.checkpoint).exists() else None
        step = self._begin(crew, checkpoint)
        self._run.emit(GroupRestarted, generation=crew.generation, ranks=crew.size, lost=lost.ranks, step=step, reason=str(lost)[:500])
        return step

    def _epoch(self, crew: Crew, validation: tuple[Any, Any] | None) -> int:
        epoch, epochs = len(self.history), self._settings.epochs
        self._run.emit(EpochStarted, epoch=epoch, epochs=epochs)
        began = time.perf_counter()
        extra = {"history": self.history, "skipped": self.skipped, "course": self._course}
        done: Epoch = crew.each("epoch", extra, listener=self._run.told)[0]
        while not done.over:
            self._save(crew, extra)
            done = crew.each("epoch", extra, listener=self._run.told)[0]
        seconds = time.perf_counter() - began
        figures: dict[str, float] = {"epoch": epoch, "loss": done.total / done.rows if done.rows else float("nan"), "seconds": seconds,
                                     "rows_per_s": done.rows / seconds}
        if validation is not None:
            figures |= {f"val_{name}": value for name, value in crew.each("evaluate", *validation)[0].items()}
        history = [*self.history, figures]
        self._save(crew, {**extra, "history": history, "skipped": self.skipped + done.skipped})
        self.history, self.skipped = history, self.skipped + done.skipped
        self._tell(figures, done, seconds)
        return done.position.step

    def _save(self, crew: Crew, extra: dict[str, Any]) -> None:
        states = crew.each("save", extra)[0]
        if states is not None:
            write_checkpoint(states, Path(self._settings.checkpoint))

    def _tell(self, figures: dict[str, float], done: Epoch, seconds: float) -> None:
        said = {k: v for k, v in figures.items() if k.startswith("val_")}
        for name, value in said.items():
            self._run.emit(MetricReported, name=name, value=value, step=done.position.step)
        self._run.emit(EpochCompleted, epoch=int(figures["epoch"]), epochs=self._settings.epochs, loss=figures["loss"], rows=done.rows,
                       duration_ms=seconds * 1e3, metrics=said)

    def _is_over(self) -> bool:
        if not self.history:
            return False
        stop = [fn(dict(self.history[-1])) for fn in self._callbacks]
        return any(s is True or s == "stop" for s in stop) or (self._early_stop is not None and self._early_stop.is_over(self.history))
