"""torch.distributed with gloo, and DDP on it: spawned processes that meet over loopback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benchmarks import training_work
from benchmarks.training_peers.torch import train
from benchmarks.training_work import Scale, Task, Values, highest_memory, rate, reduce_times, tasks, threads

NOTE = "torch.distributed with gloo over loopback; DDP with its defaults; cores ÷ ranks threads in each rank, as for soma"
InRank = Callable[[int, int], Any]
"""(rank, ranks) → what rank 0 answers."""


def enter(rank: int, ranks: int, meet: str, work: InRank, answers: Any) -> None:
    torch.set_num_threads(threads(ranks))
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
    found = work(rank, ranks)
    if rank == 0:
        answers.put(found)
    dist.barrier()
    dist.destroy_process_group()


def on(ranks: int, work: InRank, watched: bool = False) -> tuple[Any, float]:
    """What rank 0 answered; and the highest memory of a rank in MB, if it is to be watched, which slows the ranks down."""
    answers = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        group = mp.start_processes(enter, (ranks, str(Path(folder) / "meet"), work, answers), ranks, join=False, start_method="spawn")
        with highest_memory(lambda: group.pids() if watched else []) as highest:
            while not group.join():
                pass
    return answers.get(), highest["mb"]


def reduce(scale: Scale, rank: int, ranks: int) -> Values:
    return reduce_times(lambda array: dist.all_reduce(torch.from_numpy(array)), dist.barrier, rank, ranks, scale)


def fit(task: Task, rank: int, ranks: int) -> list[float]:
    torch.manual_seed(0)
    return train(DistributedDataParallel(task.model()), task, rank, ranks, dist.barrier)


def reduced(ranks: int) -> Callable[[Scale], Values]:
    return lambda scale: dict(on(ranks, partial(reduce, scale))[0])


def trained(name: str) -> Callable[[Scale], Values]:
    def step(scale: Scale) -> Values:
        task = tasks(scale)[name]
        return {f"{name}_{ranks}": rate(task, on(ranks, partial(fit, task))[0]) for ranks in (1, 2)}

    return step


def copies(scale: Scale) -> Values:
    return training_work.copies(lambda task: on(2, partial(fit, task), watched=True)[1])


def start() -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"


def stop() -> None:
    return None


STEPS = {"reduce_2": reduced(2), "reduce_4": reduced(4), "cnn": trained("cnn"), "mlp": trained("mlp"), "copies": copies}
