"""Those who wait for resources of one machine. `ClusterQueue` is the same for many; with one node it does exactly this.

Pure: no clock, no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soma.actors.admission.amounts import Parts, parts_of
from soma.actors.admission.pool import Pool


@dataclass(slots=True)
class _Shape:
    """All who wait for one and the same request."""

    want: Parts
    lasting: bool
    waiting: dict[str, int] = field(default_factory=dict)
    """Holder → number in the queue, in order."""


class Queue:
    """Those who wait for resources. First come, first served, and who fits may pass who does not; but not for ever:

    who does not fit keeps all behind it from the resources it asks for, if it could fit once the present tasks end. It cannot
    when lasting holders (actors) have too much; then it is passed, for its turn may never come.
    """

    def __init__(self) -> None:
        self._shapes: dict[object, _Shape] = {}
        self._shape_of: dict[str, object] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._shape_of)

    def __contains__(self, holder: str) -> bool:
        return holder in self._shape_of

    def add(self, holder: str, request: Mapping[str, float], *, lasting: bool = False) -> None:
        """At the end. Raises ValueError if it waits already."""
        if holder in self._shape_of:
            raise ValueError(f"{holder} waits already")
        want = parts_of(request)
        key = (frozenset(want.items()), lasting)
        self._number += 1
        self._shapes.setdefault(key, _Shape(want, lasting)).waiting[holder] = self._number
        self._shape_of[holder] = key

    def remove(self, holder: str) -> bool:
        """It waits no more; False if it did not."""
        key = self._shape_of.pop(holder, None)
        if key is None:
            return False
        shape = self._shapes[key]
        del shape.waiting[holder]
        if not shape.waiting:
            del self._shapes[key]
        return True

    def admit(self, pool: Pool) -> list[str]:
        """Give to all who can have theirs now, and let them leave. Costs as much as there are different requests."""
        admitted = []
        closed: set[str] = set()
        open_shapes = set(self._shapes)
        while open_shapes:
            key = min(open_shapes, key=lambda k: next(iter(self._shapes[k].waiting.values())))
            shape = self._shapes[key]
            holder = next(iter(shape.waiting))
            if closed.isdisjoint(shape.want) and pool._try_acquire(holder, shape.want, shape.lasting):
                self.remove(holder)
                admitted.append(holder)
                if key not in self._shapes:
                    open_shapes.remove(key)
            else:  # nobody with the same request fits either
                open_shapes.remove(key)
                if pool._could_come_free(shape.want):
                    closed.update(shape.want)
        return admitted
