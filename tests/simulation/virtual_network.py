"""A clock that jumps from event to event, and a network with weather: messages are lost, doubled, late, out of order, or cut off.

Every choice comes from one seeded generator, so a seed is a history.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Message = tuple[Any, ...]
"""Its kind, then its fields."""


@dataclass(slots=True)
class Weather:
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    """Probabilities, for each message."""
    longest: float = 0.0
    """Seconds that a late one takes at most."""


class Clock:
    """Events in the order of their times; those of one time in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, time: float, do: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(time, self.now), self._count, do, args))

    def after(self, pause: float, do: Callable[..., None], *args: Any) -> None:
        self.at(self.now + pause, do, *args)

    def step(self, until: float) -> bool:
        """Run the next event, if it is not after `until`; else let the time come."""
        if not self._events or self._events[0][0] > until:
            self.now = until
            return False
        self.now, _, do, args = heapq.heappop(self._events)
        do(*args)
        return True


class Network:
    """Carries messages from peer to peer."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self.clock, self.rng, self.weather = clock, rng, Weather()
        self.receivers: dict[str, Callable[[str, Message], None]] = {}
        """A peer without a receiver is down: what reaches it is gone."""
        self.cut: dict[tuple[str, str], int] = {}
        """Directions in which nothing passes, and how many partitions say so."""
        self.asleep: dict[str, float] = {}
        """Peers that are stopped, until when: what reaches them waits."""
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=60)
        self.meddle: Callable[[str, str, Message], str | None] | None = None
        """A test's own weather: `lost`, `late` or `doubled` for a message, or None."""

    def note(self, *what: Any) -> None:
        self.trace.append((self.clock.now, *what))

    def send(self, sender: str, to: str, message: Message) -> None:
        weather, rng = self.weather, self.rng
        fate = self.meddle(sender, to, message) if self.meddle is not None else None
        if (sender, to) in self.cut or fate == "lost" or (weather.lost and rng.random() < weather.lost):
            self.note(sender, "-x", to, message)
            return
        copies = 2 if fate == "doubled" or (weather.doubled and rng.random() < weather.doubled) else 1
        for copy in range(copies):
            pause = 0.001 + 0.004 * rng.random()
            if fate == "late" or (weather.late and rng.random() < weather.late):
                pause = rng.random() * (weather.longest or 6.0)
            elif copy:
                pause = rng.random() * (weather.longest or 6.0)
            self.clock.after(pause, self._deliver, sender, to, message)

    def _deliver(self, sender: str, to: str, message: Message) -> None:
        receive = self.receivers.get(to)
        if receive is None:
            return
        if (until := self.asleep.get(to, 0.0)) > self.clock.now:
            self.clock.at(until, self._deliver, sender, to, message)
            return
        self.note(sender, "->", to, message)
        receive(sender, message)

    def partition(self, directions: list[tuple[str, str]], seconds: float) -> None:
        for direction in directions:
            self.cut[direction] = self.cut.get(direction, 0) + 1
        self.clock.after(seconds, self._heal, directions)

    def _heal(self, directions: list[tuple[str, str]]) -> None:
        for direction in directions:
            left = self.cut.get(direction, 0) - 1
            if left > 0:
                self.cut[direction] = left
            else:
                self.cut.pop(direction, None)

    def heal(self) -> None:
        """Good weather from now on; what is under way still comes, late or twice."""
        self.weather, self.meddle = Weather(), None
        self.cut.clear()
        self.asleep.clear()
