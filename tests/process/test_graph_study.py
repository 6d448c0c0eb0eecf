"""Studies of graphs with real processes: what is shared is fitted once, pruning ends a graph amid a fit, nothing stays reserved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import soma
from soma.errors import NotFittedError
from soma.events import Event, MetricReported, NodeCacheHit, NodeCacheMiss, NodeCompleted, RunCompleted, RunStarted
from soma.study import edge
from soma.study.graphs import GraphStudy

pytest.importorskip("optuna")


@soma.filter
class Centre:
    """Says in a file that it learns; with a `gate` (a FIFO), it does so until somebody opens that."""

    def __init__(self, log: str, gate: str = "") -> None:
        self.log, self.gate = log, gate

    def fit(self, x: Any, y: Any = None) -> Any:
        with open(self.log, "a") as f:
            f.write(f"{os.getpid()}\n")
        if self.gate:
            Path(self.gate).read_bytes()
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter
class Ridge:
    def __init__(self, alpha: Any) -> None:
        self.alpha = alpha

    def fit(self, x: Any, y: Any) -> Any:
        return {"w": weights(x, y, self.alpha)}

    def forward(self, x: Any, state: Any) -> Any:
        return x @ state["w"]


@soma.filter
class Draws:
    """Its state is a random number."""

    def __init__(self, alpha: Any) -> None:
        self.alpha = alpha

    def fit(self, x: Any, y: Any) -> Any:
        return {"w": np.random.uniform()}

    def forward(self, x: Any, state: Any) -> Any:
        return np.full(len(x), state["w"])


@soma.filter(num_cpus=3)
class Reports:
    """Reports how good it is, three times; below 0.5 it then does not return."""

    def __init__(self, quality: Any, name: str) -> None:
        self.quality, self.name = quality, name

    def fit(self, x: Any, y: Any) -> Any:
        for step in range(3):
            soma.report(self.name, self.quality, step)
        if self.quality < 0.5:
            threading.Event().wait()
        return {"quality": self.quality}

    def forward(self, x: Any, state: Any) -> Any:
        return state["quality"]


@soma.filter
class Fails:
    """Once."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def fit(self, x: Any, y: Any) -> Any:
        if self.number == 3:
            raise ValueError("not 3")
        return {"number": self.number}

    def forward(self, x: Any, state: Any) -> Any:
        return state["number"], os.getpid()


def weights(x: Any, y: Any, alpha: float) -> Any:
    return np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y)


def error(true: Any, predicted: Any) -> float:
    return float(((true - predicted) ** 2).mean())


def quality(true: Any, predicted: Any) -> float:
    return float(predicted)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) + 5
Y = X @ np.array([1.0, -2.0, 0.5]) + RNG.normal(size=60)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path / "runs"))
    return tmp_path / "log"


class Heard:
    """The events of all processes. Those of others may come a moment later than what they tell of."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def until_runs_ended(self, count: int) -> None:
        """Until so many fits and forwards of trials have told all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended() >= count, timeout=10)

    def _ended(self) -> int:
        runs = {e.run_id for e in self.events if isinstance(e, RunStarted)}
        return sum(isinstance(e, RunCompleted) and e.run_id in runs for e in self.events)

    def hits(self, node: str) -> list[NodeCacheHit]:
        return [e for e in self.events if isinstance(e, NodeCacheHit) and e.node == node and e.what == "state"]

    def fits(self, node: str) -> int:
        """How often it learnt: fits that it completed, less those whose state came from the cache in the end."""
        fits = {e.run_id for e in self.events if isinstance(e, RunStarted) and e.what == "fit"}
        done = {e.run_id for e in self.events if isinstance(e, NodeCompleted) and e.node == node} & fits
        return len(done - {e.run_id for e in self.hits(node)})


@pytest.fixture
def heard(shared_cluster: Any) -> Iterator[Heard]:
    heard = Heard()
    stop = soma.on_event(heard)
    yield heard
    stop()


def tune(graph: soma.Graph, name: str = "tune", **given: Any) -> GraphStudy:
    study = graph.study(name, X, Y, **{"score": error, "directions": "minimize", "seed": 0, **given})
    assert isinstance(study, GraphStudy)
    return study


