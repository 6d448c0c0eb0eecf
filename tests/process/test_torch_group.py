"""The same collective calls over torch.distributed, with gloo, between processes; and one of them killed."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import GroupBrokenError

torch = pytest.importorskip("torch")

from soma.train.torchgroup import Store, TorchGroup  # noqa: E402 - needs torch


class Rank:
    def calls(self, address: Any, rank: int, size: int) -> list[Any]:
        with TorchGroup.join(address, rank, size, "gloo") as group:
            reduced, tensor, bad = np.full(5, rank + 1.0), torch.full((2, 2), float(rank)), np.array([1.0, np.nan if rank else 1.0])
            group.all_reduce(reduced)
            group.all_reduce(tensor, "mean")
            finite = group.all_reduce(bad, check=True)
            sent = np.arange(3) * (rank + 1)
            group.broadcast(sent, root=1)
            gathered = group.all_gather(np.array([rank, 10 * rank]))
            section = group.reduce_scatter(np.arange(5.0), "max")
            group.barrier()
            with pytest.raises(ValueError, match="no whole number"):
                group.all_reduce(np.arange(3), "mean")
            return [reduced.tolist(), tensor.tolist(), finite, sent.tolist(), gathered.tolist(), section.tolist()]

    def reduce_for_ever(self, address: Any, rank: int, size: int) -> None:
        with TorchGroup.join(address, rank, size, "gloo") as group:
            soma.tell({"joined": rank})
            while True:
                group.all_reduce(np.ones(1000))


def meeting() -> Any:
    store = soma.remote(Store).options(num_cpus=0).remote()
    return store, (*soma.get(store.address.remote()), "test")


def test_its_calls_are_those_of_a_group(cluster: Any) -> None:
    store, address = meeting()
    ranks = [soma.remote(Rank).options(num_cpus=0).remote() for _ in range(3)]
    got = soma.get([r.calls.remote(address, n, 3) for n, r in enumerate(ranks)], timeout=25)
    for n, (reduced, tensor, finite, sent, gathered, section) in enumerate(got):
        assert reduced == [6.0] * 5 and tensor == [[1.0, 1.0]] * 2 and finite is False and sent == [0, 2, 4]
        assert gathered == [[0, 0], [1, 10], [2, 20]]
        assert section == np.array_split(np.arange(5.0), 3)[n].tolist()
    soma.kill(store)


@pytest.mark.crash
def test_nobody_waits_for_a_killed_rank(cluster: Any) -> None:
    store, address = meeting()
    ranks = [soma.remote(Rank).options(num_cpus=0).remote() for _ in range(2)]
    joined: list[Any] = []
    refs = [r.reduce_for_ever.options(listener=joined.append).remote(address, n, 2) for n, r in enumerate(ranks)]
    while len(joined) < 2:
        done, _ = soma.wait(refs, timeout=0.005)
        assert not done, soma.get(done[0])
    pids = [a["pid"] for a in soma.status()["actors"] if a["class_name"] == "Rank"]
    os.kill(pids[0], signal.SIGKILL)
    died = time.perf_counter()
    soma.wait(refs, num_returns=2, timeout=20)
    outcomes = []
    for ref in refs:
        with pytest.raises((GroupBrokenError, soma.ActorDiedError)) as caught:
            soma.get(ref, timeout=1)
        outcomes.append(type(caught.value).__name__)
    assert sorted(outcomes) == ["ActorDiedError", "GroupBrokenError"] and time.perf_counter() - died < 10
    soma.kill(store)
