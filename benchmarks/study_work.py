"""What the trials of the measured studies do, the same for every system; and how often it is done."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.graph_work import Values as Values
from benchmarks.graph_work import spin as spin


@dataclass(frozen=True, slots=True)
class Scale:
    """How often each thing is done in one round.

    Attributes:
        blocks: soma and optuna run so many blocks of no-op trials in turns,
        block: of so many trials each;
        tune: Ray Tune, which takes longer, so many in all.
        busy: trials of `spin` numbers, a fifth of a second each; `turns`: one at a time and two at once, so many times.
        search: trials of a search for an optimum; `searches`: how many of these, each with a seed of its own.
        firsts: fresh processes whose first trial is timed.
        small: joblib's small tasks; `large`: its arrays, of `mb` each.
    """

    blocks: int = 4
    block: int = 250
    tune: int = 8
    busy: int = 12
    turns: int = 5
    spin: int = 2_600_000
    search: int = 40
    searches: int = 5
    firsts: int = 5
    small: int = 1000
    large: int = 20
    mb: int = 50


FULL = Scale()
QUICK = Scale(blocks=1, block=40, tune=4, busy=4, turns=1, search=12, searches=1, firsts=1, small=200, large=4, mb=20)


def speedup_of(busy: Callable[[int], object], scale: Scale) -> Values:
    """How much sooner `busy` is done by two at once than by one at a time, in turns: what two cores give together changes within
    seconds."""
    taken = []
    for _ in range(scale.turns):
        for jobs in (1, 2):
            begin = time.perf_counter()
            busy(jobs)
            taken.append(time.perf_counter() - begin)
    return {"speedup": median(one / two for one, two in zip(taken[::2], taken[1::2], strict=True))}


Dimensions = dict[str, tuple[float, float]]


def branin(p: Mapping[str, Any]) -> float:
    """Dixon and Szegö's form; three optima of 0.397887."""
    x, y = p["x"], p["y"]
    return (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


_A = ((10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14))
_P = ((1312, 1696, 5569, 124, 8283, 5886), (2329, 4135, 8307, 3736, 1004, 9991), (2348, 1451, 3522, 2883, 3047, 6650),
      (4047, 8828, 8732, 5743, 1091, 381))
_C = (1.0, 1.2, 3.0, 3.2)


def hartmann(p: Mapping[str, Any]) -> float:
    """Hartmann's function of six dimensions; its optimum is −3.32237."""
    x = [p[f"x{i}"] for i in range(6)]
    return -sum(c * math.exp(-sum(a[i] * (x[i] - q[i] * 1e-4) ** 2 for i in range(6))) for c, a, q in zip(_C, _A, _P, strict=True))


FUNCTIONS: Mapping[str, tuple[Any, Dimensions, float]] = {
    "branin": (branin, {"x": (-5.0, 10.0), "y": (0.0, 15.0)}, 0.397887),
    "hartmann": (hartmann, {f"x{i}": (0.0, 1.0) for i in range(6)}, -3.32237),
}
"""Function, its dimensions, its least value."""

SEARCHES: Sequence[tuple[str, str]] = (("branin", "tpe"), ("branin", "gp"), ("hartmann", "tpe"), ("hartmann", "gp"))


def seeds(scale: Scale) -> list[int]:
    """Of the searches of this round, others in each: whether a search ends in the optimum or beside it is chance, and few tell nothing."""
    return random.sample(range(2**31), scale.searches)
