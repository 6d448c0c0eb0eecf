"""The consumer's side of a generator: items as they come, how far the producer may run ahead. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from soma.ids import ObjectId

WINDOW = 16
"""Items that a producer may be ahead of its consumer."""


@dataclass(slots=True, eq=False)
class Stream:
    """Items of one streaming call. `ready` holds those that arrived in order and were not taken."""

    ready: list[ObjectId] = field(default_factory=list)
    taken: int = 0
    acknowledged: int = 0
    ended: bool = False
    waiters: list[Callable[[], None]] = field(default_factory=list)

    def put(self, item: ObjectId) -> list[Callable[[], None]]:
        """An item came; returns whom to tell."""
        self.ready.append(item)
        told, self.waiters = self.waiters, []
        return told

    def end(self) -> list[Callable[[], None]]:
        self.ended = True
        told, self.waiters = self.waiters, []
        return told

    def take(self) -> ObjectId | None:
        """The next item, or None if there is none now."""
        if not self.ready:
            return None
        self.taken += 1
        return self.ready.pop(0)

    def credit(self) -> int | None:
        """How many items were taken, if it is time to say so."""
        if self.ended or self.taken - self.acknowledged < WINDOW // 2:
            return None
        self.acknowledged = self.taken
        return self.taken


@dataclass(slots=True, eq=False)
class Allowance:
    """The producer's side: may it yield one more?"""

    sent: int = 0
    taken: int = 0

    @property
    def open(self) -> bool:
        return self.sent - self.taken < WINDOW
