"""Nodes that are not heard, and nodes that may run so many at a time: who gets something there, and who waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.actors.admission import ClusterQueue, GroupState, InGroup, NodeAffinity, Pools, Where, why_never

TWO = Where(strategy=NodeAffinity("two", soft=False))


def cluster(**most: int | None) -> Pools:
    pools = Pools()
    for node in ("one", "two"):
        pools.add_node(node, {"CPU": 8.0, "memory": 10.0}, most=most.get(node))
    return pools


# -- suspected ----------------------------------------------------------------------------------------------------------------


def test_a_suspected_node_gets_nothing_and_is_waited_for() -> None:
    pools, queue = cluster(), ClusterQueue()
    pools.distrust("two")
    for i in range(4):
        queue.add(f"any{i}", {"CPU": 1.0}, Where(strategy="SPREAD", kind="f"))
        queue.add(f"nothing{i}", {})
    queue.add("hard", {"CPU": 1.0}, TWO)
    queue.add("soft", {"CPU": 1.0}, Where(strategy=NodeAffinity("two", soft=True)))
    given = dict(queue.admit(pools))
    assert set(given.values()) == {"one"} and len(given) == 8, "what must or would be on it waits"
    assert why_never(pools, {"CPU": 1.0}, TWO) == "", "it may well come back"
    assert [n.state for n in pools.members()] == ["open", "suspected"]
    pools.trust("two")
    assert dict(queue.admit(pools)) == {"hard": "two", "soft": "two"}


def test_groups_keep_off_it_and_their_bundles_there_take_nobody() -> None:
    pools, queue = cluster(), ClusterQueue()
    pools.create_group("old", [{"CPU": 1.0}, {"CPU": 1.0}], "STRICT_SPREAD")
    there = pools.reserve("old")
    assert there is not None
    pools.distrust("two")
    pools.create_group("new", [{"CPU": 1.0}, {"CPU": 1.0}], "STRICT_SPREAD")
    queue.add_group("new")
    bundle = next(j for j, node in there.items() if node == "two")
    queue.add("inside", {"CPU": 1.0}, Where(strategy=InGroup("old", bundle)))
    queue.add("beside", {"CPU": 1.0}, Where(strategy=InGroup("old", 1 - bundle)))
    assert queue.admit(pools) == [("beside", "one")]
    pools.trust("two")
    assert sorted(queue.admit(pools)) == [("inside", "two"), ("new", "")]
    assert pools.bundles.groups["new"].state is GroupState.CREATED


def test_a_node_that_drains_is_not_open_again_when_it_is_heard() -> None:
    pools = cluster()
    pools.distrust("two")
    pools.drain("two")
    pools.trust("two")
    assert pools.state("two") == "draining" and pools.try_acquire("a", {"CPU": 1.0}, TWO) is None


# -- at most so many -----------------------------------------------------------------------------------------------------------


def test_so_many_run_and_those_without_cpus_do_not_count() -> None:
    pools, queue = cluster(one=2), ClusterQueue()
    one = Where(strategy=NodeAffinity("one", soft=False))
    for i in range(3):
        queue.add(f"task{i}", {"CPU": 0.1}, one)
        queue.add(f"light{i}", {"memory": 0.5}, one)
    assert {h for h, _ in queue.admit(pools)} == {"task0", "task1", "light0", "light1", "light2"}
    pools.suspend("task0")
    assert queue.admit(pools) == [("task2", "one")], "who waits for others makes room for them"
    pools.resume("task0")
    count = pools.limit("one")
    assert count is not None and (count.running, count.most) == (3, 2), "going on is never refused"
    pools.release("task1")
    assert pools.try_acquire("more", {"CPU": 1.0}, one) is None
    pools.release("task2")
    assert pools.try_acquire("more", {"CPU": 1.0}, one) == "one"


def test_who_waits_for_a_node_full_of_actors_does_not_keep_others_from_it() -> None:
    pools, queue = cluster(one=1), ClusterQueue()
    one = Where(strategy=NodeAffinity("one", soft=False))
    pools.try_acquire("actor", {"CPU": 1.0}, one, lasting=True)
    queue.add("large", {"CPU": 1.0, "memory": 9.0}, one)
    queue.add("light", {"memory": 5.0}, one)
    assert queue.admit(pools) == [("light", "one")]
    pools.release("light")
    pools.release("actor")
    assert queue.admit(pools) == [("large", "one")]


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_a_limit_that_is_none(most: Any) -> None:
    pools = Pools()
    with pytest.raises(ValueError, match="max_concurrent"):
        pools.add_node("n", {"CPU": 1.0}, most=most)
    assert "n" not in pools.nodes.number


@dataclass
class Model:
    """Who holds CPUs where, and is not blocked: counted anew at every question."""

    held: dict[str, tuple[str, bool]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)

    def running(self, node: str) -> int:
        return sum(there == node and cpus and holder not in self.blocked for holder, (there, cpus) in self.held.items())


STEPS = st.lists(st.tuples(st.sampled_from(["take", "take", "take", "in group", "release", "block", "go on", "group", "silent", "heard"]),
                           st.integers(0, 9), st.booleans(), st.booleans()), max_size=40)


@given(STEPS)
def test_any_order_of_events(steps: list[Any]) -> None:
    """Nobody begins where the limit is reached or nothing is heard; who could begin somewhere does."""
    pools, model, silent = cluster(one=1, two=2), Model(), set[str]()
    most = {"one": 1, "two": 2}
    for i, (what, n, cpus, lasting) in enumerate(steps):
        node, holders = ("one", "two")[n % 2], list(model.held)
        match what:
            case "take" | "in group":
                group = f"g{n % 2}"
                if what == "in group" and group not in pools.bundles.groups:
                    continue
                where = Where(strategy=InGroup(group)) if what == "in group" else Where()
                amounts = {"CPU": 0.01} if cpus else {"memory": 0.01}
                there = pools.bundles.groups[group].nodes.values() if what == "in group" else most
                may = {node for node in there if node not in silent and not (cpus and model.running(node) >= most[node])}
                found = pools.try_acquire(f"h{i}", amounts, where, lasting=lasting)
                assert (found in may) if may else found is None
                if found:
                    model.held[f"h{i}"] = found, cpus
            case "release" if holders:
                holder = holders[n % len(holders)]
                pools.release(holder)
                del model.held[holder]
                model.blocked.discard(holder)
            case "block" if holders:
                if pools.suspend(holders[n % len(holders)]):
                    model.blocked.add(holders[n % len(holders)])
            case "go on" if holders:
                pools.resume(holders[n % len(holders)])
                model.blocked.discard(holders[n % len(holders)])
            case "group" if f"g{n % 2}" not in pools.bundles.groups:
                pools.create_group(f"g{n % 2}", [{"CPU": 0.5, "memory": 0.5}], "PACK")
                if (pools.reserve(f"g{n % 2}") is None) is (len(silent) < 2):
                    raise AssertionError("a bundle is no process, so limits do not keep it off")
                if len(silent) == 2:
                    pools.remove_group(f"g{n % 2}")
            case "silent":
                pools.distrust(node)
                silent.add(node)
            case "heard":
                pools.trust(node)
                silent.discard(node)
        for node in most:
            count = pools.limit(node)
            assert count is not None and count.running == model.running(node)
