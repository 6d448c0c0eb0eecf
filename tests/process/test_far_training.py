"""Ranks that reduce by calls of actors: the numbers of numpy and the bits of shared memory; and training over two machines on loopback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import Fleet, made
from hypothesis import given, settings
from hypothesis import strategies as st

import soma
from soma.actors.collective import AllReduce, Group
from soma.errors import GroupBrokenError, PlacementError
from soma.events import Event, GroupRestarted, StepCompleted
from soma.train.actorgroup import ActorGroup
from soma.train.sections import SectionReducer

torch = pytest.importorskip("torch")

from soma.train import DataParallel, Trained  # noqa: E402 - needs torch

SIZES = (1, 2, 3)
NODES = ("one", "two")


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes with two CPUs each, and this process their driver."""
    with made(tmp_path_factory.mktemp("well")) as fleet, soma.init(fleet.address):
        yield fleet


# -- the group -----------------------------------------------------------------------------------------------------------------


class Member:
    """A rank; the reducers' generations count up with each of its uses."""

    def calls(self, reducers: Any, generation: int, rank: int, array: Any, op: str, root: int) -> dict[str, Any]:
        with ActorGroup(reducers, rank, generation, piece=100) as group:
            return self._made(group, array, op, root)

    def near(self, address: str, rank: int, size: int, array: Any, op: str, root: int) -> dict[str, Any]:
        with Group.join(address, rank, size) as group:
            return self._made(group, array, op, root)

    @staticmethod
    def _made(group: Any, array: Any, op: str, root: int) -> dict[str, Any]:
        reduced, sent = array.copy(), array.copy()
        found: dict[str, Any] = {"finite": group.all_reduce(reduced, op, check=True), "all_reduce": reduced}
        found["reduce_scatter"] = group.reduce_scatter(array, op)
        group.broadcast(sent, root)
        group.barrier()
        return found | {"broadcast": sent, "all_gather": group.all_gather(array)}

    def odd(self, reducers: Any, generation: int, rank: int) -> None:
        with ActorGroup(reducers, rank, generation) as group:
            group.all_reduce(np.zeros(3 + rank))

    def leave(self, reducers: Any, generation: int, rank: int) -> None:
        with ActorGroup(reducers, rank, generation) as group:
            group.barrier()
            if rank == 0:
                raise LookupError("mine")
            group.barrier()

    def reduce_for_ever(self, reducers: Any, generation: int, rank: int) -> None:
        with ActorGroup(reducers, rank, generation) as group:
            soma.tell({"joined": rank})
            while True:
                group.all_reduce(np.ones(100_000))


class Party:
    """Ranks in turn on the two machines, each with its reducer beside it."""

    def __init__(self) -> None:
        self.members, self.reducers = ([soma.remote(kind).options(num_cpus=0, tags=(NODES[r % 2],)).remote() for r in range(max(SIZES))]
                                       for kind in (Member, SectionReducer))
        self.generation = -1

    def begin(self, size: int) -> tuple[Any, int]:
        self.generation += 1
        soma.get([reducer.begin.remote(r, size, self.generation) for r, reducer in enumerate(self.reducers[:size])])
        return self.reducers[:size], self.generation

    def each(self, method: str, size: int) -> list[Any]:
        group = self.begin(size)
        return [getattr(member, method).remote(*group, r) for r, member in enumerate(self.members[:size])]


@pytest.fixture(scope="module")
def party(well: Fleet) -> Party:
    return Party()


@settings(max_examples=25)
@given(size=st.sampled_from(SIZES), dtype=st.sampled_from(["float64", "float32", "float16", "int32", "uint8", "complex64"]),
       shape=st.sampled_from([(), (0,), (1,), (2, 3), (101,), (4, 1, 5)]), op=st.sampled_from(["sum", "mean", "max", "min"]),
       bad=st.booleans(), data=st.data())
