"""Who is in a group: pure. Hellos and goodbyes in, what to send and whom to let go out.

A group has generations. One begins with its first hello, is whole when all its ranks have said theirs, and ends when a member is gone
without a goodbye, when it is dissolved, or when a later one begins; who belonged to it hears why. What ended does not begin again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

Connection = Hashable
_NOBODY = -2, -1
"""Of no generation: has not said hello, or was let go."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message; with `last`, it is the last one, and the line is cut behind it."""

    to: Connection
    message: Mapping[str, Any]
    last: bool = False


@dataclass(slots=True)
class _Generation:
    size: int
    members: dict[int, tuple[Connection, Mapping[str, Any]]] = field(default_factory=dict)
    whole: bool = False
    ended: str = ""


class Roster:
    """Of one group."""

    def __init__(self) -> None:
        self._number = -1
        self._now = _Generation(0)
        self._ranks: dict[Connection, tuple[int, int]] = {}

    def hello(self, connection: Connection, told: Mapping[str, Any]) -> list[Send]:
        """`told` has generation, rank, size, and whatever the others need to know."""
        generation, rank, size = told["generation"], told["rank"], told["size"]
        sends: list[Send] = []
        if generation > self._number:
            sends = self._end(f"generation {generation} began")
            self._number, self._now = generation, _Generation(size)
        problem = self._problem(generation, rank, size)
        if problem:
            return [*sends, Send(connection, {"refused": problem}, last=True)]
        self._now.members[rank] = connection, told
        self._ranks[connection] = generation, rank
        if len(self._now.members) == size:
            self._now.whole = True
            everybody = {str(r): dict(t) for r, (_, t) in sorted(self._now.members.items())}
            sends += [Send(c, {"roster": everybody}) for c, _ in self._now.members.values()]
        return sends

    def _problem(self, generation: int, rank: int, size: int) -> str:
        now = self._now
        if generation < self._number:
            return f"generation {generation} is over; this is {self._number}"
        if now.ended:
            return f"generation {generation} ended: {now.ended}"
        if size != now.size:
            return f"rank {rank} says that the group has {size} ranks, and others say {now.size}"
        if not 0 <= rank < size:
            return f"rank {rank} of {size}: ranks are 0 to {size - 1}"
        if rank in now.members:
            return f"rank {rank} joined twice"
        return ""

    def bye(self, connection: Connection) -> list[Send]:
        """An orderly goodbye: the others go on, without collective calls."""
        generation, rank = self._ranks.pop(connection, _NOBODY)
        if generation == self._number:
            self._now.members.pop(rank, None)
            if not self._now.members and not self._now.ended:
                self._now.ended = "all ranks left"
        return []

    def gone(self, connection: Connection, why: str = "") -> list[Send]:
        """A line was closed without a goodbye, or its rank says why it cannot go on."""
        generation, rank = self._ranks.pop(connection, _NOBODY)
        if generation != self._number:
            return []
        told = self._now.members.pop(rank)[1]
        return self._end(why or f"rank {rank} (process {told.get('pid', '?')}) is gone")

    def dissolve(self, generation: int, why: str) -> list[Send]:
        """End this generation, and every earlier one."""
        if generation > self._number:
            sends = self._end(why)
            self._number, self._now = generation, _Generation(0, ended=why)
            return sends
        return self._end(why) if generation == self._number else []

    def _end(self, why: str) -> list[Send]:
        now, self._now.ended = self._now, self._now.ended or why
        sends = [Send(c, {"broken": why}, last=True) for c, _ in now.members.values()]
        for c, _ in now.members.values():
            self._ranks.pop(c, None)
        now.members = {}
        return sends
