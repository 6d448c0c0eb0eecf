"""Placement groups: all bundles or none, as strict as was asked, found whenever brute force finds a way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.actors.admission import ClusterQueue, GroupState, InGroup, Pools, Where, why_group_never
from soma.actors.placement_groups import GroupSpec, row

Request = dict[str, float]
STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]

node_totals = st.fixed_dictionaries({"CPU": st.sampled_from([1, 2, 3, 4])}, optional={"GPU": st.sampled_from([1, 2]), "tape": st.just(1)})
bundle = st.fixed_dictionaries({}, optional={"CPU": st.sampled_from([0.5, 1, 2, 3]), "GPU": st.sampled_from([0.3, 0.5, 0.7, 1, 2]),
                                             "tape": st.just(1)}).filter(bool)


def cluster(*totals: Request) -> Pools:
    pools = Pools()
    for i, total in enumerate(totals):
        pools.add_node(f"n{i}", total)
    return pools


def inside(group: str, index: int = -1) -> Where:
    return Where(strategy=InGroup(group, index))


def fit_on_one(bundles: list[Request], free: Request, gpus: list[float]) -> bool:
    """Whether all of them fit on one node, by trying every way to give them GPUs."""
    if any(sum(b.get(k, 0) for b in bundles) > free.get(k, 0) + 1e-9 for b in bundles for k in b if k != "GPU"):
        return False
    shares = [b["GPU"] for b in bundles if 0 < b.get("GPU", 0) < 1]
    whole = sum(int(b["GPU"]) for b in bundles if b.get("GPU", 0) >= 1)
    for choice in itertools.product(range(len(gpus)), repeat=len(shares)):
        left = list(gpus)
        for i, n in zip(choice, shares, strict=True):
            left[i] -= n
        if all(n > -1e-9 for n in left) and sum(n > 1 - 1e-9 for n in left) >= whole:
            return True
    return False


def possible(bundles: list[Request], strategy: str, rooms: list[tuple[Request, list[float]]]) -> bool:
    """By trying every assignment of bundles to nodes."""
    for choice in itertools.product(range(len(rooms)), repeat=len(bundles)):
        if strategy == "STRICT_PACK" and len(set(choice)) > 1 or strategy == "STRICT_SPREAD" and len(set(choice)) < len(choice):
            continue
        if all(fit_on_one([b for b, c in zip(bundles, choice, strict=True) if c == i], *rooms[i]) for i in set(choice)):
            return True
    return False


@settings(max_examples=250, deadline=None)
@given(st.lists(node_totals, min_size=1, max_size=4), st.lists(bundle, min_size=1, max_size=4), st.sampled_from(STRATEGIES),
       st.lists(bundle, max_size=4))
def test_a_way_is_found_when_there_is_one(totals: list[Request], bundles: list[Request], strategy: str,
                                          before: list[Request]) -> None:
    pools = cluster(*totals)
    for k, request in enumerate(before):
        pools.try_acquire(f"t{k}", request)
    rooms = []
    for i, total in enumerate(totals):
        used: dict[int, float] = {}
        for shares in pools.gpu_shares(f"n{i}").values():
            for g, n in shares.items():
                used[g] = used.get(g, 0) + n
        rooms.append((pools.available(f"n{i}"), [1 - used.get(g, 0) for g in range(int(total.get("GPU", 0)))]))
    holders = pools.holders()
    group = pools.create_group("g", bundles, strategy)
    placed = pools.reserve("g")
    assert (placed is not None) == possible(bundles, strategy, rooms)
    if placed is None:
        assert pools.holders() == holders and group.state is GroupState.PENDING
    else:
        assert sorted(placed) == list(range(len(bundles))) and group.state is GroupState.CREATED
        assert strategy != "STRICT_PACK" or len(set(placed.values())) == 1
        assert strategy != "STRICT_SPREAD" or len(set(placed.values())) == len(bundles)
        for j, request in enumerate(bundles):  # what was reserved is there, whole GPUs too
            assert pools.try_acquire(f"in{j}", request, inside("g", j)) == placed[j]
    empty = [(total, [1.0] * int(total.get("GPU", 0))) for total in totals]
    assert pools.bundles.feasible(group) == possible(bundles, strategy, empty) == (why_group_never(pools, group) == "")


@pytest.mark.parametrize(("totals", "bundles"), [
    ([{"GPU": 2}], [{"GPU": n} for n in (0.5, 0.25, 0.25, 0.34, 0.33, 0.33)]),
    ([{"CPU": 12}, {"CPU": 12}], [{"CPU": n} for n in (6, 3, 3, 4, 4, 4)]),
])
def test_a_way_is_found_that_the_best_fit_misses(totals: list[Request], bundles: list[Request]) -> None:
    pools = cluster(*totals)
    pools.create_group("g", bundles, "PACK")
    assert pools.reserve("g") is not None and sum(pools.available().values()) == 0


def test_one_bundle_moves_over_so_that_each_has_a_node_of_its_own() -> None:
    pools = cluster({"tape": 1, "gas": 1}, {"tape": 1}, {"gas": 1})
    pools.create_group("g", [{"gas": 1}, {"tape": 1}, {"tape": 1}], "STRICT_SPREAD")
    placed = pools.reserve("g")
    assert placed is not None and placed[0] == "n2" and {placed[1], placed[2]} == {"n0", "n1"}


def test_pack_takes_few_nodes_and_spread_takes_many() -> None:
    totals = [{"CPU": 4}, {"CPU": 4}, {"CPU": 4}]
    for strategy, nodes in (("PACK", 1), ("STRICT_PACK", 1), ("SPREAD", 3), ("STRICT_SPREAD", 3)):
        pools = cluster(*totals)
        pools.create_group("g", [{"CPU": 1}] * 3, strategy)
        placed = pools.reserve("g")
        assert placed is not None and len(set(placed.values())) == nodes
    pools = cluster(*totals)
    pools.create_group("g", [{"CPU": 2}] * 5, "PACK")
    placed = pools.reserve("g")
    assert placed is not None and sorted(list(placed.values()).count(n) for n in set(placed.values())) == [1, 2, 2]
    pools.create_group("h", [{"CPU": 2}] * 2, "SPREAD")
    assert pools.reserve("h") is None  # 2 CPU are left


def test_who_is_inside_takes_from_the_bundle_and_the_rest_is_not_there_for_others() -> None:
    pools = cluster({"CPU": 4, "GPU": 4})
    pools.try_acquire("first", {"GPU": 1})
    pools.create_group("g", [{"CPU": 1, "GPU": 2}, {"CPU": 2, "GPU": 0.5}])
    assert pools.reserve("g") == {0: "n0", 1: "n0"}
    assert pools.available() == {"CPU": 1, "GPU": 0.5}
    assert pools.try_acquire("a", {"CPU": 1, "GPU": 1}, inside("g", 0)) == "n0"
    assert pools.try_acquire("b", {"GPU": 0.5}, inside("g")) == "n0"
    assert pools.try_acquire("c", {"CPU": 2}, inside("g", 0)) is None and pools.try_acquire("c", {"CPU": 2}, inside("g")) == "n0"
    assert pools.holders() == {"first": {"GPU": 1}, "g/0": {"GPU": 1}, "g/1": {}, "a": {"CPU": 1, "GPU": 1}, "b": {"GPU": 0.5},
                               "c": {"CPU": 2}}
    assert [pools.gpus_of(h) for h in ("first", "a", "b")] == [(0,), (1,), (3,)]
    assert pools.gpu_shares("n0") == {"first": {0: 1}, "a": {1: 1}, "g/0": {2: 1}, "b": {3: 0.5}}
    assert pools.suspend("c") and pools.try_acquire("d", {"CPU": 2}, inside("g", 1)) == "n0" and pools.try_acquire("x", {"CPU": 2}) is None
    assert sorted(pools.remove_group("g").holders) == ["a", "b", "c", "d"]
    assert pools.available() == {"CPU": 4, "GPU": 3} and pools.holders() == {"first": {"GPU": 1}}


def test_a_group_waits_in_line_and_small_ones_behind_do_not_starve_it() -> None:
    pools, queue = cluster({"CPU": 2}, {"CPU": 2}), ClusterQueue()
    assert [pools.try_acquire(h, {"CPU": 1}) for h in "abc"] == ["n0", "n1", "n0"]
    pools.create_group("g", [{"CPU": 2}, {"CPU": 2}], "STRICT_SPREAD")
    queue.add_group("g")
    queue.add("in", {"CPU": 1}, inside("g"))
    queue.add("small", {"CPU": 1})
    with pytest.raises(ValueError, match="g waits already"):
        queue.add_group("g")
    for h in "abc":
        assert queue.admit(pools) == []
        pools.release(h)
    assert queue.admit(pools) == [("g", ""), ("in", "n0")]
    pools.remove_group("g")
    assert queue.admit(pools) == [("small", "n0")]


def test_a_group_that_actors_keep_out_is_passed() -> None:
    pools, queue = cluster({"CPU": 2}), ClusterQueue()
    pools.try_acquire("actor", {"CPU": 1}, lasting=True)
    pools.create_group("g", [{"CPU": 2}])
    queue.add_group("g")
    queue.add("small", {"CPU": 1})
    assert queue.admit(pools) == [("small", "n0")]
    assert queue.waiting_for("g") == [] and queue.remove("g") and len(queue) == 0
    pools.release("small")
    pools.create_group("h", [{"CPU": 1}, {"CPU": 1}])  # either could be had, but not both
    queue.add_group("h")
    queue.add("small", {"CPU": 1})
    assert queue.admit(pools) == [("small", "n0")]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_without_gpus_goes_where_none_are_if_it_can(strategy: str) -> None:
    pools = cluster({"CPU": 4, "GPU": 1}, {"CPU": 4}, {"CPU": 4, "GPU": 1}, {"CPU": 4})
    for group in "gh":
        pools.create_group(group, [{"CPU": 2}, {"CPU": 2}], strategy)
        placed = pools.reserve(group)
        assert placed is not None and set(placed.values()) <= {"n1", "n3"}
    pools.create_group("i", [{"CPU": 2}, {"CPU": 2}], strategy)
    placed = pools.reserve("i")
    assert placed is not None and set(placed.values()) <= {"n0", "n2"}


def test_a_group_does_not_pass_who_waits_in_front() -> None:
    pools, queue = cluster({"CPU": 2}), ClusterQueue()
    pools.try_acquire("task", {"CPU": 1})
    pools.create_group("g", [{"CPU": 1}])
    queue.add("big", {"CPU": 2})
    queue.add_group("g")
    assert queue.admit(pools) == []
    pools.release("task")
    assert queue.admit(pools) == [("big", "n0")]
    pools.release("big")
    assert queue.admit(pools) == [("g", "")]


def test_what_a_group_reserves_does_not_come_free_by_itself() -> None:
    pools, queue = cluster({"CPU": 2}, {"CPU": 1}), ClusterQueue()
    for holder, node in (("a", "n0"), ("b", "n1"), ("c", "n0")):
        assert pools.try_acquire(holder, {"CPU": 1}) == node
    queue.add("big", {"CPU": 2})
    queue.add("small", {"CPU": 1})
    assert queue.admit(pools) == []  # n0 is kept for the big one, n1 is taken
    pools.release("a")
    pools.create_group("g", [{"CPU": 1}])
    assert pools.reserve("g") == {0: "n0"}
    pools.release("c")
    assert queue.admit(pools) == [("small", "n0")]
    assert pools.remove_group("g").holders == ()


def test_a_reserved_node_counts_as_used() -> None:
    pools = cluster({"CPU": 2}, {"CPU": 2})
    pools.create_group("g", [{"CPU": 1}])
    assert pools.reserve("g") == {0: "n0"} and pools.try_acquire("a", {"CPU": 1}) == "n1"


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_SPREAD"])
def test_what_a_lost_node_had_is_placed_again_and_the_rest_stays(strategy: str) -> None:
    pools, queue = cluster({"CPU": 2}, {"CPU": 2}), ClusterQueue()
    group = pools.create_group("g", [{"CPU": 2}, {"CPU": 2}], strategy)
    placed = pools.reserve("g")
    assert placed is not None
    for j in range(2):
        assert pools.try_acquire(f"h{j}", {"CPU": 1}, inside("g", j), lasting=True) == placed[j]
    gone = pools.remove_node(placed[1])
    assert gone.holders == ("h1",) and gone.groups == ("g",) and group.state is GroupState.RESCHEDULING
    queue.add_group("g")
    queue.add("h1", {"CPU": 1}, inside("g", 1))
    assert queue.admit(pools) == []
    pools.add_node("new", {"CPU": 4})
    assert queue.admit(pools) == [("g", ""), ("h1", "new")]
    assert group.state is GroupState.CREATED and group.nodes == {0: placed[0], 1: "new"} and pools.node_of("h0") == placed[0]


def test_nothing_new_enters_a_bundle_on_a_draining_node() -> None:
    pools = cluster({"CPU": 2})
    pools.create_group("g", [{"CPU": 2}])
    assert pools.reserve("g") == {0: "n0"} and pools.try_acquire("a", {"CPU": 1}, inside("g")) == "n0"
    pools.drain("n0")
    assert pools.try_acquire("b", {"CPU": 1}, inside("g")) is None and pools.node_of("a") == "n0"


@pytest.mark.parametrize(("bundles", "strategy", "text"), [
    ([{"CPU": 1}, {"CPU": 9}], "PACK", "bundle 1 asked for 9 CPU; the largest of 2 nodes has 4"),
    ([{"CPU": 1}] * 3, "STRICT_SPREAD", "asked for 3 nodes, one for each bundle (STRICT_SPREAD); the cluster has 2"),
    ([{"CPU": 3}] * 2, "STRICT_PACK", "asked for 2 bundles (STRICT_PACK) with 6 CPU in all; no choice of 2 nodes holds them"),
    ([{"CPU": 3}] * 2, "PACK", ""),
])
def test_what_no_nodes_could_hold_in_words(bundles: list[Request], strategy: str, text: str) -> None:
    pools = cluster({"CPU": 4}, {"CPU": 4})
    group = pools.create_group("g", bundles, strategy)
    assert why_group_never(pools, group) == text


def test_a_hundred_bundles_on_many_nodes() -> None:
    pools = cluster(*[{"CPU": 4}] * 60)
    pools.create_group("g", [{"CPU": 2}] * 100, "SPREAD")
    placed = pools.reserve("g")
    assert placed is not None and max(list(placed.values()).count(n) for n in set(placed.values())) == 2
    pools.create_group("h", [{"CPU": 2}] * 21, "PACK")  # 2 CPU are left on each of 20 nodes
    assert pools.reserve("h") is None
    pools.create_group("i", [{"CPU": 2}] * 20, "STRICT_SPREAD")
    assert pools.reserve("i") is not None and pools.available() == {"CPU": 0}


@pytest.mark.parametrize(("bundles", "strategy", "text"), [
    ([], "PACK", "bundles: 0 of them; from 1 to 500"), ([{"CPU": 1}] * 501, "PACK", "bundles: 501 of them"),
    ([{"CPU": 1}, {}], "PACK", r"bundles\[1\]={}: asks for nothing"), ([{"CPU": -1}], "PACK", r"bundles\[0\]: CPU=-1"),
    ([{"GPU": 1.5}], "PACK", r"bundles\[0\]: GPU=1\.5"), (["CPU"], "PACK", r"bundles\[0\]='CPU': a mapping"),
    ([{"CPU": 1}], "pack", "strategy='pack': one of 'PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD'"),
])
def test_what_is_no_group_is_named(bundles: Any, strategy: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        GroupSpec("g", tuple(bundles), strategy)
    with pytest.raises(ValueError, match=text):
        cluster({"CPU": 1}).create_group("g", bundles, strategy)


def test_a_row_is_plain() -> None:
    pools = cluster({"CPU": 4})
    group = pools.create_group("g", [{"CPU": 1.5}, {"CPU": 1, "tape": 0}])
    expected = {"placement_group_id": "g", "name": "mine", "strategy": "PACK", "bundles": {"0": {"CPU": 1.5}, "1": {"CPU": 1.0}}}
    assert row(group, "mine") == {**expected, "state": "PENDING", "bundles_to_node_id": {}}
    pools.reserve("g")
    assert row(group, "mine") == {**expected, "state": "CREATED", "bundles_to_node_id": {"0": "n0", "1": "n0"}}
