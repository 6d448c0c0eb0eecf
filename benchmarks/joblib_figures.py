"""joblib on soma's workers and on its own (loky): `python -m benchmarks.joblib_figures [ROUNDS]`.

`small`, `large` and `results` give seconds, inside of `with running("soma")` or `with running("loky")`: two workers each, which the first
call starts. Run as a program, the systems take turns and medians are printed.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
from joblib import Parallel, delayed

JOBS = 2


@contextlib.contextmanager
def running(system: str) -> Iterator[None]:
    """Inside, `small`, `large` and `results` run on "soma" (the cluster that there is, or one of two CPUs) or "loky"."""
    with contextlib.ExitStack() as stack:
        if system == "soma":
            import soma
            from soma.util.joblib import register_soma

            register_soma()
            if not soma.is_initialized():
                stack.enter_context(soma.init(num_cpus=JOBS, log_to_driver=False))
        stack.enter_context(joblib.parallel_config(system))
        yield
        if system == "loky":
            from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

            get_reusable_executor().shutdown(wait=True)


def _took(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def small(tasks: int = 1000) -> float:
    """Seconds for tasks of a few microseconds."""
    return _took(lambda: Parallel(n_jobs=JOBS)(delayed(math.sqrt)(i) for i in range(tasks)))


def first_and_last(x: Any) -> tuple[float, float]:
    return float(x[0]), float(x[-1])


def large(tasks: int = 20, mb: int = 50) -> float:
    """Seconds for tasks that look at an array each, of their own. Making the arrays is not timed."""
    arrays = [np.full(mb * 125_000, float(i)) for i in range(tasks)]
    out: list[Any] = []
    took = _took(lambda: out.extend(Parallel(n_jobs=JOBS)(delayed(first_and_last)(x) for x in arrays)))
    assert out == [(i, i) for i in range(tasks)]
    return took


def made(mb: int, i: int) -> Any:
    return np.full(mb * 125_000, float(i))


def results(tasks: int = 20, mb: int = 50) -> float:
    """Seconds for tasks that make an array each."""
    out: list[Any] = []
    took = _took(lambda: out.extend(Parallel(n_jobs=JOBS)(delayed(made)(mb, i) for i in range(tasks))))
    assert [float(x[-1]) for x in out] == list(range(tasks))
    return took


FIGURES: dict[str, Callable[[], float]] = {"small": small, "large": large, "results": results}


def times(what: str, tasks: int, arrays: int, mb: int) -> dict[str, float]:
    """One of the three, after a first time that starts the workers."""
    call = {"small": lambda: small(tasks), "large": lambda: large(arrays, mb), "results": lambda: results(arrays, mb)}[what]
    call()
    return {f"joblib_{what}": median(call() for _ in range(3))}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians by figure and system. The systems take turns; each round of one has a cluster or a pool of its own, warmed by one call."""
    taken: dict[str, dict[str, list[float]]] = {name: {"soma": [], "loky": []} for name in FIGURES}
    for number in range(rounds):
        for system in ("soma", "loky") if number % 2 else ("loky", "soma"):
            with running(system):
                for name, figure in FIGURES.items():
                    figure()
                    taken[name][system] += [figure() for _ in range(5 if name == "small" else 2)]
    return {name: {system: median(times) for system, times in by.items()} for name, by in taken.items()}


if __name__ == "__main__":
    for name, by in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3).items():
        print(f"{name:8} soma {by['soma']:.3f} s   loky {by['loky']:.3f} s   loky ÷ soma {by['loky'] / by['soma']:.1f}")
