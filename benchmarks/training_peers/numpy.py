"""NumPy: the loop over states that one would write, on shared memory."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

from benchmarks.training_work import Scale, Values, in_turns, numpy_pass, states

NOTE = "one loop over the states, sums in float64, in one thread"


def shared(shape: tuple[int, ...]) -> Any:
    """An array in memory that another process could share."""
    return np.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), np.float32).reshape(shape)


def fedavg(scale: Scale) -> Values:
    clients, weights = states(scale.clients, shared)
    return {"fedavg": in_turns(scale.averages, lambda: numpy_pass(clients, weights))[0]}


def start() -> None:
    return None


STEPS = {"fedavg": fedavg}
stop = start
