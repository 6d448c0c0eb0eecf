"""scikit-learn's Pipeline, with `memory=` (joblib's cache on disk). Everything runs in the caller's process."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import Any

from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks.graph_work import TWO_FLOATS, Scale, Values, cached_input, p50, same

NOTE = "one process: nothing is isolated and nothing runs side by side. Its cache is for transformers; the last step is fitted anew"


def chains(scale: Scale) -> Values:
    found = {}
    for n in (1, 3, 10, 100):
        pipeline: Any = Pipeline([(f"s{i}", FunctionTransformer(same)) for i in range(n)]).fit([TWO_FLOATS])
        found[f"chain_{n}"] = p50(lambda pipeline=pipeline: pipeline.transform(TWO_FLOATS), scale.calls) * 1e3  # type: ignore[misc]
    return found


def cache(scale: Scale) -> Values:
    x, where = cached_input(scale.cached_mb), tempfile.mkdtemp()
    y = x[:, 0].copy()

    def fit() -> float:
        steps = [("a", StandardScaler()), ("b", StandardScaler()), ("c", LinearRegression())]
        pipeline = Pipeline(steps, memory=where)
        begin = time.perf_counter()
        pipeline.fit(x, y)
        return time.perf_counter() - begin

    try:
        cold = fit()
        return {"cold": cold, "warm": sorted(fit() for _ in range(3))[1]}
    finally:
        shutil.rmtree(where, ignore_errors=True)


def start() -> None:
    return None


STEPS = {"chains": chains, "cache": cache}
stop = start
