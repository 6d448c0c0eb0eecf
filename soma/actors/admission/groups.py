"""Placement groups: bundles of resources that are reserved together or not at all, and those who run inside them.

A bundle that is reserved is a lasting holder at its node, and a pool of its own for those inside. A group is PENDING until it is
reserved. When a node is lost the bundles there are missing and the group is RESCHEDULING until they are all placed again; the others
stay as they are. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from soma.actors.admission.amounts import PARTS, Parts
from soma.actors.admission.packing import GroupStrategy, Room, checked, enough, pack
from soma.actors.admission.places import Places, Shape, bits
from soma.actors.admission.pool import Pool
from soma.actors.admission.where import ANYWHERE

SURE = 6
"""Up to so many bundles the search is exhaustive enough to say that there is no way."""


class GroupState(Enum):
    """Of a placement group; Ray's words."""

    PENDING = "PENDING"
    CREATED = "CREATED"
    RESCHEDULING = "RESCHEDULING"


@dataclass(slots=True, eq=False)
class Group:
    """A placement group."""

    id: str
    bundles: tuple[Parts, ...]
    strategy: GroupStrategy
    state: GroupState = GroupState.PENDING
    nodes: dict[int, str] = field(default_factory=dict)
    """Where the bundles are, of those that are reserved."""
    places: Places = field(default_factory=Places)
    """The insides of the bundles, by the text of their number."""
    failed: object = None
    """As what the nodes were when it was last found not to fit."""
    could: tuple[object, bool] = (None, False)
    """As what the nodes were when somebody asked whether it could ever fit, and the answer."""

    @property
    def missing(self) -> dict[int, Parts]:
        return {j: want for j, want in enumerate(self.bundles) if j not in self.nodes}

    def inside(self, bundle: int) -> tuple[Parts, ...]:
        """The bundle of this number, all of them for -1, none for a number that there is not."""
        return self.bundles if bundle < 0 else self.bundles[bundle:bundle + 1]

    def holder(self, bundle: int) -> str:
        """Under which name a bundle is reserved at its node."""
        return f"{self.id}/{bundle}"


class Bundles:
    """The placement groups of a cluster."""

    def __init__(self, nodes: Places) -> None:
        self._nodes = nodes
        self.groups: dict[str, Group] = {}

    def create(self, id: str, bundles: Sequence[Mapping[str, float]], strategy: str) -> Group:
        """A group that is PENDING. Raises ValueError for what nothing could mean, or an id that is taken."""
        made, found = checked(bundles, strategy)
        if id in self.groups:
            raise ValueError(f"placement group {id} exists")
        group = self.groups[id] = Group(id, made, found)
        return group

    def try_place(self, group: Group, closed: Mapping[str, int]) -> bool:
        """Reserve all bundles that are missing, or none. `closed`: the nodes that others wait for, by resource."""
        key = (self._nodes.version, self._nodes.roomier, tuple(sorted(closed.items())))
        if group.failed == key:
            return False
        missing = group.missing
        may: dict[int, int] = {}
        for j, shape in self._shapes(missing).items():
            shut = 0
            for name in shape.want:
                shut |= closed.get(name, 0)
            may[j] = self._nodes.fitting(shape, shut)
            if not may[j]:
                break
        placed = pack(missing, group.strategy, self._rooms(group, may, empty=False), may) if len(may) == len(missing) else None
        if placed is None or not all(may.values()):
            group.failed = key
            return False
        for j, (i, gpus) in sorted(placed.items()):
            self._reserve(group, j, i, gpus)
        group.state, group.failed = GroupState.CREATED, None
        return True

    def _reserve(self, group: Group, j: int, i: int, gpus: dict[int, int]) -> None:
        nodes = self._nodes
        want, node = group.bundles[j], nodes.names[i]
        nodes.pool(node)._take(group.holder(j), want, True, gpus)
        nodes.touch(i, roomier=False, lasting=True)
        group.nodes[j] = node
        inside = group.places.add(str(j), Pool({name: n / PARTS for name, n in want.items()}), nodes.tags[i], nodes.labels[i])
        group.places.mark_like(inside, nodes, i)

    def could_place(self, group: Group) -> bool:
        """Whether it would fit if all that is not lasting ended."""
        key = (self._nodes.version, self._nodes.lasting)
        if group.could[0] != key:
            may = {j: self._nodes.could(shape) for j, shape in self._shapes(group.missing).items()}
            found = all(may.values()) and pack(group.missing, group.strategy, self._rooms(group, may, empty=True), may) is not None
            group.could = key, found
        return group.could[1]

    def could_mask(self, group: Group) -> int:
        """The nodes where a bundle could go once all that is not lasting has ended."""
        mask = 0
        for shape in self._shapes(group.missing).values():
            mask |= self._nodes.could(shape)
        return mask

    def feasible(self, group: Group) -> bool:
        """Whether empty nodes could hold it. A group too large to be sure of may be said to, and then waits."""
        wants = dict(enumerate(group.bundles))
        pools = ((i, self._nodes.pool(self._nodes.names[i])) for i in bits(self._nodes.open))
        rooms = [Room(i, dict(pool._total), list(pool._all_gpus)) for i, pool in pools]
        if pack(wants, group.strategy, rooms, dict.fromkeys(wants, self._nodes.open)) is not None:
            return True
        return (len(wants) > SURE and not group.strategy.startswith("STRICT") and enough(wants, rooms)
                and all(any(r.fits(want) for r in rooms) for want in wants.values()))

    def remove(self, group: Group) -> None:
        """Its bundles are given back. Nobody may be inside."""
        for j in list(group.nodes):
            self._give_back(group, j)
        del self.groups[group.id]

    def _give_back(self, group: Group, j: int) -> None:
        node = group.nodes.pop(j)
        group.places.remove(str(j))
        self._nodes.pool(node).release(group.holder(j))
        self._nodes.touch(self._nodes.number[node], roomier=True, lasting=True)

    def lose(self, node: str) -> list[Group]:
        """The groups that had something there. What they had is missing from now on; nobody may be inside."""
        hit = [g for g in self.groups.values() if node in g.nodes.values()]
        for group in hit:
            for j in [j for j, there in group.nodes.items() if there == node]:
                self._give_back(group, j)
            group.state = GroupState.RESCHEDULING
        return hit

    def _shapes(self, missing: Mapping[int, Parts]) -> dict[int, Shape]:
        return {j: self._nodes.shape(frozenset(want.items()), ANYWHERE) for j, want in missing.items()}

    def _here(self, group: Group, i: int) -> int:
        node = self._nodes.names[i]
        return sum(there == node for there in group.nodes.values())

    def _rooms(self, group: Group, may: Mapping[int, int], *, empty: bool) -> list[Room]:
        """Copies of the nodes that matter; `empty`: without what is not lasting."""
        some = 0
        for mask in may.values():
            some |= mask
        rooms = []
        for i in bits(some):
            pool = self._nodes.pool(self._nodes.names[i])
            free, gpus = (pool._passing, pool._passing_gpus) if empty else (pool._free, pool._gpus)
            rooms.append(Room(i, dict(free), list(gpus), self._nodes.use(i), self._here(group, i)))
        return rooms
