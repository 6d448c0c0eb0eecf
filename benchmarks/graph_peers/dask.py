"""Dask: a graph of futures on four worker processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from distributed import Client

from benchmarks.graph_work import TWO_FLOATS, Scale, Values, p50, same, speedup, spin

NOTE = "futures that depend on each other; Dask itself puts them on its four workers, mostly all of a chain on one"
_client: Any = None


def through(n: int, x: Any) -> Any:
    for _ in range(n):
        x = _client.submit(same, x, pure=False)
    return x.result()


def chains(scale: Scale) -> Values:
    return {f"chain_{n}": p50(lambda n=n: through(n, TWO_FLOATS), max(5, scale.long_calls)) * 1e3 for n in (1, 3, 10, 100)}  # type: ignore[misc]


def array(scale: Scale) -> Values:
    x = np.random.default_rng(0).normal(size=1_000_000)

    def call() -> None:
        x[0] += 1
        out = through(3, _client.scatter(x, hash=False))
        assert out[0] == x[0] and out[-1] == x[-1]

    return {"array_8": p50(call, scale.arrays) * 1e3}


def branches(scale: Scale) -> Values:
    def parallel() -> Any:
        return _client.gather([_client.submit(spin, scale.spin, pure=False) for _ in range(2)])

    return speedup(parallel, lambda: (spin(scale.spin), spin(scale.spin)), scale.spins)


def start() -> None:
    global _client
    _client = Client(n_workers=4, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50)


def stop() -> None:
    _client.close()
    _client.cluster.close() if _client.cluster is not None else None


STEPS = {"chains": chains, "array": array, "branches": branches}
