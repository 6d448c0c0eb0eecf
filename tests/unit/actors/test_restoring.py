"""Who holds what, told as plain data and taken again: the same pools as before."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from soma.actors.admission import ClusterQueue, Pools, Where
from soma.actors.admission.restoring import reserve_again, take_again, told_group, told_seat
from soma.actors.admission.where import InGroup

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory"]), st.sampled_from([0.5, 1.0, 2.0]), max_size=2)
STEPS = st.lists(st.tuples(st.sampled_from(["take", "in group", "release", "suspend", "group", "lose"]), AMOUNTS, st.integers(0, 9),
                           st.sampled_from(["DEFAULT", "SPREAD", "PACK"]), st.booleans()), max_size=25)
NODES = {"one": {"CPU": 4.0, "GPU": 2.0, "memory": 8.0}, "two": {"CPU": 2.0, "GPU": 1.0, "memory": 4.0}}


def seen(pools: Pools, holders: list[str]) -> Any:
    return ({node: (pools.available(node), pools.holders(node), pools.gpu_shares(node)) for node in pools.nodes.number},
            {h: (pools.node_of(h), pools.gpus_of(h)) for h in holders},
            {g.id: (g.nodes, g.state, crowded(g.places)) for g in pools.bundles.groups.values()}, pools.limit("one"), crowded(pools.nodes))


def crowded(places: Any) -> set[str]:
    return {name for name, i in places.number.items() if (places.crowded | places.stuck) >> i & 1}


@given(STEPS)
def test_as_it_was(steps: list[Any]) -> None:
    pools, queue = Pools(), ClusterQueue()
    for node, totals in NODES.items():
        pools.add_node(node, totals, most=2 if node == "one" else None)
    holders: list[str] = []
    groups: list[str] = []
    lost: set[str] = set()
    for i, (what, amounts, n, strategy, lasting) in enumerate(steps):
        match what:
            case "take":
                if pools.try_acquire(f"h{i}", amounts, Where(strategy=strategy), lasting=lasting):
                    holders.append(f"h{i}")
            case "in group" if groups:
                if pools.try_acquire(f"h{i}", amounts, Where(strategy=InGroup(groups[n % len(groups)], -1)), lasting=lasting):
                    holders.append(f"h{i}")
            case "release" if holders:
                pools.release(holders[n % len(holders)])
            case "suspend" if holders:
                (pools.suspend if lasting else pools.resume)(holders[n % len(holders)])
            case "group":
                groups.append(f"g{i}")
                pools.create_group(f"g{i}", [{"CPU": 1.0}, {"GPU": 0.5}], strategy if strategy != "DEFAULT" else "STRICT_SPREAD")
                pools.reserve(f"g{i}")
            case "lose" if n == 0 and "two" not in lost:
                pools.remove_node("two")
                lost.add("two")
            case _:
                continue
    told: Any = msgpack.unpackb(msgpack.packb([[(g, told_group(pools, g)) for g in groups],
                                               [(h, seat) for h in holders if (seat := told_seat(pools, h)) is not None]]),
                                use_list=False, strict_map_key=False)
    again = Pools()
    for node, totals in NODES.items():
        if node not in lost:
            again.add_node(node, totals, most=2 if node == "one" else None)
    for group, row in told[0]:
        if reserve_again(again, group, row):
            queue.add_group(group)
    for holder, seat in told[1]:
        take_again(again, holder, seat)
    assert seen(again, holders) == seen(pools, holders)
    for holder in holders:
        assert again.release(holder) == pools.release(holder)
    assert seen(again, holders) == seen(pools, holders)
