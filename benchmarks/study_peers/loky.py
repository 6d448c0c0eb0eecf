"""joblib on its own processes."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import joblib_figures
from benchmarks.study_work import Scale, Values

NOTE = "two processes of joblib's own, started before what is measured"


def on_loky(what: str, scale: Scale) -> Values:
    with joblib_figures.running("loky"):
        return joblib_figures.times(what, scale.small, scale.large, scale.mb)


def start() -> None:
    return None


STEPS: dict[str, Any] = {f"joblib_{what}": partial(on_loky, what) for what in ("small", "large", "results")}
stop = start
