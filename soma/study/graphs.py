"""Studies of graphs: each trial fits the graph with its parameters and scores it on rows that were held out.

A trial's process only drives the graph; the filters run, and reserve what they ask for, in processes of their own. All trials share one
cache, so what does not depend on the parameters that vary is fitted once for the whole study, also by two trials that need it at the same
moment. For that, all trials draw the same random numbers: those of the study's seed, or of `seeds`.

What the filters report (`soma.report`, the loss of an epoch) are metrics of the trial: "node.name", or just the name if it is that of
an objective; then the pruner hears of it too, and ends a graph's run in the midst of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import StudyError
from soma.events import EpochCompleted, Event, MetricReported
from soma.filters import mismatch, options_of, take
from soma.graph import Graph
from soma.study.folds import SHARE, split, splits
from soma.study.outcome import outcome
from soma.study.results import FinishedTrial
from soma.study.study import Study
from soma.study.trial import Trial, TrialPruned
from soma.study.variants import space_of, variant

Score = Callable[[Any, Any], Any]

PATIENCE = 86_400.0
"""Seconds that a trial's graph waits for resources that those of other trials hold."""


@dataclass(frozen=True, slots=True)
class Fold:
    """What a graph learns from, and what it is judged by; values, or refs to them."""

    X: Any
    y: Any
    judged_X: Any
    judged_y: Any

    def kept(self) -> Fold:
        """Under refs, so that all workers share them."""
        return Fold(*(v if v is None or isinstance(v, ObjectRef) else cluster.put(v)
                      for v in (self.X, self.y, self.judged_X, self.judged_y)))


class GraphStudy(Study):
    """What `Graph.study` gives; see there for its arguments, and `Study` for everything else."""

    def __init__(self, graph: Graph, name: str, data: tuple[Any, Any], *, score: Score, validation: Any = None, cv: Any = None,
                 space: Any = None, **options: Any) -> None:
        if not callable(score):
            raise TypeError(f"score={score!r:.80}: a function of (y_true, y_pred)")
        if validation is not None and cv is not None:
            raise StudyError("validation= and cv= are two ways to choose the rows that are scored; give one")
        told = {"objectives": "score", "directions": "maximize", "num_cpus": 0, **options}
        super().__init__(name, space_of(graph, space), **told)
        self.graph = graph.with_options()
        self._score = score
        self._folds = self._divided(_value(data[0]), _value(data[1]), validation, cv)

    def _divided(self, X: Any, y: Any, validation: Any, cv: Any) -> list[Fold]:
        if isinstance(validation, tuple):
            if len(validation) != 2:
                raise StudyError(f"validation: a pair (X, y), not {len(validation)} values")
            found = [Fold(X, y, *validation)]
        else:
            assert self.seed is not None
            pairs = splits(X, y, cv, self.seed) if cv is not None else [split(X, y, SHARE if validation is None else validation, self.seed)]
            found = [Fold(take(X, a), take(y, a), take(X, b), take(y, b)) for a, b in pairs]
        for what, a, b in (("X and y", X, y), *((("validation", *validation),) if isinstance(validation, tuple) else ())):
            if not isinstance(a, ObjectRef) and not isinstance(b, ObjectRef) and (problem := mismatch(a, b)):
                raise StudyError(f"{what} do not belong together: {problem}")
        return found

    def run(self, objective: Callable[[Trial], Any] | None = None, *, n_jobs: int = 1, timeout: float | None = None, resume: bool = True,
            callbacks: Sequence[Callable[[Any, FinishedTrial], None]] = (), record: bool = True,
            progress: bool | None = None) -> GraphStudy:
        """As `Study.run`. The objective is there; one of your own may use `study.graph_of(trial.params)`.

        `n_jobs=-1` runs as many trials at once as find room for what the graph's filters reserve.
        """
        n_jobs = self._room() if n_jobs == -1 else n_jobs
        told: dict[str, Any] = {"n_jobs": n_jobs, "timeout": timeout, "resume": resume, "callbacks": callbacks, "record": record,
                                "progress": progress}
        if objective is not None:
            super().run(objective, **told)
            return self
        seed = None if self.seeds else self.seed
        with self._sharing() as graph:
            folds = [fold.kept() for fold in self._folds]
            with GraphObjective(graph, self._score, folds, self.objectives, seed) as own:
                super().run(own, **told)
        return self

    @contextlib.contextmanager
    def _sharing(self) -> Iterator[Graph]:
        """The graph with the cache that trials share."""
        with contextlib.ExitStack() as stack:
            options: dict[str, Any] = {"record": False, "wait": PATIENCE}
            own = self.graph.cache
            if own is None or own.spec.path is None:
                lies = self.directory / "cache" if self.directory is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
                options |= {"cache": "disk", "cache_path": lies}
            yield self.graph.with_options(**options)

    def _room(self) -> int:
        """How many trials find room for what their filters reserve: a CPU at least."""
        wanted = [options_of(f) for f in self.graph.filters.values()]
        needs = {"CPU": max(1.0, sum(o.num_cpus or 0 for o in wanted)), "GPU": sum(o.num_gpus or 0 for o in wanted),
                 "memory": sum(o.memory or 0 for o in wanted)}
        free = cluster.available_resources()
        return max(1, min(int(free.get(kind, 0.0) / each + 1e-9) for kind, each in needs.items() if each))

    # -- what comes of it --------------------------------------------------------------------------------------------------------

    def graph_of(self, params: Mapping[str, Any]) -> Graph:
        """A graph like this one with these parameters; it has learnt nothing."""
        return variant(self.graph, params)

    def best_graph(self) -> Graph:
        """That of the best trial; it has learnt nothing."""
        return self.graph_of(self.best_params)


