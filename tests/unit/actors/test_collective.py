"""Collective calls: how arrays are cut and combined, and whole groups of ranks (threads here, each with sockets and memory of its own)
against numpy and torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.actors.collective import AllReduce, Group, group, reducing
from soma.actors.collective.layout import Layout
from soma.actors.collective.reducing import BFLOAT16
from soma.errors import GroupBrokenError
from soma.transport.mesh import Line, PeerGone

OPS: dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


# -- cutting -------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.integers(1, 9), st.integers(1, 700))
def test_pieces_cover_every_element_once_and_fit_their_slots(count: int, ranks: int, slot: int) -> None:
    slot = max(slot, ranks)
    cut = Layout.of(count, ranks, slot)
    seen = np.zeros(count, int)
    for turn in range(cut.turns):
        filled = np.zeros(slot, int)
        for rank in range(ranks):
            at, place = cut.at(rank, turn), cut.in_slot(rank, turn)
            seen[at] += 1
            filled[place] += 1
            assert at.stop - at.start == place.stop - place.start and place.stop <= slot
            assert cut.section(rank).start <= at.start <= at.stop <= cut.section(rank).stop
        assert filled.max() <= 1
    assert (seen == 1).all()
    assert [len(a) for a in np.array_split(np.empty(count), ranks)] == [s.stop - s.start for s in map(cut.section, range(ranks))]


# -- combining -----------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["float32", "float64", "float16", "int8", "int64", "uint16", "complex128"]), st.sampled_from(sorted(OPS)),
       st.integers(1, 5), st.integers(0, 40), st.integers(0, 2**32))
def test_combining_is_what_numpy_does(dtype: str, op: str, parts: int, count: int, seed: int) -> None:
    kind = np.dtype(dtype).kind
    if (op == "mean" and kind in "iu") or (kind == "c" and op in ("max", "min")):
        with pytest.raises(ValueError, match=dtype):
            reducing.check(op, dtype)
        return
    reducing.check(op, dtype)
    random = np.random.default_rng(seed)
    arrays = [(random.normal(size=count) * 10).astype(dtype) for _ in range(parts)]
    wide = np.array(arrays).astype("float32" if dtype == "float16" else dtype)
    expected = OPS[op](wide, axis=0, **({"dtype": wide.dtype} if op in ("sum", "mean") else {})).astype(dtype)
    out = arrays[0].copy()
    reducing.reduce(out, arrays[1:], op, dtype)
    if kind in "iu" or op in ("max", "min"):
        assert (out == expected).all()
    else:
        np.testing.assert_allclose(out, expected, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3 if dtype == "float16" else 1e-6)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    torch = pytest.importorskip("torch")
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 100
    values[:4] = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0])
    a, b = values.bfloat16(), (values.flip(0) / 7).bfloat16()
    out = a.view(torch.int16).numpy().view(np.uint16).copy()
    reducing.reduce(out, [b.view(torch.int16).numpy().view(np.uint16)], "sum", BFLOAT16)
    got = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    expected = (a.float() + b.float()).bfloat16()
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("values, finite",
                         [([1.0, 2.0], True), ([1.0, np.nan], False), ([-np.inf], False), ([3e38, 3e38], True), ([], True)])
def test_finite(values: list[float], finite: bool) -> None:
    assert reducing.is_finite(np.array(values, "float32"), "float32") is finite


@pytest.mark.parametrize("op, dtype, said", [("product", "float32", "one of sum, mean"), ("sum", "bool", "bool has no meaning"),
                                             ("mean", "int32", "no whole number")])
def test_what_has_no_meaning(op: str, dtype: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reducing.check(op, np.dtype(dtype).name)


# -- groups --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def meeting(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[AllReduce]:
    import tempfile

    monkeypatch.setattr(group, "SLOT", 4096)  # so that a few thousand elements are several turns
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # short: the path of a socket has 108 bytes at most
        made = AllReduce(Path(directory))
        yield made
        made.close()


class Generations:
    """Counts up: each group is a generation of its own."""

    def __init__(self) -> None:
        self.now = 0

    def run(self, meeting: AllReduce, size: int, what: Callable[[Group], Any]) -> list[Any]:
        """`what` at every rank, each in a thread; what they gave."""
        self.now += 1
        generation = self.now

        def rank(number: int) -> Any:
            with Group.join(meeting.address(), number, size, generation) as joined:
                return what(joined)

        with ThreadPoolExecutor(size) as pool:
            return [f.result(20) for f in [pool.submit(rank, n) for n in range(size)]]


def test_groups_against_numpy(meeting: AllReduce) -> None:
    generations = Generations()

    @settings(max_examples=80)
    @given(st.integers(1, 4), st.integers(0, 5000), st.sampled_from(["float32", "float64", "int64", "float16"]), st.integers(0, 2**32),
           st.data())
    def check(size: int, count: int, dtype: str, seed: int, data: st.DataObject) -> None:
        random = np.random.default_rng(seed)
        arrays = [(random.normal(size=count) * 10).astype(dtype) for _ in range(size)]
        op = data.draw(st.sampled_from(["sum", "max", "min"] + (["mean"] if dtype != "int64" else [])))
        root = data.draw(st.integers(0, size - 1))

        def calls(ranks: Group) -> list[Any]:
            mine = arrays[ranks.rank]
            kept, reduced, sent = mine.copy(), mine.copy(), mine.copy()
            assert ranks.all_reduce(reduced, op, check=True) is True
            scattered = ranks.reduce_scatter(mine, op)
            assert (mine == kept).all(), "reduce_scatter changes nothing"
            ranks.barrier()
            ranks.broadcast(sent, root)
            return [reduced, scattered, sent, ranks.all_gather(mine)]

        got = generations.run(meeting, size, calls)
        wide = np.array(arrays).astype("float32" if dtype == "float16" else dtype)
        expected = OPS[op](wide, axis=0, **({"dtype": wide.dtype} if op in ("sum", "mean") else {}))
        tolerance = {"float16": 1e-2, "float32": 1e-4}.get(dtype, 1e-9)
        for reduced, _, sent, gathered in got:
            assert reduced.tobytes() == got[0][0].tobytes(), "every rank has the same bits"
            np.testing.assert_allclose(reduced.astype("float64"), expected.astype("float64"), rtol=tolerance, atol=tolerance)
            assert sent.tobytes() == arrays[root].tobytes()
            assert gathered.tobytes() == np.array(arrays).tobytes() and gathered.shape == (size, count)
        assert np.concatenate([g[1] for g in got]).tobytes() == got[0][0].tobytes()

    check()


def test_tensors_are_reduced_in_place(meeting: AllReduce) -> None:
    torch = pytest.importorskip("torch")

    def calls(ranks: Group) -> Any:
        tensor = torch.full((30, 100), ranks.rank + 1.0, dtype=torch.bfloat16)
        ranks.all_reduce(tensor, "mean")
        with pytest.raises(ValueError, match="contiguous"):
            ranks.all_reduce(torch.zeros(4, 6).t())
        return tensor

    for tensor in Generations().run(meeting, 3, calls):
        assert tensor.dtype == torch.bfloat16 and (tensor == 2).all()


def test_what_is_not_finite_is_seen_by_all(meeting: AllReduce) -> None:
    def calls(ranks: Group) -> list[bool]:
        array = np.ones(3000)
        if ranks.rank == 1:
            array[2999] = np.nan
        return [ranks.all_reduce(array.copy(), check=True), ranks.all_reduce(array.copy()), ranks.all_reduce(np.ones(9), check=True)]

    assert Generations().run(meeting, 3, calls) == [[False, True, True]] * 3


@pytest.mark.parametrize("array, said", [([1.0], "C-contiguous, writable"), (np.zeros((4, 4)).T[1:], "C-contiguous"),
                                         (np.broadcast_to(0.0, 3), "writable"), (np.array(["a"]), "holds no numbers")])
def test_what_cannot_be_reduced(array: Any, said: str) -> None:
    with Group.join("", 0, 1) as alone, pytest.raises(ValueError, match=said):
        alone.all_reduce(array)


@pytest.mark.parametrize("rank, size", [(-1, 2), (2, 2), (0, 0)])
def test_ranks_that_cannot_be(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of {size}"):
        Group.join("", rank, size)


# -- groups that break ---------------------------------------------------------------------------------------------------------


def outcomes(meeting: AllReduce, size: int, what: Callable[[Group], Any], generation: int = 1) -> list[BaseException | Any]:
    def guarded(number: int) -> Any:
        try:
            with Group.join(meeting.address(), number, size, generation) as joined:
                return what(joined)
        except Exception as e:
            return e

    with ThreadPoolExecutor(size) as pool:
        return [f.result(20) for f in [pool.submit(guarded, n) for n in range(size)]]


def test_different_calls_are_an_error_at_every_rank(meeting: AllReduce) -> None:
    got = outcomes(meeting, 3, lambda g: g.all_reduce(np.zeros(10 + (g.rank == 2))))
    assert all(isinstance(e, (ValueError, GroupBrokenError)) for e in got)
    assert any(isinstance(e, ValueError) and "all ranks must make the same calls" in str(e) and "float64[1" in str(e) for e in got)


def test_an_error_at_one_rank_ends_the_call_of_the_others(meeting: AllReduce) -> None:
    def calls(ranks: Group) -> None:
        if ranks.rank == 1:
            raise KeyError("mine")
        ranks.all_reduce(np.zeros(10))

    first, own, last = outcomes(meeting, 3, calls)
    assert isinstance(own, KeyError)
    for e in (first, last):
        assert isinstance(e, GroupBrokenError) and "rank 1 failed: KeyError: 'mine'" in str(e)


def test_who_left_in_order_breaks_nothing_but_later_calls(meeting: AllReduce) -> None:
    left = threading.Event()

    def calls(ranks: Group) -> Any:
        ranks.barrier()
        if ranks.rank == 0:
            ranks.close()
            ranks.close()
            left.set()
            with pytest.raises(GroupBrokenError, match="has left"):
                ranks.barrier()
            return "left"
        left.wait(5)
        ranks.barrier()

    assert outcomes(meeting, 2, calls)[0] == "left"
    assert isinstance(outcomes(meeting, 2, calls, generation=2)[1], GroupBrokenError)


def test_a_generation_that_is_dissolved_ends_for_those_who_wait_to_meet(meeting: AllReduce) -> None:
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(Group.join, meeting.address(), 0, 2, 5)
        while not meeting._roster._now.members:
            threading.Event().wait(0.001)
        meeting.dissolve(5, "rank 1 could not be made")
        with pytest.raises(GroupBrokenError, match="rank 1 could not be made"):
            early.result(5)
    with pytest.raises(GroupBrokenError, match="generation 5 ended: rank 1 could not be made"):
        Group.join(meeting.address(), 1, 2, 5)
    with pytest.raises(GroupBrokenError, match="generation 4 is over; this is 5"):
        Group.join(meeting.address(), 1, 2, 4)
    assert Generations().run.__name__ and outcomes(meeting, 2, lambda g: g.all_gather(np.array([g.rank])).tolist(), 6) == [[[0], [1]]] * 2


def test_a_later_generation_ends_an_earlier_one(meeting: AllReduce) -> None:
    together = threading.Barrier(3)

    def old(ranks: Group) -> None:
        together.wait(5)
        if ranks.rank == 0:
            ranks.all_reduce(np.zeros(3))  # rank 1 does not come
        else:
            threading.Event().wait(0.2)  # workload: computes meanwhile

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcomes, meeting, 2, old, 1)
        together.wait(5)
        second = outcomes(meeting, 2, lambda g: g.rank, 2)
        assert second == [0, 1]
        waiting, _ = first.result(5)
        assert isinstance(waiting, GroupBrokenError) and "generation 2 began" in str(waiting)


def test_ranks_that_contradict_each_other(meeting: AllReduce) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Group.join, meeting.address(), 0, 2, 1)
        while not meeting._roster._now.members:
            threading.Event().wait(0.001)
        with pytest.raises(GroupBrokenError, match="rank 0 joined twice"):
            Group.join(meeting.address(), 0, 2, 1)
        with pytest.raises(GroupBrokenError, match="says that the group has 3 ranks, and others say 2"):
            Group.join(meeting.address(), 1, 3, 1)
        with Group.join(meeting.address(), 1, 2, 1), first.result(5):
            pass


def test_a_meeting_point_is_closed_while_it_is_awake_and_again() -> None:
    """Its thread may be gone with its socket before `close` comes to wake it."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        for _ in range(200):
            made = AllReduce(Path(directory))
            lines = [Line.connect(made.address()) for _ in range(3)]
            for line in lines:
                line.close()
            made.close()
            made.close()


def test_a_meeting_point_outlives_garbage(meeting: AllReduce) -> None:
    for garbage in ({"hello": 3}, {"hello": {"rank": 0}}, {"hello": {"generation": "x", "rank": 0, "size": 2}}, {"nothing": 1}):
        line = Line.connect(meeting.address())
        line.send(garbage)
        with pytest.raises(PeerGone):
            line.recv()
        line.close()
    raw = Line.connect(meeting.address())
    raw.detach().sendall(b"\xff\xff\xff\xff")  # a message of 4 GiB
    with pytest.raises(PeerGone):
        raw.recv()
    raw.close()
    assert Generations().run(meeting, 2, lambda g: g.rank) == [0, 1]
