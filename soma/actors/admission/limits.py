"""How many processes with CPUs may run on a node at a time, whatever its resources: who is counted, and which places have enough.

Counted is who holds CPUs, at the node or inside a bundle there, and is not blocked: who waits for others must not keep them from running.
A bundle itself is no process. Going on after a block is never refused, so there may be more than the limit for a while. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from soma.actors.admission.groups import Bundles
from soma.actors.admission.places import Places


@dataclass(slots=True)
class Count:
    """Of one node that has a limit."""

    most: int
    running: int = 0
    lasting: int = 0
    """Those of actors, blocked ones included."""


class Limits:
    """The nodes that have one."""

    def __init__(self, nodes: Places, bundles: Bundles) -> None:
        self._nodes, self._bundles = nodes, bundles
        self._counts: dict[str, Count] = {}

    def add(self, node: str, most: int) -> None:
        """A node that has just joined. Raises ValueError for less than one."""
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ValueError(f"max_concurrent={most!r}: a whole number of at least 1")
        self._counts[node] = Count(most)

    def forget(self, node: str) -> None:
        self._counts.pop(node, None)

    def of(self, node: str) -> Count | None:
        """None if it has no limit."""
        return self._counts.get(node)

    def change(self, node: str, running: int, lasting: int) -> None:
        """So many more, or fewer, run there."""
        count = self._counts.get(node)
        if count is not None:
            count.running += running
            count.lasting += lasting
            self._mark(node, count)

    def _mark(self, node: str, count: Count) -> None:
        for places, i in places_at(node, self._nodes, self._bundles):
            places.crowded = places.crowded | 1 << i if count.running >= count.most else places.crowded & ~(1 << i)
            places.stuck = places.stuck | 1 << i if count.lasting >= count.most else places.stuck & ~(1 << i)


def places_at(node: str, nodes: Places, bundles: Bundles) -> Iterator[tuple[Places, int]]:
    """The node itself, and the bundles of placement groups there."""
    yield nodes, nodes.number[node]
    for group in bundles.groups.values():
        for j, there in group.nodes.items():
            if there == node:
                yield group.places, group.places.number[str(j)]
