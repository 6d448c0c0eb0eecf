"""`Pipeline`: a network cut into stages, each in a process of its own, trained as one.

Invariants: gradients are those of the whole network on the whole batch, however it is cut; no activation passes through this process
as a value; at most `WINDOW` batches are sent and not done.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soma.errors import NotFittedError, StateMismatchError
from soma.events import EpochCompleted, EpochStarted, StepCompleted
from soma.filters import ModuleFilter, kind_of, title_of
from soma.filters.rows import joined
from soma.filters.segment import Recipe
from soma.runs import Run
from soma.train.order import epoch_order
from soma.train.pipelining.batch import Sent, cut
from soma.train.pipelining.checkpoint import Course, History, read, write
from soma.train.pipelining.network import network_of
from soma.train.pipelining.processes import Processes, Saved
from soma.train.pipelining.schedule import SCHEDULES
from soma.train.recording import Recorded, begin

WINDOW = 2
"""The next batch is sent while one is worked on, so that no stage waits for this process."""


@dataclasses.dataclass(frozen=True, slots=True)
class PipelineResult(Recorded):
    """Of a fit.

    Attributes:
        history: figures of each epoch, also of those before the checkpoint it resumed from: epoch, loss (the mean over its rows).
        states: what each node has learnt, by id (modules: their `state_dict`).
        seconds: how long this fit took.
        in_flight: for each stage, the most micro-batches whose activations it held at once.
        run_id: of its run, which is `run` if it was recorded; `soma runs show` takes it.
    """

    history: History
    states: dict[str, Any]
    seconds: float
    in_flight: tuple[int, ...]
    run_id: str


class Pipeline:
    """Stages that are trained as one network.

        with Pipeline([nn.Sequential(…), nn.Sequential(…)], loss_fn=F.cross_entropy, optimizer=…) as p:
            p.fit(X, y, epochs=3, batch_size=64, shuffle=True)
            p.predict(X2)

    Args:
        network: a list of torch modules or `soma.filter(Net)(…)`, one for each stage; or a graph of differentiable nodes.
        partitions: of a graph: the node ids of each stage, e.g. [["a", "b"], ["c"]].
        micro_batches: in how many parts a batch goes through the stages; more keep them busier.
        schedule: "1f1b" (stage s of S holds at most S - s micro-batches) or "gpipe" (each stage holds all of a batch).
        loss_fn: (output, target) → a scalar tensor, a mean over rows; None as the filters say, else the mean squared error.
        optimizer: parameters → a torch optimizer, one for each node; None as the filters say, else Adam.
        scheduler: optimizer → a torch learning-rate scheduler; it steps after each epoch.
        clip_norm: the most that the norm of all gradients together may be.

    A pipeline is used by one thread at a time. Its processes start with the first use and end with `close()` or any error; what was
    learnt up to the last fit or checkpoint is kept here.
    """

    def __init__(self, network: Any, partitions: Sequence[Sequence[str]] | None = None, *, micro_batches: int = 4, schedule: str = "1f1b",
                 loss_fn: Callable[[Any, Any], Any] | None = None, optimizer: Callable[[Any], Any] | None = None,
                 scheduler: Callable[[Any], Any] | None = None, clip_norm: float | None = None) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r}: one of {', '.join(map(repr, SCHEDULES))}")
        _check_whole("micro_batches", micro_batches)
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm!r}: a number above 0")
        self._filters, self.stages = network_of(network, partitions)
        self.micro_batches, self.schedule, self._clip = micro_batches, schedule, clip_norm
        self._recipe = Recipe(loss_fn=loss_fn, optimizer=optimizer, scheduler=scheduler)
        self._processes: Processes | None = None
        self._saved: Saved | None = None

    # -- training --------------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, epochs: int = 1, batch_size: int = 32, shuffle: bool = True, seed: int = 0,
            checkpoint: str | PathLike[str] | None = None, resume: bool = False, record: bool = True,
            progress: bool | None = None) -> PipelineResult:
        """Train, from what was learnt before or else from the beginning.

        Args:
            X, y: inputs and targets: arrays, tensors, or refs to them; each goes to the stages that need it, once.
            batch_size: rows of one step. The last batch of an epoch may have fewer.
            shuffle: another order of the rows in each epoch.
            seed: the order, fresh weights and dropout follow from it.
            checkpoint: a file that is written after each epoch, whole or not at all.
            resume: go on from `checkpoint` if it exists, as if nothing had happened; it must be of a fit like this one.
            record: keep the run's events in its directory.
            progress: a bar on stderr: None where that is a terminal.

        Raises:
            the exception of the stage that failed, with a note naming stage, micro-batch and step; ActorDiedError if it died;
            NonFiniteError: a loss is NaN or infinite. The processes are ended, and the next use begins with what was saved last.
        """
        _check_whole("epochs", epochs)
        _check_whole("batch_size", batch_size)
        if resume and checkpoint is None:
            raise ValueError("resume=True goes with checkpoint=path")
        summary = f"Pipeline({' >> '.join('[' + ', '.join(id for id, _ in p.nodes) + ']' for p in self.stages)}, {self.schedule})"
        course = Course(epochs=epochs, batch_size=batch_size, shuffle=shuffle, seed=seed, micro_batches=self.micro_batches)
        path = None if checkpoint is None else Path(checkpoint)
        began = time.perf_counter()
        try:
            with begin(summary, seed=seed, params=course.params(), record=record, progress=progress,
                       ranks=len(self.stages)) as run:
                processes, history = self._begin_fit(X, y, course, path if resume else None)
                self._train(processes, course, history, path, run)
                self._saved = processes.saved()
                in_flight = tuple(processes.each("most_in_flight"))
                processes.each("hold", None, None)
        except BaseException:
            self.close()
            raise
        return PipelineResult(history, self._saved.states, time.perf_counter() - began, in_flight, run.id)

    def _begin_fit(self, X: Any, y: Any, course: Course, resumed: Path | None) -> tuple[Processes, History]:
        """Stages that hold the data and are ready to train, and the figures of the epochs before."""
        history: History = []
        rows = None
        if resumed is not None and resumed.exists():
            self.close()
            self._saved, history, rows = read(resumed, course)
        processes = self._ready()
        course.rows = processes.hold(X, y)
        if rows not in (None, course.rows):
            raise ValueError(f"{resumed} is of a fit on {rows} rows, not {course.rows}")
        size = min(course.batch_size, course.rows)
        if size < self.micro_batches:
            raise ValueError(f"micro_batches={self.micro_batches} of batches of {size} rows; every micro-batch has a row")
        if not processes.trains:
            if self._saved is None:
                processes.make(course.seed)
            else:
                processes.load(self._saved)
        if not processes.trains:
            raise ValueError(f"nothing to train: {', '.join(self._filters)} have no parameters")
        return processes, history

    def _train(self, processes: Processes, course: Course, history: History, path: Path | None, run: Run) -> None:
        for epoch in range(len(history), course.epochs):
            order = epoch_order(course.rows, epoch, course.seed, True) if course.shuffle else None
            run.emit(EpochStarted, epoch=epoch, epochs=course.epochs)
            began, total = time.perf_counter(), 0.0
            under_way: deque[Sent] = deque()
            for batch in cut(course.rows, course.batch_size, epoch, order):
                under_way.append(processes.send_batch(batch, self.schedule, self.micro_batches, course.seed, self._clip))
                if len(under_way) == WINDOW:
                    total += self._finish(processes, under_way, run)
            while under_way:
                total += self._finish(processes, under_way, run)
            if self._recipe.scheduler is not None:
                processes.each("end_epoch")
            history.append({"epoch": epoch, "loss": total / course.rows})
            if path is not None:
                self._saved = processes.saved()
                write(path, self._saved, course, history)
            run.emit(EpochCompleted, epoch=epoch, epochs=course.epochs, loss=history[-1]["loss"], rows=course.rows,
                     duration_ms=(time.perf_counter() - began) * 1e3)

    def _finish(self, processes: Processes, under_way: deque[Sent], run: Run) -> float:
        loss = processes.finish(under_way)
        batch = under_way.popleft().batch
        run.emit(StepCompleted, step=batch.step, loss=loss, rows=batch.size)
        return loss * batch.size

    # -- using it --------------------------------------------------------------------------------------------------------------

    def forward(self, X: Any) -> Any:
        """The output for `X` in evaluation mode, which goes through the stages in `micro_batches` parts; of several leaves,
        `{id: output}`. Arrays give arrays, tensors give tensors."""
        try:
            processes = self._ready()
            if not processes.trains:
                processes.load(self._saved or Saved({}))
            found = {id: joined(parts) for id, parts in processes.infer(processes.hold(X, None), self.micro_batches).items()}
            processes.each("hold", None, None)
        except BaseException:
            self.close()
            raise
        return found if len(found) > 1 else next(iter(found.values()))

    def predict(self, X: Any) -> Any:
        """scikit-learn's word for `forward`."""
        return self.forward(X)

    def state(self) -> dict[str, Any]:
        """What each node has learnt, by id; of a graph, what `graph.load_state` takes.

        Raises:
            NotFittedError: nothing was learnt yet.
        """
        if self._saved is None:
            first, filter = next(iter(self._filters.items()))
            raise NotFittedError(first, title_of(filter))
        return dict(self._saved.states)

    def load_state(self, states: Mapping[str, Any]) -> None:
        """Begin with these states, as `state()` gave them, and with fresh optimizers.

        Raises:
            StateMismatchError: a node is missing or unknown.
        """
        if unknown := [id for id in states if id not in self._filters]:
            raise StateMismatchError(f"states of {', '.join(map(repr, unknown))}, but the nodes are {', '.join(self._filters)}")
        if missing := [id for id, f in self._filters.items() if id not in states and kind_of(f) != "stateless"]:
            raise StateMismatchError(f"no state for {', '.join(map(repr, missing))}")
        self.close()
        self._saved = Saved(dict(states))

    def modules(self) -> list[Any]:
        """The nodes that are torch modules, with what they have learnt, in order, in this process."""
        states, found = self.state(), []
        for id, filter in self._filters.items():
            if isinstance(filter, ModuleFilter):
                module = filter.make()
                module.load_state_dict(states[id])
                found.append(module)
        return found

    def pids(self) -> list[int]:
        """The process of each stage; they are started if there are none."""
        return self._ready().each("pid")

    def close(self) -> None:
        """End the processes. What was learnt is kept; the next use starts new ones."""
        if self._processes is not None:
            processes, self._processes = self._processes, None
            processes.end()

    def _ready(self) -> Processes:
        if self._processes is None:
            self._processes = Processes(self.stages, self._filters, self._recipe)
        return self._processes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pipeline({' >> '.join(map(str, self.stages))}, micro_batches={self.micro_batches}, schedule={self.schedule!r})"


def _check_whole(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}={value!r}: a whole number from 1")
