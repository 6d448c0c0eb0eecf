"""Who holds what, as plain data and back: for a head that is started again. Pure.

What was taken is taken again exactly, GPU by GPU, without asking whether it would be given now. Refuses: nodes and groups that are not
there (KeyError), who holds something already (ValueError).
"""

from __future__ import annotations

from typing import Any

from soma.actors.admission.amounts import PARTS
from soma.actors.admission.groups import GroupState
from soma.actors.admission.pools import Pools
from soma.actors.admission.seats import Seat


def told_seat(pools: Pools, holder: str) -> tuple[Any, ...] | None:
    """What a holder has, and where; None if it has nothing."""
    seat = pools._seats.get(holder)
    if seat is None:
        return None
    held = seat.places.pool(seat.name)._holders[holder]
    return (seat.group.id if seat.group is not None else "", seat.name, seat.kind, seat.lasting, held.parts, tuple(held.gpus.items()),
            held.suspended)


def take_again(pools: Pools, holder: str, told: tuple[Any, ...]) -> None:
    group_id, name, kind, lasting, parts, gpus, suspended = told
    group = pools.bundles.groups[group_id] if group_id else None
    places = pools.nodes if group is None else group.places
    if holder in pools._seats:
        raise ValueError(f"{holder} holds resources already")
    pool = places.pool(name)
    pool._take(holder, dict(parts), lasting, dict(gpus))
    places.touch(places.number[name], roomier=False, lasting=lasting)
    if kind is not None:
        places.tally(kind, name, +1)
    seat = pools._seats[holder] = Seat(places, name, kind, lasting, group)
    pools._count(seat, dict(parts), +1, +1)
    if suspended:
        pools.suspend(holder)


def told_group(pools: Pools, id: str) -> tuple[Any, ...]:
    """A placement group, and where its bundles are reserved."""
    group = pools.bundles.groups[id]
    there = tuple((j, node, tuple(pools.nodes.pool(node)._holders[group.holder(j)].gpus.items())) for j, node in group.nodes.items())
    return group.bundles, group.strategy, group.state.value, there


def reserve_again(pools: Pools, id: str, told: tuple[Any, ...]) -> bool:
    """As it was. Whether it misses bundles, so that it is to be put in the queue."""
    bundles, strategy, state, there = told
    group = pools.create_group(id, [{name: n / PARTS for name, n in parts.items()} for parts in bundles], strategy)
    for j, node, gpus in there:
        pools.bundles._reserve(group, j, pools.nodes.number[node], dict(gpus))
    group.state = GroupState(state)
    return group.state is not GroupState.CREATED
