"""Which cores an actor runs on. Pure: whoever reserves whole CPUs is kept on as many cores, the ones with the fewest others on them.

A holder keeps its cores until it gives them back, also over restarts. Nobody is refused: where more CPUs are reserved than cores
exist, cores are shared. Refuses nothing, and pins nobody itself: that is the actor's own first act (`actors/process.py`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable


def usable() -> frozenset[int]:
    """The cores that this process, and so its children, may run on; none where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


class Cores:
    """The cores of a machine and who runs on which."""

    def __init__(self, there: Iterable[int]) -> None:
        self._holders = dict.fromkeys(sorted(there), 0)
        """Core → how many were given it."""
        self._given: dict[str, tuple[int, ...]] = {}

    def take(self, holder: str, cpus: float) -> tuple[int, ...]:
        """The cores for a reservation: as many as it has CPUs, a part of one counting as one. None below one whole CPU: no pin."""
        if holder not in self._given:
            least_used = sorted(self._holders, key=lambda core: (self._holders[core], core))
            self._given[holder] = tuple(sorted(least_used[:math.ceil(cpus) if cpus >= 1 else 0]))
            for core in self._given[holder]:
                self._holders[core] += 1
        return self._given[holder]

    def of(self, holder: str) -> tuple[int, ...]:
        """What it was given; empty when it may run anywhere."""
        return self._given.get(holder, ())

    def holders(self) -> tuple[str, ...]:
        """Everybody who was given some, or none."""
        return tuple(self._given)

    def release(self, holder: str) -> None:
        """It is gone for good; does nothing if it had none."""
        for core in self._given.pop(holder, ()):
            self._holders[core] -= 1
