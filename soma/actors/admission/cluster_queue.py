"""Those who wait for resources of any node, and placement groups that wait to be reserved: one queue.

First come, first served, and who fits may pass who does not; but not for ever: who does not fit keeps all behind it from the resources it
asks for, on every node where it could fit once the present tasks end. It cannot where lasting holders (actors) have too much; there it is
passed, for its turn may never come. With one node this is what `Queue` does.

What an admission costs follows the number of different requests that wait, not how many wait for each, nor how many nodes there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from soma.actors.admission.amounts import parts_of
from soma.actors.admission.groups import Group
from soma.actors.admission.places import Places, Shape
from soma.actors.admission.pools import Pools
from soma.actors.admission.where import ANYWHERE, InGroup, NodeAffinity, Where


@dataclass(slots=True)
class _Line:
    """All who wait for one and the same; a placement group is alone in its line."""

    key: frozenset[tuple[str, int]]
    lasting: bool
    where: Where
    group: str | None = None
    waiting: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    """Holder → number in the queue, in order; and the node near which it would be."""
    shape: Shape | None = None
    places: Places | None = None
    """What `shape` is about."""

    def shape_in(self, places: Places) -> Shape:
        if self.shape is None or self.places is not places:
            self.shape, self.places = places.shape(self.key, self.where), places
        else:
            places.refresh(self.shape)
        return self.shape


_Closed = dict[Places, dict[str, int]]
"""By resource: the places where somebody in front waits for it."""


class ClusterQueue:
    """See the module."""

    def __init__(self) -> None:
        self._lines: dict[object, _Line] = {}
        self._line_of: dict[str, object] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._line_of)

    def __contains__(self, holder: str) -> bool:
        return holder in self._line_of

    def add(self, holder: str, request: Mapping[str, float], where: Where = ANYWHERE, *, lasting: bool = False,
            near: str | None = None) -> None:
        """At the end; for `where` and `near` see `Pools.try_acquire`. Raises ValueError if it waits already."""
        line = _Line(frozenset(parts_of(request).items()), lasting, where)
        self._join(holder, (line.key, lasting, where), line, near)

    def add_group(self, group: str) -> None:
        """A placement group that misses bundles, at the end. Raises ValueError if it waits already."""
        self._join(group, ("group", group), _Line(frozenset(), True, ANYWHERE, group), None)

    def _join(self, holder: str, key: object, line: _Line, near: str | None) -> None:
        if holder in self._line_of:
            raise ValueError(f"{holder} waits already")
        self._number += 1
        self._lines.setdefault(key, line).waiting[holder] = (self._number, near)
        self._line_of[holder] = key

    def remove(self, holder: str) -> bool:
        """It, or this placement group, waits no more; False if it did not."""
        key = self._line_of.pop(holder, None)
        if key is None:
            return False
        line = self._lines[key]
        del line.waiting[holder]
        if not line.waiting:
            del self._lines[key]
        return True

    def waiting_for(self, group: str) -> list[str]:
        """Who waits for room inside this placement group (they never get any once it is removed)."""
        return [holder for line in self._lines.values() if isinstance(line.where.strategy, InGroup) and line.where.strategy.group == group
                for holder in line.waiting]

    def waiting_for_node(self, node: str) -> list[str]:
        """Who waits for this node and no other (they never get anything once it is gone)."""
        return [holder for line in self._lines.values() if line.where.strategy == NodeAffinity(node, False) for holder in line.waiting]

    def admit(self, pools: Pools) -> list[tuple[str, str]]:
        """Give to all who can have theirs now, and let them leave: pairs of holder and node. The node of a placement group is ""."""
        admitted: list[tuple[str, str]] = []
        closed: _Closed = {}
        turns = [(next(iter(line.waiting.values()))[0], key) for key, line in self._lines.items()]
        heapq.heapify(turns)
        while turns:
            _, key = heapq.heappop(turns)
            group = self._lines[key].group
            if group is None:
                self._admit_line(pools, key, turns, closed, admitted)
            elif group in pools.bundles.groups:
                self._admit_group(pools, pools.bundles.groups[group], closed, admitted, last=not turns)
        return admitted

    def _admit_line(self, pools: Pools, key: object, turns: list[tuple[int, object]], closed: _Closed,
                    admitted: list[tuple[str, str]]) -> None:
        """Those of one line, as long as it is their turn and they fit."""
        line = self._lines[key]
        places = pools.places(line.where)
        if places is None:
            return
        shape = line.shape_in(places)
        shut = closed.get(places)
        mask = 0 if shut is None else _union(shut, shape)
        until = turns[0][0] if turns else None
        waiting, line_of = line.waiting, self._line_of
        while waiting:
            holder = next(iter(waiting))
            number, near = waiting[holder]
            if until is not None and number > until:
                heapq.heappush(turns, (number, key))
                return
            node = pools._try_acquire(holder, places, shape, line.lasting, near, mask)
            if node is None:  # nobody with the same request fits either
                if turns and shape.want:
                    _close(closed, places, shape.want, places.could_run(shape))
                return
            del waiting[holder], line_of[holder]
            admitted.append((holder, node))
        del self._lines[key]

    def _admit_group(self, pools: Pools, group: Group, closed: _Closed, admitted: list[tuple[str, str]], *, last: bool) -> None:
        if pools.bundles.try_place(group, closed.get(pools.nodes, {})):
            self.remove(group.id)
            admitted.append((group.id, ""))
        elif not last and pools.bundles.could_place(group):
            names = {name: 0 for want in group.missing.values() for name in want}
            _close(closed, pools.nodes, names, pools.bundles.could_mask(group))


def _union(shut: Mapping[str, int], shape: Shape) -> int:
    mask = 0
    for name in shape.want:
        mask |= shut.get(name, 0)
    return mask


def _close(closed: _Closed, places: Places, names: Mapping[str, int], mask: int) -> None:
    shut = closed.setdefault(places, {})
    for name in names:
        shut[name] = shut.get(name, 0) | mask
