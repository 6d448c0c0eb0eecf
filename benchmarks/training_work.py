"""What the measured trainings do, the same for every system: models, data, batches, and how time and memory are taken. Loads torch only
where a model is made."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks import proc

Values = dict[str, float]
State = dict[str, Any]
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Scale:
    """How often each thing is done in one round."""

    reduces: tuple[tuple[int, int], ...] = ((1, 60), (10, 12), (100, 3))
    """MB, and calls in a block."""
    blocks: int = 7
    cnn_epochs: int = 8
    mlp_epochs: int = 4
    mlp_rows: int = 1024
    clients: int = 50
    averages: int = 5


FULL = Scale()
QUICK = Scale(((1, 20), (10, 5), (100, 1)), 3, 3, 2, 512, 50, 2)


def threads(ranks: int) -> int:
    """Of torch, in each rank."""
    return max(1, CORES // ranks)


def reduce_times(all_reduce: Callable[[Any], Any], barrier: Callable[[], Any], rank: int, ranks: int, scale: Scale) -> Values:
    """In one rank: the sum, in place, in a buffer that is used again and again; the median of blocks that begin together. ms.

    Zeros, because sums of sums would overflow; the first result is compared with what it must be."""
    found = {}
    for mb, calls in scale.reduces:
        buffer = np.full(mb * 10**6 // 4, rank + 1, np.float32)
        all_reduce(buffer)
        assert (buffer == ranks * (ranks + 1) / 2).all()
        buffer[:] = 0
        for _ in range(3):
            all_reduce(buffer)
        taken = []
        for _ in range(scale.blocks):
            barrier()
            begin = time.perf_counter()
            for _ in range(calls):
                all_reduce(buffer)
            taken.append((time.perf_counter() - begin) / calls)
        found[f"reduce_{ranks}_{mb}"] = median(taken) * 1e3
    return found


@dataclass(frozen=True, slots=True)
class Task:
    """One training: plain SGD on cross-entropy. `batch` is that of all ranks together, and divides the rows."""

    model: Callable[[], Any]
    data: Callable[[], tuple[Any, Any]]
    batch: int
    epochs: int
    lr: float = 0.01


def cnn() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(512, 10))


def mlp() -> Any:
    """10.0 M parameters: 40 MB."""
    from torch import nn

    return nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
                         nn.Linear(2048, 10))


def line() -> Any:
    """Next to nothing: what a process holds with it, it holds without a model."""
    from torch import nn

    return nn.Linear(784, 10)


def digits() -> tuple[Any, Any]:
    """1,792 of scikit-learn's 1,797 images: 28 batches of 64."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x[:1792].reshape(-1, 1, 8, 8) / 16).astype(np.float32), y[:1792].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Noise:
    rows: int

    def __call__(self) -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        return rng.normal(size=(self.rows, 784)).astype(np.float32), rng.integers(0, 10, self.rows)


def tasks(scale: Scale) -> dict[str, Task]:
    return {"cnn": Task(cnn, digits, 64, scale.cnn_epochs), "mlp": Task(mlp, Noise(scale.mlp_rows), 128, scale.mlp_epochs)}


def rate(task: Task, seconds: Sequence[float]) -> float:
    """Samples a second, out of how long each epoch took; the first one warms up."""
    return len(task.data()[1]) / median(seconds[1:])


@contextmanager
def highest_memory(pids: Callable[[], Iterable[int]]) -> Iterator[Values]:
    """MB of the largest of these processes, at its highest meanwhile: what it shares counts in shares (PSS)."""
    found, done = {"mb": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for pid in pids():
                try:
                    found["mb"] = max(found["mb"], proc.pss(pid))
                except psutil.NoSuchProcess:
                    continue  # it has just ended

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def copies(train: Callable[[Task], float]) -> Values:
    """How many copies of the MLP a rank holds. `train` says the highest memory of a rank in MB; small batches keep activations out."""
    nothing, whole = (train(Task(model, Noise(256), 32, 4)) for model in (line, mlp))
    return {"copies": (whole - nothing) / (sum(p.numel() * p.element_size() for p in mlp().parameters()) / 1e6)}


SHAPES = {"a.weight": (1024, 1024), "a.bias": (1024,), "b.weight": (1024, 1024), "b.bias": (1024,), "c.weight": (400, 1002)}
"""Of a client's state: 2.5 M float32, 10 MB."""


def states(clients: int, empty: Callable[[tuple[int, ...]], Any]) -> tuple[list[State], list[float]]:
    """States and their weights. `empty` makes an array of float32."""
    rng, made = np.random.default_rng(0), []
    for _ in range(clients):
        state = {name: empty(shape) for name, shape in SHAPES.items()}
        for array in state.values():
            rng.random(out=array, dtype=np.float32)
        made.append(state)
    return made, [float(w) for w in rng.integers(100, 1000, clients)]


def numpy_pass(states: Sequence[State], weights: Sequence[float]) -> State:
    """What one would write: once over all bytes, sums in float64 as soma's are."""
    total = sum(weights)
    sums = {name: np.zeros(array.shape, np.float64) for name, array in states[0].items()}
    for state, weight in zip(states, weights, strict=True):
        for name, array in state.items():
            sums[name] += np.multiply(array, weight / total, dtype=np.float64)
    return {name: array.astype(np.float32) for name, array in sums.items()}


def in_turns(times: int, *averages: Callable[[], Any]) -> list[float]:
    """ms of each, called one after the other again and again, so that they see the same machine."""
    taken: list[list[float]] = [[] for _ in averages]
    for turn in range(times + 1):
        for average, its in zip(averages, taken, strict=True):
            begin = time.perf_counter()
            average()
            if turn:  # the first one warms up
                its.append(time.perf_counter() - begin)
    return [median(its) * 1e3 for its in taken]
