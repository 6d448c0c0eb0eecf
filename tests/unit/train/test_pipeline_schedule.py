"""Schedules and partitions: pure, for all sizes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.train.pipelining.partition import chain, partitioned
from soma.train.pipelining.schedule import SCHEDULES, gpipe, in_flight, one_forward_one_back, scheduled, shares, timeline

sizes = st.integers(1, 8)


@given(st.sampled_from(sorted(SCHEDULES)), sizes, st.integers(1, 20))
def test_every_turn_once_and_after_those_it_waits_for(name: str, stages: int, micros: int) -> None:
    turns = scheduled(name, stages, micros)
    assert sorted((t.stage, t.kind, t.micro) for t in turns) == sorted(itertools.product(range(stages), "BF", range(micros)))
    when = {(t.stage, t.kind, t.micro): t.tick for t in turns}
    for (s, kind, m), tick in when.items():
        if kind == "F":
            assert s == 0 or when[s - 1, "F", m] < tick
        else:
            assert when[s, "F", m] < tick and (s == stages - 1 or when[s + 1, "B", m] < tick)
    assert len({(t.tick, t.stage) for t in turns}) == len(turns), "a stage does one thing at a time"
    for s in range(stages):
        assert tuple((t.kind, t.micro) for t in turns if t.stage == s) == SCHEDULES[name](s, stages, micros)


@given(sizes, st.integers(1, 20))
def test_what_is_in_flight_is_bounded(stages: int, micros: int) -> None:
    for s in range(stages):
        assert in_flight(one_forward_one_back(s, stages, micros)) == min(stages - s, micros)
        assert in_flight(gpipe(s, stages, micros)) == micros


@given(st.sampled_from(sorted(SCHEDULES)), sizes, st.integers(1, 20))
def test_no_schedule_is_longer_than_its_bubble(name: str, stages: int, micros: int) -> None:
    assert 1 + max(t.tick for t in scheduled(name, stages, micros)) == 2 * (micros + stages - 1)


def test_orders_that_wait_for_each_other_are_found() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        timeline([(("F", 0), ("B", 0)), (("B", 0), ("F", 0))])


@given(st.integers(1, 200), st.integers(1, 40))
def test_shares_are_all_rows_in_order_and_nearly_equal(rows: int, micros: int) -> None:
    cut = shares(rows, micros)
    assert [i for s in cut for i in range(s.start, s.stop)] == list(range(rows))
    lengths = [s.stop - s.start for s in cut]
    assert len(cut) == min(rows, micros) and max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


# -- partitions ----------------------------------------------------------------------------------------------------------------

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def test_a_diamond_over_three_stages() -> None:
    first, second, third = partitioned(DIAMOND, [["a"], ["b"], ["c", "d"]])
    assert (first.reads, first.gives, first.takers, first.leaves) == (True, ("a",), (2,), ())
    assert (second.takes, second.gives, second.takers) == (("a",), ("b",), (1,))
    assert (third.takes, third.gives, third.leaves, third.reads) == (("a", "b"), (), ("d",), False)
    assert str(third) == "stage 2 (c, d)"


@pytest.mark.parametrize(("parts", "complaint"), [
    ([], "no stages"),
    ([["a", "b", "c", "d"], []], r"partitions\[1\] is empty"),
    ([["a", "b"], ["c", "e"]], r"partitions\[1\]: there is no node 'e'"),
    ([["a", "b"], ["d"]], "no stage claims 'c'"),
    ([["a", "b", "c"], ["c", "d"]], "'c' is claimed twice, by stages 0 and 1"),
    ([["a", "d"], ["b", "c"]], r"interleaved: 'd' \(stage 0\) takes the output of 'b' \(stage 1\); 'd' .* of 'c' \(stage 1\)"),
    ([["b", "c", "d"], ["a"]], r"interleaved: 'b' \(stage 0\) takes the output of 'a' \(stage 1\)"),
])
def test_partitions_that_do_not_tile_the_graph(parts: list[list[str]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        partitioned(DIAMOND, parts)


def test_a_partition_is_a_list_of_ids() -> None:
    with pytest.raises(TypeError, match=r"partitions\[0\]='abcd'"):
        partitioned(DIAMOND, ["abcd"])


@st.composite
def dags(draw: st.DrawFn) -> tuple[dict[str, tuple[str, ...]], list[list[str]]]:
    """A graph whose nodes stand in an order that respects inputs, and partitions that tile it."""
    count = draw(st.integers(1, 8))
    nodes = {f"n{i}": tuple(f"n{j}" for j in sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else () for i in range(count)}
    cuts = sorted(draw(st.sets(st.integers(1, count - 1))) if count > 1 else [])
    ids = list(nodes)
    return nodes, [ids[a:b] for a, b in zip([0, *cuts], [*cuts, count], strict=True)]


@given(dags())
def test_stages_take_what_earlier_ones_give(graph: tuple[dict[str, tuple[str, ...]], list[list[str]]]) -> None:
    nodes, parts = graph
    plans = partitioned(nodes, parts)
    assert [[id for id, _ in p.nodes] for p in plans] == parts
    given_so_far: dict[str, int] = {}
    for p in plans:
        for id in p.takes:
            given_so_far[id] -= 1
        given_so_far.update(zip(p.gives, p.takers, strict=True))
        assert p.reads == any(not inputs for _, inputs in p.nodes)
    assert all(left == 0 for left in given_so_far.values()), "every output is taken as often as it says"
    taken = {i for inputs in nodes.values() for i in inputs}
    assert {id for p in plans for id in p.leaves} == set(nodes) - taken


def test_a_chain() -> None:
    assert chain(3) == {"0": (), "1": ("0",), "2": ("1",)}