def test_its_numbers_are_those_of_numpy(party: Party, size: int, dtype: str, shape: Any, op: str, bad: bool, data: Any) -> None:
    kind = np.dtype(dtype).kind
    if (kind in "iu" and op == "mean") or (kind == "c" and op in ("max", "min")):
        op = "sum"
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = [(chance.normal(size=shape) * 30 if kind != "u" else chance.integers(0, 80, size=shape)) for _ in range(size)]
    arrays = [np.array(a).astype(dtype) for a in arrays]
    bad = bad and kind == "f" and arrays[-1].size > 0
    if bad:
        arrays[-1].reshape(-1)[-1] = np.nan
    root = data.draw(st.integers(0, size - 1))
    reducers, generation = party.begin(size)
    got = soma.get([m.calls.remote(reducers, generation, r, a, op, root)
                    for r, (m, a) in enumerate(zip(party.members, arrays, strict=False))], timeout=20)
    wide = np.stack(arrays).astype("float32" if dtype == "float16" else dtype)
    expected = {"sum": wide.sum(0, dtype=wide.dtype), "mean": wide.mean(0), "max": wide.max(0), "min": wide.min(0)}[op]
    for r, its in enumerate(got):
        assert its["finite"] is not bad
        np.testing.assert_allclose(its["all_reduce"], expected.astype(dtype), rtol=2e-3 if dtype == "float16" else 1e-4, atol=1e-2)
        assert its["all_reduce"].tobytes() == got[0]["all_reduce"].tobytes() and its["all_reduce"].dtype == dtype
        np.testing.assert_array_equal(its["reduce_scatter"], np.array_split(its["all_reduce"].reshape(-1), size)[r])
        np.testing.assert_array_equal(its["broadcast"], arrays[root])
        np.testing.assert_array_equal(its["all_gather"], np.stack(arrays))


def test_its_bits_are_those_of_shared_memory(party: Party) -> None:
    size = 3
    arrays = [np.random.default_rng(r).normal(size=5000).astype("float32") for r in range(size)]
    arrays[1][7] = np.nan
    group = party.begin(size)
    far = soma.get([m.calls.remote(*group, r, arrays[r], "mean", 1) for r, m in enumerate(party.members)])
    here = soma.remote(AllReduce).options(num_cpus=0, tags=("one",)).remote()
    made = soma.remote(Member).options(num_cpus=0, tags=("one",))
    ranks, address = [made.remote() for _ in range(size)], soma.get(here.address.remote())
    near = soma.get([m.near.remote(address, r, size, arrays[r], "mean", 1) for r, m in enumerate(ranks)])
    for ours, theirs in zip(far, near, strict=True):
        assert ours.pop("finite") is theirs.pop("finite") is False
        assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_ranks_that_differ_are_told(party: Party) -> None:
    for ref in party.each("odd", 3):
        with pytest.raises(ValueError, match=r"rank . calls all_reduce\(float64\[.\], sum\) while rank . calls all_reduce\(float64\[.\]"):
            soma.get(ref, timeout=10)


def test_an_error_at_one_ends_the_calls_of_the_others(party: Party) -> None:
    refs = party.each("leave", 3)
    with pytest.raises(LookupError, match="mine"):
        soma.get(refs[0], timeout=10)
    for ref in refs[1:]:
        with pytest.raises(GroupBrokenError, match=r"rank 0 failed: LookupError: mine; barrier\(\) cannot finish"):
            soma.get(ref, timeout=10)


@pytest.mark.parametrize("end", ["dissolve", "another generation", "cancel"])
def test_nobody_waits_for_ever(party: Party, end: str) -> None:
    joined: list[Any] = []
    group = party.begin(3)
    refs = [m.reduce_for_ever.options(listener=joined.append).remote(*group, r) for r, m in enumerate(party.members[:2])]
    while len(joined) < 2:
        done, _ = soma.wait(refs, timeout=0.001)
        assert not done, soma.get(done[0])
    if end == "dissolve":
        for reducer in party.reducers:
            reducer.dissolve.remote(group[1], "for this")
    elif end == "cancel":
        soma.cancel(refs[0])
        with pytest.raises(soma.TaskCancelledError):
            soma.get(refs.pop(0), timeout=10)
    else:
        party.begin(2)
    said = {"dissolve": "for this", "cancel": "rank 0 failed", "another generation": "is over; this is"}[end]
    for ref in refs:
        with pytest.raises(GroupBrokenError, match=said):
            soma.get(ref, timeout=10)
    group = party.begin(1)
    assert soma.get(party.members[0].calls.remote(*group, 0, np.ones(2), "sum", 0), timeout=10)["finite"], "it lives on"


# -- training ------------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(61, 4))
Y = (X @ np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0], [-1.0, 0.0]]) > 0).astype("float64")
WHOLE = {"num_cpus": 2}
"""What a rank has to hold so that no machine holds two."""