def test_a_shared_stage_is_fitted_once_for_all_trials(heard: Heard, log: Path, tmp_path: Path) -> None:
    """The first two trials want it at the same moment: it learns until both have asked. A later run finds it too."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    asked = threading.Semaphore(0)
    stop = soma.on_event(lambda e: asked.release() if isinstance(e, NodeCacheMiss) and e.node == "centre" and e.what == "state" else None)

    def open_it() -> None:
        asked.acquire()
        asked.acquire()
        gate.write_bytes(b"")

    thread = threading.Thread(target=open_it)
    thread.start()
    graph = soma.Graph(Centre(str(log), str(gate)) >> Ridge(soma.search(0.1, 100.0, scale="log")))
    try:
        study = tune(graph, n_trials=6).run(n_jobs=2)
    finally:
        thread.join()
        stop()
    assert [t.state for t in study.trials] == ["completed"] * 6
    heard.until_runs_ended(12)
    assert len(log.read_text().split()) == 1 == heard.fits("centre") and heard.fits("ridge") == 6
    assert len(heard.hits("centre")) == 5 and len({e.key for e in heard.hits("centre")}) == 1
    assert study.directory is not None and (study.directory / "cache").is_dir()
    tune(graph, n_trials=8).run(n_jobs=1)
    heard.until_runs_ended(16)
    assert len(log.read_text().split()) == 1 == heard.fits("centre") and heard.fits("ridge") == 8


def test_scores_are_those_of_the_folds(shared_cluster: Any, log: Path) -> None:
    pairs = [(np.arange(20, 60), np.arange(20)), (np.arange(40), np.arange(40, 60))]
    graph = soma.Graph(Centre(str(log)) >> Ridge(soma.search(0.1, 100.0, scale="log")))
    study = tune(graph, cv=pairs, sampler="grid", points=3, storage="memory").run(n_jobs=2)

    def by_hand(alpha: float) -> float:
        found = []
        for a, b in pairs:
            centre = X[a].mean(axis=0)
            found.append((((X[b] - centre) @ weights(X[a] - centre, Y[a], alpha) - Y[b]) ** 2).mean())
        return sum(found) / 2

    assert {t.params["ridge.alpha"]: t.value for t in study.trials} == pytest.approx(
        {t.params["ridge.alpha"]: by_hand(t.params["ridge.alpha"]) for t in study.trials})
    best = min((0.1, 10 ** 0.5, 100.0), key=by_hand)
    assert study.best_params["ridge.alpha"] == pytest.approx(best)
    with study.best_graph() as g:
        centre = X.mean(axis=0)
        assert np.allclose(g.fit(X, Y).predict(X), (X - centre) @ weights(X - centre, Y, g.filters["ridge"].alpha))
    assert len(log.read_text().split()) == 3  # two folds, and all rows


def test_edges(shared_cluster: Any, log: Path) -> None:
    graph = soma.Graph(Centre(str(log)) >> Ridge(1.0))
    study = tune(graph, space={"centre -> ridge": edge()}, validation=(X[:10], Y[:10]), sampler="grid", storage="memory").run(n_jobs=0)
    centre = X.mean(axis=0)
    assert {t.params["centre -> ridge"]: t.value for t in study.trials} == pytest.approx({
        True: error(Y[:10], (X[:10] - centre) @ weights(X - centre, Y, 1.0)), False: error(Y[:10], X[:10] @ weights(X, Y, 1.0))})
    assert study.best_params == {"centre -> ridge": False} and list(study.best_graph().filters) == ["ridge"]


def test_all_trials_draw_the_same_numbers_unless_there_are_seeds(shared_cluster: Any) -> None:
    graph = soma.Graph(Draws(soma.search(0.0, 1.0)))
    zeros = (np.zeros((1, 3)), np.zeros(1))
    same = tune(graph, validation=zeros, n_trials=2, storage="memory").run(n_jobs=2)
    assert len({t.value for t in same.trials}) == 1
    each = tune(graph, validation=zeros, n_trials=2, storage="memory", seeds=[1, 2]).run(n_jobs=1)
    by_seed = {seed: {t.value for t in each.trials if t.seed == seed} for seed in (1, 2)}
    assert [len(v) for v in by_seed.values()] == [1, 1] and by_seed[1] != by_seed[2]


@pytest.mark.parametrize("n_jobs", [0, 1])
def test_the_pruner_ends_a_graph_in_the_midst_of_a_fit(shared_cluster: Any, n_jobs: int) -> None:
    """Its filter never returns, and holds most of the CPUs until it is killed: the third trial needs them."""
    graph = soma.Graph(Reports(soma.search(choices=[0.9, 0.1, 0.8]), "score"))
    study = tune(graph, score=quality, directions="maximize", sampler="grid", pruner="median", storage="memory").run(n_jobs=n_jobs)
    # 0.8 is worse than the median of what completed, which is 0.9 alone.
    assert [(t.state, t.params["reports.quality"]) for t in study.trials] == [("completed", 0.9), ("pruned", 0.1), ("pruned", 0.8)]
    assert study.trials[0].metrics == {"score": {0: 0.9, 1: 0.9, 2: 0.9}}
    assert study.trials[1].metrics["score"][0] == 0.1


def test_the_pruner_judges_the_mean_of_the_folds_so_far(shared_cluster: Any) -> None:
    graph = soma.Graph(Ridge(soma.search(choices=[1.0, 1e9])))
    study = tune(graph, cv=4, sampler="grid", pruner="median", storage="memory").run(n_jobs=1)
    good, bad = study.trials
    assert (good.state, list(good.metrics["score"])) == ("completed", [0, 1, 2])
    assert (bad.state, list(bad.metrics["score"])[0]) == ("pruned", 0) and bad.metrics["score"][0] > good.metrics["score"][0]


def test_trials_wait_for_what_the_filters_of_others_hold(shared_cluster: Any) -> None:
    """Two at once want 3 of 4 CPUs each."""
    graph = soma.Graph(Reports(soma.search(choices=[0.9, 0.8, 0.7]), "other"))
    study = tune(graph, score=quality, directions="maximize", sampler="grid", storage="memory").run(n_jobs=2)
    assert [t.state for t in study.trials] == ["completed"] * 3
    assert study.trials[0].metrics == {"reports.other": {0: 0.9, 1: 0.9, 2: 0.9}}


def test_nothing_stays_reserved_when_a_trial_is_killed(shared_cluster: Any) -> None:
    """The filter of the second trial never returns; its process and what it held go with the trial's."""
    graph = soma.Graph(Reports(soma.search(choices=[0.9, 0.1, 0.8]), "other"))
    study = tune(graph, score=quality, directions="maximize", sampler="grid", storage="memory")

    def kill(event: Event) -> None:
        if isinstance(event, MetricReported) and event.value == 0.1 and event.step == 2:
            os.kill(study.trials[1].worker["pid"], signal.SIGKILL)

    stop = soma.on_event(kill)
    study.run(n_jobs=1)
    stop()
    assert [(t.state, t.error_type) for t in study.trials] == [("completed", ""), ("failed", "ActorDiedError"), ("completed", "")]


