"""What the steps of the measured graphs do, the same for every system; and how often it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

Values = dict[str, float]
TWO_FLOATS = (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """How often each thing is done in one round."""

    calls: int = 400
    long_calls: int = 40
    arrays: int = 30
    spins: int = 3
    spin: int = 6_000_000
    stream_mb: tuple[int, int] = (500, 2000)
    cached_mb: int = 100


FULL = Scale()
QUICK = Scale(calls=100, long_calls=10, arrays=10, spins=1, spin=2_000_000, stream_mb=(100, 400), cached_mb=20)


def same(x: Any) -> Any:
    return x


def spin(n: int) -> int:
    """Pure Python that keeps one core busy."""
    total = 0
    for i in range(n):
        total = (total * 31 + i) % 1_000_003
    return total


def p50(call: Callable[[], Any], times: int) -> float:
    """Seconds; a tenth as many calls warm up."""
    for _ in range(max(3, times // 10)):
        call()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def speedup(parallel: Callable[[], Any], serial: Callable[[], Any], times: int) -> Values:
    """Both in turns, so that they see the same machine."""
    parallel()
    fast, slow = [], []
    for _ in range(times):
        for call, taken in ((serial, slow), (parallel, fast)):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return {"branches": median(fast), "speedup": median(slow) / median(fast)}


def cached_input(mb: int) -> Any:
    """Columns whose numbers do not repeat."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(mb * 10**6 // 8 // 50, 50))