class Slow(torch.nn.Module):  # type: ignore[misc,name-defined]
    """So that a training is not over before somebody has been killed."""

    def forward(self, x: Any) -> Any:
        time.sleep(0.02)  # workload: what a step takes
        return x


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def flat(module: Any) -> Any:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def alone(epochs: int = 3, batch: int = 16) -> Any:
    """The plain loop, in this process."""
    module = net()
    optimizer = sgd(module.parameters())
    for epoch in range(epochs):
        taken = np.random.default_rng([0, epoch]).permutation(len(X))
        for start in range(0, len(X), batch):
            which = taken[start:start + batch]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(torch.from_numpy(X[which])), torch.from_numpy(Y[which])).backward()
            optimizer.step()
    return flat(module)


def fitted(n: int = 2, *, model: Any = None, **how: Any) -> Trained:
    made = {k: how.pop(k) for k in ("backend", "max_restarts", "min_ranks", "num_cpus", "bucket_bytes") if k in how}
    return DataParallel(net() if model is None else model, n, optimizer=sgd, **made).fit(
        X, Y, **{"epochs": 3, "batch_size": 16, "record": False, **how})


class Watch:
    """Hears a training's events; after a step of a given number, notes where ranks are and kills a process of the given class."""

    def __init__(self, step: int, victim: str = "", which: int = 0) -> None:
        self.step, self.victim, self.which = step, victim, which
        self.events: list[Event] = []
        self.nodes: list[str] = []
        self.killed = 0
        self._others = set(self._pids())

    def _pids(self) -> list[int]:
        return [a["pid"] for a in soma.status()["actors"] if a["class_name"] == self.victim and a["pid"]]

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepCompleted) and event.step == self.step and not self.nodes:
            self.nodes = sorted(a["node_id"] for a in soma.status()["actors"] if a["class_name"] == "Rank")
            if self.victim:
                self.killed = sorted(set(self._pids()) - self._others)[self.which]
                os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize("how", [{"bucket_bytes": 100}, {"backend": "actors", "num_cpus": 0, "n": 3}, {"backend": "parameter_server"}],
                         ids=["auto", "actors", "parameter server"])
def test_ranks_on_two_machines_are_one_process(how: dict[str, Any], well: Fleet) -> None:
    watch = Watch(0)
    trained = fitted(**{**WHOLE, "listeners": [watch], "model": torch.nn.Sequential(*net(), Slow()), **how})
    torch.testing.assert_close(flat(trained.model), alone(), atol=1e-6, rtol=1e-6)
    assert trained.steps == 12 and trained.generations == 1
    assert how.get("num_cpus") == 0 or watch.nodes == ["one", "two"]


@pytest.mark.crash
@pytest.mark.parametrize("victim, which, every", [("Rank", 0, None), ("Rank", 1, 2), ("SectionReducer", 1, None)])
def test_whoever_is_killed_changes_nothing_in_the_end(victim: str, which: int, every: int | None, well: Fleet, tmp_path: Path) -> None:
    watch = Watch(6, victim, which)
    trained = fitted(model=torch.nn.Sequential(*net(), Slow()), checkpoint=tmp_path / "new" / "c", checkpoint_every=every,
                     listeners=[watch], **WHOLE)
    assert watch.killed and watch.nodes == ["one", "two"] and trained.generations == 2
    torch.testing.assert_close(flat(trained.model), alone(), atol=1e-6, rtol=1e-6)
    (restarted,) = [e for e in watch.events if isinstance(e, GroupRestarted)]
    assert restarted.ranks == 2 and len(restarted.lost) == (victim == "Rank")
    assert restarted.step and restarted.step % 4 in (0, every or 0), "at a checkpoint"
    again = fitted(epochs=4, checkpoint=tmp_path / "new" / "c", resume=True, **WHOLE)
    torch.testing.assert_close(flat(again.model), alone(4), atol=1e-6, rtol=1e-6)
    assert again.steps == 16


def test_one_machine_that_holds_all_ranks_is_preferred(well: Fleet) -> None:
    watch = Watch(0)
    trained = fitted(num_cpus=1, model=torch.nn.Sequential(*net(), Slow()), listeners=[watch])
    assert watch.nodes in (["one", "one"], ["two", "two"])
    torch.testing.assert_close(flat(trained.model), alone(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_what_needs_one_machine_says_so(backend: str, well: Fleet) -> None:
    with pytest.raises(PlacementError, match=rf"backend='{backend}' .*none of the 2 machines can hold 2 ranks, each with num_cpus=2"):
        fitted(backend=backend, **WHOLE)