class GraphObjective:
    """What a trial of a graph does. Goes to the workers once; `seed` is that of all trials, None that of each.

    The filters' processes stay from one trial to the next where nobody can be waiting for them; use it in a `with`, whose end is theirs.
    """

    def __init__(self, graph: Graph, score: Score, folds: Sequence[Fold], objectives: tuple[str, ...], seed: int | None) -> None:
        self._graph, self._score, self._folds, self._objectives, self._seed = graph, score, list(folds), objectives, seed
        self._last: Graph | None = None

    def __call__(self, trial: Trial) -> Any:
        last, self._last = self._last, None
        with contextlib.ExitStack() as stack:
            if last is not None:
                stack.callback(last.close)
            graph = stack.enter_context(contextlib.closing(variant(self._graph, trial.params)))
            if last is not None:
                graph.take_over(last)
            scores = self._scores(graph, trial)
            if not graph.reserves:  # and it went well: the next trial may have its processes
                stack.pop_all()
                self._last = graph
        return _mean(scores)

    def _scores(self, graph: Graph, trial: Trial) -> list[dict[str, float]]:
        """Of each fold, by objective, and whatever else the score gave."""
        scores: list[dict[str, float]] = []
        seed = trial.seed if self._seed is None else self._seed
        with Reporting(trial, graph, self._objectives) as reporting:
            for i, fold in enumerate(self._folds, 1):
                predicted = graph.fit(fold.X, fold.y, seed=seed, progress=False).forward(fold.judged_X)
                came = outcome(self._score(_value(fold.judged_y), predicted), self._objectives, {})
                scores.append({**came.values, **came.metrics})
                if i < len(self._folds):
                    reporting.so_far(_mean(scores)[self._objectives[0]])
        return scores

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._last is not None:
            self._last.close()


def _value(given: Any) -> Any:
    return cluster.get(given) if isinstance(given, ObjectRef) else given


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over folds, of what all of them have."""
    return {name: statistics.fmean(s[name] for s in scores) for name in scores[0] if all(name in s for s in scores)}


class Reporting:
    """Hands on what a graph's filters report while a trial runs, and ends the graph's run if the pruner gives the trial up.

    In a thread of its own, for nothing that a graph does waits for the pruner. Use it in a `with`, which becomes a `TrialPruned` then.
    """

    def __init__(self, trial: Trial, graph: Graph, objectives: tuple[str, ...]) -> None:
        self._trial, self._graph, self._objectives = trial, graph, objectives
        self._said: queue.SimpleQueue[tuple[str, float, int | None] | None] = queue.SimpleQueue()
        self._last: dict[str, int] = {}
        self._judged_by_folds = True
        self._pruned = False
        self._error: Exception | None = None
        here = contextvars.copy_context()  # by which a worker knows whose call it answers
        self._thread = threading.Thread(target=here.run, args=(self._work,), name="soma-trial-reports", daemon=True)

    def __enter__(self) -> Self:
        self._stop = self._graph.on_event(self._hear)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        self._said.put(None)
        self._thread.join()
        if self._pruned and (error is None or isinstance(error, Exception)):  # the run was cancelled, or was over just before
            raise TrialPruned from None
        if self._error is not None and error is None:
            raise self._error

    def so_far(self, score: float) -> None:
        """The mean over the folds that are done: what the pruner judges, if no filter reports the objective itself."""
        if self._judged_by_folds:
            self._said.put((self._objectives[0], score, None))

    def _hear(self, event: Event) -> None:
        match event:
            case MetricReported():
                self._put(event.node, event.name, event.value, event.step)
            case EpochCompleted():
                for name, value in {"loss": event.loss, **event.metrics}.items():
                    self._put(event.node, name, value, event.epoch)

    def _put(self, node: str, name: str, value: float, step: int | None) -> None:
        if name == self._objectives[0]:
            self._judged_by_folds = False
        self._said.put((name if name in self._objectives else f"{node}.{name}", value, step))

    def _work(self) -> None:
        try:
            while (said := self._said.get()) is not None:
                name, value, step = said
                last = self._last.get(name, -1)
                self._last[name] = step = last + 1 if step is None or step <= last else step  # a second fold goes on counting
                self._trial.report(name, value, step)
                if name == self._objectives[0] and self._trial.should_prune():
                    self._pruned = True
                    self._graph.cancel()
                    return
        except Exception as e:  # the run ends around it: raised there, unless something else is
            self._error = e
