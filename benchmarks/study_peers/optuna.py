"""optuna alone, in one process."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.study_work import FUNCTIONS, SEARCHES, Scale, Values, seeds, speedup_of, spin

NOTE = "in the caller's process: n_jobs=2 are two threads, so pure Python does not get faster"


def storage(kind: str) -> Any:
    directory = Path(tempfile.mkdtemp())
    match kind:
        case "sqlite":
            return RDBStorage(f"sqlite:///{directory / 'o.db'}")
        case "journal":
            return JournalStorage(JournalFileBackend(str(directory / "o.journal")))
    return InMemoryStorage()


def no_op(trials: int, kept: Any) -> float:
    """Seconds for so many."""
    study = optuna.create_study(storage=kept, sampler=optuna.samplers.RandomSampler(seed=0))
    begin = time.perf_counter()
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=trials)
    return time.perf_counter() - begin


def overhead(kind: str, scale: Scale) -> Values:
    kept = storage(kind)
    return {f"trial_{kind}": median(no_op(scale.block, kept) for _ in range(scale.blocks)) / scale.block * 1e3}


def speedup(scale: Scale) -> Values:
    def busy(jobs: int) -> None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(lambda t: spin(scale.spin) + t.suggest_float("x", 0, 1), n_trials=scale.busy, n_jobs=jobs)

    return speedup_of(busy, scale)


def search(function: str, name: str, scale: Scale) -> Values:
    f, space, least = FUNCTIONS[function]
    taken, gaps = [], []
    for seed in seeds(scale):
        sampler: Any = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}[name](seed=seed)
        study = optuna.create_study(sampler=sampler)
        begin = time.perf_counter()
        study.optimize(lambda t: f({k: t.suggest_float(k, *ends) for k, ends in space.items()}), n_trials=scale.search)
        taken.append(time.perf_counter() - begin)
        gaps.append(study.best_value - least)
    return {f"{function}_{name}_s": median(taken), f"{function}_{name}_gap": median(gaps)}


def start() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def stop() -> None:
    return None


STEPS: dict[str, Any] = {**{kind: partial(overhead, kind) for kind in ("sqlite", "journal", "memory")}, "speedup": speedup,
                         **{f"{f}_{s}": partial(search, f, s) for f, s in SEARCHES}}
