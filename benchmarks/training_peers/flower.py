"""Flower: the function that its FedAvg strategy aggregates with, alone. Its clients would send serialised states besides."""

from __future__ import annotations

import numpy as np
from flwr.server.strategy.aggregate import aggregate

from benchmarks.training_work import Scale, Values, in_turns, states

NOTE = "the function that its FedAvg aggregates with, without serialisation; sums in float32"


def fedavg(scale: Scale) -> Values:
    clients, weights = states(scale.clients, lambda shape: np.empty(shape, np.float32))
    results = [(list(state.values()), int(weight)) for state, weight in zip(clients, weights, strict=True)]
    return {"fedavg": in_turns(scale.averages, lambda: aggregate(results))[0]}


def start() -> None:
    return None


STEPS = {"fedavg": fedavg}
stop = start
