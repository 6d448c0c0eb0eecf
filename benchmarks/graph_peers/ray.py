"""Ray: an actor for each step, refs between them."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import numpy as np
import ray

from benchmarks.graph_work import TWO_FLOATS, Scale, Values, p50, speedup, spin

NOTE = "an actor for each step, a ref from each to the next"


@ray.remote
class Step:
    def forward(self, x: Any) -> Any:
        return x

    def spin(self, n: int) -> int:
        return spin(n)


def through(steps: list[Any], x: Any) -> Any:
    for step in steps:
        x = step.forward.remote(x)
    return ray.get(x)


def chains(scale: Scale) -> Values:
    """Up to ten: a hundred of its processes take more memory than a laptop has to spare."""
    found = {}
    for n in (1, 3, 10):
        steps = [Step.options(num_cpus=0).remote() for _ in range(n)]
        found[f"chain_{n}"] = p50(lambda steps=steps: through(steps, TWO_FLOATS), scale.calls // 2) * 1e3  # type: ignore[misc]
        for step in steps:
            ray.kill(step)
    return found


def array(scale: Scale) -> Values:
    steps = [Step.options(num_cpus=0).remote() for _ in range(3)]
    x = np.random.default_rng(0).normal(size=1_000_000)

    def call() -> None:
        x[0] += 1
        out = through(steps, x)
        assert out[0] == x[0] and out[-1] == x[-1]

    return {"array_8": p50(call, scale.arrays) * 1e3}


def branches(scale: Scale) -> Values:
    steps = [Step.options(num_cpus=0).remote() for _ in range(2)]
    return speedup(lambda: ray.get([s.spin.remote(scale.spin) for s in steps]), lambda: (spin(scale.spin), spin(scale.spin)), scale.spins)


def start() -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


STEPS = {"chains": chains, "array": array, "branches": branches}
stop = ray.shutdown