def test_processes_stay_from_trial_to_trial(shared_cluster: Any) -> None:
    """With new parameters each time; after a failure they are others."""
    graph = soma.Graph(Fails(soma.search(choices=[1, 2, 3, 4, 5])))
    study = tune(graph, score=lambda true, said: {"score": said[0], "pid": said[1]}, sampler="grid", storage="memory").run(n_jobs=1)
    assert [(t.state, t.error) for t in study.trials] == [("completed", ""), ("completed", ""), ("failed", "not 3"), ("completed", ""),
                                                          ("completed", "")]
    good = [t for t in study.trials if t.state == "completed"]
    assert [t.value for t in good] == [1, 2, 4, 5]
    one, two, four, five = (t.notes["pid"] for t in good)
    assert one == two != four == five


def test_a_process_that_died_between_trials_is_made_anew(shared_cluster: Any) -> None:
    first, second = (soma.Graph(Fails(n)) for n in (1, 2))
    with first, second:
        process = psutil.Process(first.fit(X, Y).pids()["fails"])
        process.kill()
        process.wait()
        second.take_over(first)
        assert first.running() == [] and second.fit(X, Y).predict(X)[0] == 2


def test_processes_are_taken_over_by_a_graph_of_the_same_shape_only(shared_cluster: Any, log: Path) -> None:
    one, two = (soma.Graph(Centre(str(log)) >> Ridge(alpha)) for alpha in (1.0, 2.0))
    other = soma.Graph(Ridge(2.0) >> Centre(str(log)))
    with one, two, other:
        pids = one.fit(X, Y).pids()
        two.take_over(one)
        with pytest.raises(NotFittedError):
            two.predict(X)  # what was learnt does not come along
        centre = X.mean(axis=0)
        assert np.allclose(two.fit(X, Y).predict(X), (X - centre) @ weights(X - centre, Y, 2.0)) and two.pids() == pids
        other.take_over(two)
        assert other.running() == two.running() == []


@pytest.mark.torch
def test_epochs_of_a_torch_module_are_metrics(shared_cluster: Any) -> None:
    from torch import nn

    graph = soma.Graph(soma.filter(nn.Linear, epochs=2)(3, 1))
    study = graph.study("net", X, Y[:, None], score=error, objectives="loss", directions="minimize", cv=2, storage="memory").run(n_jobs=1)
    (trial,) = study.trials
    assert (trial.state, trial.error) == ("completed", "")
    assert {name: list(steps) for name, steps in trial.metrics.items()} == {"loss": [0, 1, 2, 3]}  # two epochs of two folds
