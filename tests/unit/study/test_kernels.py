"""The Gaussian process: each fit begins where the last trial's ended, also after an interruption, as in optuna's sampler while it lives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
pytest.importorskip("torch")

import optuna

import soma
from soma.filters import derived

pytestmark = pytest.mark.torch


class Lasting(optuna.samplers.GPSampler):
    """optuna's own, one for the whole study, with the random numbers that soma gives to each trial."""

    def before_trial(self, study: Any, trial: Any) -> None:
        for numbers in (self._rng, self._independent_sampler._rng):
            numbers.rng.seed(derived(3, f"trial/{trial.number}"))
        super().before_trial(study, trial)


def value(x: float, y: float) -> float:
    return math.sin(9 * x) + (y - x) ** 2


@pytest.mark.parametrize("constrained", [False, True])
def test_the_next_trial_is_what_optunas_sampler_would_try_that_saw_all_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                               constrained: bool) -> None:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path))
    expected = optuna.create_study(sampler=Lasting(n_startup_trials=3))

    def objective(trial: Any) -> float:
        x, y = (trial.suggest_float(name, 0, 1) for name in "xy")
        if constrained:
            trial.set_constraint("0", x - 0.7)
        return value(x, y)

    expected.optimize(objective, n_trials=8)
    for so_far in (5, 8):
        study = soma.Study("s", {"x": (0.0, 1.0), "y": (0.0, 1.0)}, sampler="gp", sampler_options={"n_startup_trials": 3}, seed=3,
                           n_trials=so_far, constraints=(lambda trial: trial.params["x"] - 0.7) if constrained else None)
        study.run(lambda trial: value(trial["x"], trial["y"]), n_jobs=0, record=False, progress=False)
    assert [t.params for t in study.trials] == [t.params for t in expected.trials]


def test_what_was_fitted_for_other_dimensions_is_of_no_use() -> None:
    """One that exists only sometimes: then the others are what all trials have."""
    space = {"k": ["a", "b"], "x": (0.0, 1.0), "y": {"type": "float", "low": 0.0, "high": 1.0, "when": {"k": "a"}}}
    study = soma.Study("s", space, sampler="gp", sampler_options={"n_startup_trials": 2}, seed=0, storage="memory", n_trials=7)
    for kind in "aaab":
        study.enqueue({"k": kind})
    study.run(lambda trial: trial["x"], n_jobs=0, record=False, progress=False)
    fitted = [t.system_attrs["soma:kernels"]["objectives"][0]["lengths"] for t in study.optuna.trials if "soma:kernels" in t.system_attrs]
    assert {len(lengths) for lengths in fitted} == {2, 3}
