"""What the nodes of a cluster have, who holds how much of it where, and where somebody new goes.

With one node it does what `Pool` does. A node that is draining keeps whom it has and takes nobody new; one that is suspected takes nobody
for now. Holders inside a placement group
take from its bundles. Cluster-wide questions take a node, or None for all of them. Pure: no clock, no process, no random choice; ties go
to who joined first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from soma.actors.admission.amounts import CPU, PARTS, Parts, parts_of
from soma.actors.admission.groups import Bundles, Group
from soma.actors.admission.limits import Count, Limits, places_at
from soma.actors.admission.places import Places, Shape, kind_of
from soma.actors.admission.pool import Pool
from soma.actors.admission.seats import Gone, Node, Seat
from soma.actors.admission.where import ANYWHERE, InGroup, Where


class Pools:
    """The resources of a cluster."""

    def __init__(self) -> None:
        self.nodes = Places()
        self.bundles = Bundles(self.nodes)
        self._limits = Limits(self.nodes, self.bundles)
        self._seats: dict[str, Seat] = {}
        self._totals: tuple[int, dict[str, float]] = (-1, {})
        """Of all nodes; it is asked for often. And of which version."""
        self.lost: dict[str, None] = {}
        """Nodes that were here, the last thousand."""

    # -- nodes ---------------------------------------------------------------------------------------------------------------

    def add_node(self, id: str, totals: Mapping[str, float], tags: Iterable[str] = (), labels: Mapping[str, str] | None = None,
                 most: int | None = None) -> None:
        """A node joins, empty. Raises ValueError for an id that is there, or an amount that nothing could mean.

        Args:
            most: so many processes with CPUs may run there at a time; None: as many as its resources allow.
        """
        if id in self.nodes.number:
            raise ValueError(f"node {id} is there already")
        if most is not None:
            self._limits.add(id, most)
        self.nodes.add(id, Pool(totals), frozenset(tags), dict(labels or {}))
        self.lost.pop(id, None)

    def remove_node(self, id: str) -> Gone:
        """A node is gone, with all that was on it, bundles of placement groups included. KeyError if it is not there."""
        number = self.nodes.number[id]
        self.nodes.close(number)
        holders = tuple(h for h, seat in self._seats.items() if self._node(seat) == id)
        for holder in holders:
            self.release(holder)
        groups = self.bundles.lose(id)
        self.nodes.remove(id)
        self._limits.forget(id)
        self.lost[id] = None
        if len(self.lost) > 1000:
            del self.lost[next(iter(self.lost))]
        return Gone(holders, tuple(g.id for g in groups))

    def drain(self, id: str) -> None:
        """Nothing new comes to this node, nor to what placement groups have there. KeyError if it is not there."""
        for places, i in places_at(id, self.nodes, self.bundles):
            places.close(i)

    def distrust(self, id: str) -> None:
        """It is not heard: nothing new comes to it, nor to what placement groups have there, until `trust`. Who must have it waits."""
        for places, i in places_at(id, self.nodes, self.bundles):
            places.distrusted |= 1 << i

    def trust(self, id: str) -> None:
        """It is heard again. Look who waits."""
        for places, i in places_at(id, self.nodes, self.bundles):
            places.distrusted &= ~(1 << i)
            places.touch(i, roomier=True, lasting=False)

    def state(self, id: str) -> Literal["open", "suspected", "draining"]:
        """KeyError if it is not there."""
        i = self.nodes.number[id]
        if not self.nodes.open >> i & 1:
            return "draining"
        return "suspected" if self.nodes.distrusted >> i & 1 else "open"

    def limit(self, id: str) -> Count | None:
        """How many processes with CPUs run there and may; None if that is not limited."""
        return self._limits.of(id)

    def members(self) -> list[Node]:
        """All nodes, in the order of joining."""
        n = self.nodes
        return [Node(n.names[i], pool.total, tuple(sorted(n.tags[i])), dict(n.labels[i]), self.state(n.names[i])) for i, pool in n.pools()]

    # -- taking and giving back ----------------------------------------------------------------------------------------------

    def try_acquire(self, holder: str, request: Mapping[str, float], where: Where = ANYWHERE, *, lasting: bool = False,
                    near: str | None = None) -> str | None:
        """Take all of a request at one node and say which, or nothing and None.

        Args:
            lasting: held as long as an actor lives, so nobody should wait for its end.
            near: the node of who asks; preferred by "DEFAULT" while it is less than half used.

        Raises:
            ValueError: this holder has something already.
        """
        places = self.places(where)
        if holder in self._seats:
            raise ValueError(f"{holder} holds resources already")
        want = parts_of(request)
        return None if places is None else self._try_acquire(holder, places, places.shape(frozenset(want.items()), where), lasting, near, 0)

    def places(self, where: Where) -> Places | None:
        """The nodes, or the bundles of the group that is asked for; None if there is no such group."""
        if type(where.strategy) is InGroup:
            group = self.bundles.groups.get(where.strategy.group)
            return None if group is None else group.places
        return self.nodes

    def _try_acquire(self, holder: str, places: Places, shape: Shape, lasting: bool, near: str | None, closed: int) -> str | None:
        i = places.find(shape, closed, near)
        if i is None:
            return None
        name, where = places.names[i], shape.where
        pool, kind = places.pool(name), kind_of(shape.want, where)
        pool._try_acquire(holder, shape.want, lasting)
        places.touch(i, roomier=False, lasting=lasting)
        if kind is not None:
            places.tally(kind, name, +1)
        group = self.bundles.groups[where.strategy.group] if isinstance(where.strategy, InGroup) else None
        seat = self._seats[holder] = Seat(places, name, kind, lasting, group)
        self._count(seat, shape.want, +1, +1)
        return self._node(seat)

    def _count(self, seat: Seat, held: Mapping[str, int], running: int, lasting: int) -> None:
        if CPU in held:
            self._limits.change(self._node(seat), running, lasting if seat.lasting else 0)

    def release(self, holder: str) -> bool:
        """Give everything back. False if it held nothing (a death may be noticed twice)."""
        seat = self._seats.pop(holder, None)
        if seat is None:
            return False
        places, held = seat.places, seat.places.pool(seat.name)._holders[holder]
        self._count(seat, held.parts, 0 if held.suspended else -1, -1)
        places.pool(seat.name).release(holder)
        places.touch(places.number[seat.name], roomier=True, lasting=seat.lasting)
        if seat.kind is not None:
            places.tally(seat.kind, seat.name, -1)
        return True

    def suspend(self, holder: str) -> bool:
        """It is blocked: its CPU is free for others, the rest stays. False if nothing changed."""
        seat = self._seats.get(holder)
        if seat is None or not seat.places.pool(seat.name).suspend(holder):
            return False
        seat.places.touch(seat.places.number[seat.name], roomier=True, lasting=False)
        self._count(seat, seat.places.pool(seat.name)._holders[holder].parts, -1, 0)
        return True

    def resume(self, holder: str) -> bool:
        """It goes on, with its CPU, which may be one too many for a while. False if nothing changed."""
        seat = self._seats.get(holder)
        if seat is None or not seat.places.pool(seat.name).resume(holder):
            return False
        seat.places.touch(seat.places.number[seat.name], roomier=False, lasting=False)
        self._count(seat, seat.places.pool(seat.name)._holders[holder].parts, +1, 0)
        return True

    # -- questions -----------------------------------------------------------------------------------------------------------

    def __contains__(self, holder: str) -> bool:
        return holder in self._seats

    def node_of(self, holder: str) -> str | None:
        """Where it holds what it holds."""
        seat = self._seats.get(holder)
        return None if seat is None else self._node(seat)

    @staticmethod
    def _node(seat: Seat) -> str:
        return seat.name if seat.group is None else seat.group.nodes[int(seat.name)]

    def total(self, node: str | None = None) -> dict[str, float]:
        if node is not None:
            return self.nodes.pool(node).total
        if self._totals[0] != self.nodes.version:
            self._totals = self.nodes.version, _sum(pool._total for _, pool in self.nodes.pools())
        return dict(self._totals[1])

    def available(self, node: str | None = None) -> dict[str, float]:
        """What could be had now, for every resource there is. What a placement group has reserved is not there for others."""
        return _sum({name: max(0, n) for name, n in pool._free.items()} for _, pool in self._chosen(node))

    def holders(self, node: str | None = None) -> dict[str, dict[str, float]]:
        """What everybody holds; a suspended one without its CPU.

        A bundle counts, as `<group>/<number>`, for what nobody inside has taken of it.
        """
        found = {}
        for _, pool in self._chosen(node):
            found.update(pool.holders())
        for group, j in self._bundles_at(node):
            inside = group.places.pool(str(j))
            found[group.holder(j)] = {name: n for name, n in inside.available().items() if n}
            found.update(inside.holders())
        return found

    def gpus_of(self, holder: str) -> tuple[int, ...]:
        """The GPUs it was given, numbered as in the capabilities of its node; holders of shares may have the same one."""
        seat = self._seats.get(holder)
        if seat is None:
            return ()
        found = seat.places.pool(seat.name).gpus_of(holder)
        return found if seat.group is None else tuple(self._gpus_of_bundle(seat.group, int(seat.name))[i] for i in found)

    def _gpus_of_bundle(self, group: Group, j: int) -> tuple[int, ...]:
        return self.nodes.pool(group.nodes[j]).gpus_of(group.holder(j))

    def gpu_shares(self, node: str) -> dict[str, dict[int, float]]:
        """How much of which GPU of a node everybody has who has any; bundles as in `holders`."""
        found = self.nodes.pool(node).gpu_shares()
        for group, j in self._bundles_at(node):
            inside, gpus = group.places.pool(str(j)), self._gpus_of_bundle(group, j)
            found.pop(group.holder(j), None)
            left = {gpus[i]: n / PARTS for i, n in enumerate(inside._gpus) if n}
            found.update({group.holder(j): left} if left else {})
            found.update({h: {gpus[i]: n for i, n in shares.items()} for h, shares in inside.gpu_shares().items()})
        return found

    def _chosen(self, node: str | None) -> Iterator[tuple[int, Pool]]:
        return self.nodes.pools() if node is None else iter([(self.nodes.number[node], self.nodes.pool(node))])

    def _bundles_at(self, node: str | None) -> Iterator[tuple[Group, int]]:
        return ((g, j) for g in self.bundles.groups.values() for j, there in g.nodes.items() if node is None or node == there)

    def feasible(self, request: Mapping[str, float], where: Where = ANYWHERE) -> bool:
        """Whether some node could satisfy it if it were empty; inside a placement group, whether a bundle could."""
        want = parts_of(request)
        if isinstance(where.strategy, InGroup):
            group = self.bundles.groups.get(where.strategy.group)
            return group is not None and any(Pool(_amounts(b))._feasible(want) for b in group.inside(where.strategy.bundle))
        shape = self.nodes.shape(frozenset(want.items()), where)
        return any(shape.permitted >> i & 1 and pool._feasible(want) for i, pool in self.nodes.pools())

    # -- placement groups ----------------------------------------------------------------------------------------------------

    def create_group(self, id: str, bundles: Sequence[Mapping[str, float]], strategy: str = "PACK") -> Group:
        """A placement group, PENDING: put it in the queue. Raises ValueError for what nothing could mean, or an id that is taken."""
        return self.bundles.create(id, bundles, strategy)

    def reserve(self, id: str) -> dict[int, str] | None:
        """Reserve at once what a group misses: the node of every bundle, or None, and nothing is taken."""
        group = self.bundles.groups[id]
        return dict(group.nodes) if self.bundles.try_place(group, {}) else None

    def remove_group(self, id: str) -> Gone:
        """Give its bundles back; who was inside holds nothing any more. KeyError if there is no such group."""
        group = self.bundles.groups[id]
        holders = tuple(h for h, seat in self._seats.items() if seat.group is group)
        for holder in holders:
            self.release(holder)
        self.bundles.remove(group)
        return Gone(holders)


def _amounts(parts: Parts) -> dict[str, float]:
    return {name: n / PARTS for name, n in parts.items()}


def _sum(all_parts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    sums: dict[str, int] = {}
    for parts in all_parts:
        for name, n in parts.items():
            sums[name] = sums.get(name, 0) + n
    return _amounts(sums)
