"""What a node keeps to tell the head: its processes, until their end is confirmed, and what they printed while nobody could be told.

Bounded: there are no more processes than were ordered, and of printed lines the oldest are given up, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from soma.daemon.coordination.nodestates import Instruction, TellDropped, TellPrinted


@dataclass(slots=True)
class Process:
    """What the node answers for: until it ended and the head confirmed that."""

    running: bool = False
    ended: bool = False
    detail: object = None
    told: float = float("-inf")


@dataclass(slots=True)
class Kept:
    """Printed lines that could not be told yet; the oldest are given up first."""

    limit: int
    lines: deque[tuple[object, int]] = field(default_factory=deque)
    size: int = 0
    dropped: int = 0

    def add(self, lines: object, size: int) -> None:
        self.lines.append((lines, size))
        self.size += size
        while self.size > self.limit:
            _, lost = self.lines.popleft()
            self.size, self.dropped = self.size - lost, self.dropped + lost

    def take(self) -> Iterator[Instruction]:
        if self.dropped:
            yield TellDropped(self.dropped)
        yield from (TellPrinted(lines) for lines, _ in self.lines)
        self.lines.clear()
        self.size = self.dropped = 0
