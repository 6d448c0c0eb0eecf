"""joblib on its own processes."""

from __future__ import annotations

from functools import partial
from typing import Any

from joblib import Parallel, delayed

from benchmarks import joblib_figures
from benchmarks.study_work import Scale, Values, speedup_of, spin

NOTE = "two processes of joblib's own, started before what is measured; its speed-up is that of the work alone: what the cores give"


def on_loky(what: str, scale: Scale) -> Values:
    with joblib_figures.running("loky"):
        return joblib_figures.times(what, scale.small, scale.large, scale.mb)


def speedup(scale: Scale) -> Values:
    """The same work without trials: what the two cores give."""
    with joblib_figures.running("loky"):
        return speedup_of(lambda jobs: Parallel(n_jobs=jobs, batch_size=1)(delayed(spin)(scale.spin) for _ in range(scale.busy)), scale)


def start() -> None:
    return None


STEPS: dict[str, Any] = {f"joblib_{what}": partial(on_loky, what) for what in ("small", "large", "results")}
STEPS["speedup"] = speedup
stop = start
