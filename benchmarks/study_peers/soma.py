"""soma's studies: trials in worker processes, optuna in the driver."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import soma
from benchmarks import joblib_figures
from benchmarks.study_peers import optuna as alone
from benchmarks.study_work import FUNCTIONS, SEARCHES, Scale, Values, seeds, speedup_of, spin
from soma.study.storing import open_storage

NOTE = "each trial in a worker process, one at a time where nothing else is said; optuna samples and stores"
numbers = itertools.count()

FIRST = """
import time, soma
study = soma.Study("first", {"x": (0.0, 1.0)}, n_trials=1, seed=0)
def objective(trial):
    return time.time()
begin = time.time()
study.run(objective)
print("first", study.best_value - begin)
"""


def study(space: Any, **options: Any) -> soma.Study:
    return soma.Study(f"s{next(numbers)}", space, seed=0, **options)


class Echo:
    def call(self, x: Any) -> Any:
        return x


def actor_call(times: int) -> float:
    """Seconds of one, waited for."""
    echo = soma.remote(Echo).remote()
    params = {"x": 0.5, "y": 0.5}
    for _ in range(20):
        soma.get(echo.call.remote(params))
    begin = time.perf_counter()
    for _ in range(times):
        soma.get(echo.call.remote(params))
    taken = time.perf_counter() - begin
    soma.kill(echo)
    return taken / times


def overhead(kind: str, scale: Scale) -> Values:
    """soma's blocks and optuna's in turns, in one process, so that both see the same machine; an actor call likewise."""
    kept, _ = open_storage(None if kind == "sqlite" else kind, Path(tempfile.mkdtemp()))  # with soma's settings, for a fair ratio
    mine, theirs, calls = [], [], []
    storage = None if kind == "sqlite" else kind
    for _ in range(max(1, scale.blocks // 2) if kind == "sqlite" else scale.blocks):  # the slowest: two rounds make it a thousand
        ours = study({"x": (0.0, 1.0), "y": (0.0, 1.0)}, sampler="random", n_trials=scale.block, storage=storage)
        begin = time.perf_counter()
        ours.run(lambda t: t["x"] + t["y"], record=False)
        mine.append((time.perf_counter() - begin) / scale.block)
        assert len(ours.trials) == scale.block
        theirs.append(alone.no_op(scale.block, kept) / scale.block)
        calls.append(actor_call(100))
    return {f"trial_{kind}": median(mine) * 1e3, f"ratio_{kind}": median(mine) / (median(theirs) + median(calls))}


def speedup(scale: Scale) -> Values:
    def busy(jobs: int) -> None:
        study({"x": (0.0, 1.0)}, sampler="random", n_trials=scale.busy).run(lambda t: spin(scale.spin) + t["x"], n_jobs=jobs)

    return speedup_of(busy, scale)


def first(scale: Scale) -> Values:
    found = []
    for _ in range(scale.firsts):
        with tempfile.TemporaryDirectory() as where:
            env = {**os.environ, "SOMA_RUNS": str(Path(where) / "runs")}
            said = subprocess.run([sys.executable, "-c", FIRST], env=env, check=True, capture_output=True, text=True, timeout=60).stdout
        found.append(float(said.split()[-1]))
    return {"first": median(found)}


def search(function: str, name: str, scale: Scale) -> Values:
    f, space, least = FUNCTIONS[function]
    taken, gaps = [], []
    for seed in seeds(scale):
        ours = soma.Study(f"s{next(numbers)}", space, sampler=name, n_trials=scale.search, seed=seed, storage="memory")
        begin = time.perf_counter()
        ours.run(f, record=False)
        taken.append(time.perf_counter() - begin)
        gaps.append(ours.best_value - least)
    return {f"{function}_{name}_s": median(taken), f"{function}_{name}_gap": median(gaps)}


def on_joblib(what: str, scale: Scale) -> Values:
    with joblib_figures.running("soma"):
        return joblib_figures.times(what, scale.small, scale.large, scale.mb)


def start() -> None:
    os.environ.setdefault("SOMA_RUNS", str(Path(tempfile.mkdtemp()) / "runs"))
    alone.start()
    soma.init(num_cpus=2, log_to_driver=False)


STEPS: dict[str, Any] = {**{kind: partial(overhead, kind) for kind in ("sqlite", "journal", "memory")}, "speedup": speedup, "first": first,
                         **{f"{f}_{s}": partial(search, f, s) for f, s in SEARCHES},
                         **{f"joblib_{what}": partial(on_joblib, what) for what in ("small", "large", "results")}}
stop = soma.shutdown
