"""torch in one process, with all cores; and the loop that its DDP runs too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.training_work import CORES, Scale, Task, Values, rate, tasks, threads

NOTE = f"one process with {CORES} threads"


def train(model: Any, task: Task, rank: int = 0, ranks: int = 1, together: Callable[[], Any] = lambda: None) -> list[float]:
    """Seconds of each epoch, in one rank. Every rank takes its share of each batch."""
    x, y = map(torch.from_numpy, task.data())
    optimizer = torch.optim.SGD(model.parameters(), lr=task.lr)
    order, share, seconds = torch.Generator().manual_seed(0), task.batch // ranks, []
    for _ in range(task.epochs):
        together()
        begin = time.perf_counter()
        shuffled = torch.randperm(len(x), generator=order)
        for start in range(rank * share, len(x), task.batch):
            which = shuffled[start:start + share]
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(x[which]), y[which]).backward()
            optimizer.step()
        together()
        seconds.append(time.perf_counter() - begin)
    return seconds


def trained(name: str) -> Callable[[Scale], Values]:
    def step(scale: Scale) -> Values:
        task = tasks(scale)[name]
        torch.manual_seed(0)
        return {f"{name}_1": rate(task, train(task.model(), task))}

    return step


def start() -> None:
    torch.set_num_threads(threads(1))


def stop() -> None:
    return None


STEPS = {"cnn": trained("cnn"), "mlp": trained("mlp")}
