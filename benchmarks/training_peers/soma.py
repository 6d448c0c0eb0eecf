"""soma's training: collectives between actors, DataParallel, fedavg."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import soma
from benchmarks import training_work
from benchmarks.training_work import (
    CORES,
    Scale,
    Task,
    Values,
    highest_memory,
    in_turns,
    numpy_pass,
    rate,
    reduce_times,
    states,
    tasks,
    threads,
)

NOTE = "ranks are actors that reduce in shared memory; averages are summed in float64"


@soma.remote
class Rank:
    def __init__(self, rank: int, ranks: int) -> None:
        torch.set_num_threads(threads(ranks))
        self.rank, self.ranks = rank, ranks

    def reduce(self, meeting: str, scale: Scale) -> Values:
        with soma.train.Group.join(meeting, self.rank, self.ranks) as group:
            return reduce_times(group.all_reduce, group.barrier, self.rank, self.ranks, scale)


def reduced(ranks: int) -> Callable[[Scale], Values]:
    def step(scale: Scale) -> Values:
        meeting = soma.remote(num_cpus=0)(soma.train.AllReduce).remote()
        group = [Rank.options(num_cpus=0).remote(rank, ranks) for rank in range(ranks)]
        address = soma.get(meeting.address.remote())
        found = soma.get([r.reduce.remote(address, scale) for r in group])
        for actor in (*group, meeting):
            soma.kill(actor)
        return dict(found[0])

    return step


def fit(task: Task, ranks: int) -> list[float]:
    """Seconds of each epoch."""
    x, y = task.data()
    trainer = soma.train.DataParallel(task.model(), ranks, loss_fn=cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=task.lr))
    done = trainer.fit(x, y, epochs=task.epochs, batch_size=task.batch, record=False, progress=False)
    return [epoch["seconds"] for epoch in done.history]


def trained(name: str) -> Callable[[Scale], Values]:
    def step(scale: Scale) -> Values:
        task = tasks(scale)[name]
        return {f"{name}_{ranks}": rate(task, fit(task, ranks)) for ranks in (1, 2)}

    return step


def copies(scale: Scale) -> Values:
    def pids() -> list[int]:
        return [actor["pid"] for actor in soma.status()["actors"]]

    def train(task: Task) -> float:
        with highest_memory(pids) as highest:
            fit(task, 2)
        return highest["mb"]

    return training_work.copies(train)


def fedavg(scale: Scale) -> Values:
    """soma's and NumPy's over the same bytes, in turns: states that came to this process through shared memory."""
    made, weights = states(scale.clients, lambda shape: np.empty(shape, np.float32))
    clients = soma.get([soma.put(state) for state in made])
    ours, numpys = in_turns(scale.averages, lambda: soma.train.fedavg(clients, weights), lambda: numpy_pass(clients, weights))
    return {"fedavg": ours, "fedavg_ratio": ours / numpys}


def start() -> None:
    os.environ.setdefault("SOMA_RUNS", str(Path(tempfile.mkdtemp()) / "runs"))
    soma.init(num_cpus=max(4, CORES), log_to_driver=False)


STEPS = {"reduce_2": reduced(2), "reduce_4": reduced(4), "cnn": trained("cnn"), "mlp": trained("mlp"), "copies": copies, "fedavg": fedavg}
stop = soma.shutdown
