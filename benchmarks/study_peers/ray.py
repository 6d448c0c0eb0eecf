"""Ray Tune, with its default (random) search."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import ray
from ray import tune

from benchmarks.study_work import Scale, Values

NOTE = "one trial at a time, its process used again; its record of a study is a directory of files, compared here with SQLite"


def fit(what: Any, trials: int) -> float:
    config = tune.TuneConfig(num_samples=trials, max_concurrent_trials=1, reuse_actors=True)
    run = tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0)
    space = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}
    begin = time.perf_counter()
    results = tune.Tuner(tune.with_resources(what, {"cpu": 1}), param_space=space, tune_config=config, run_config=run).fit()
    taken = time.perf_counter() - begin
    assert len(results) == trials and not results.errors
    return taken


def overhead(scale: Scale) -> Values:
    return {"trial_sqlite": fit(lambda config: {"value": config["x"] + config["y"]}, scale.tune) / scale.tune * 1e3}


def start() -> None:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)


STEPS = {"sqlite": overhead}
stop = ray.shutdown
