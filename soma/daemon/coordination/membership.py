"""Who is there: nodes and drivers, each silent no longer than it may be.

Members beat. One that missed some beats, or whose connection closed, is suspected; one that stays silent is lost, and its
incarnation is fenced. Registering again is no sign of life, only a beat is: a member that can send but hears nothing never beats
(it sends a heartbeat only once it was accepted), so it is lost like one that is silent.

Refuses: an incarnation that is older than the known one, or was lost. Holds at most `capacity` members; those that are gone make room.

Time is an argument, in seconds of a monotonic clock. If it goes back it stands still here. A look that comes later than
`next_deadline()` by more than one heartbeat was late through this process's own fault (it was stopped, the machine slept):
that time is not counted as silence of the members, who may have been beating all along.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from soma.daemon.coordination.presence import (
    GONE,
    TABLE,
    Change,
    Fence,
    Full,
    Kind,
    Lost,
    Member,
    Presence,
    Recovered,
    Sign,
    Suspected,
    Unknown,
    advance,
)


class Membership:
    """The table of members. What a method returns is what changed, in order."""

    def __init__(self, heartbeat: float = 1.0, missed: int = 3, grace: float = 10.0, closed: float = 1.5, *,
                 capacity: int = 10_000) -> None:
        if not 0 < heartbeat * missed < grace or closed <= 0:
            raise ValueError(f"0 < heartbeat × missed < grace and 0 < closed must hold; got {heartbeat=}, {missed=}, {grace=}, {closed=}")
        self.heartbeat, self.silence, self.grace, self.closed, self.capacity = heartbeat, heartbeat * missed, grace, closed, capacity
        self.members: dict[str, Member] = {}
        self._looks: list[tuple[float, int, str]] = []
        self._count = 0
        self._now = float("-inf")
        self._asleep = 0.0
        """How long this process was itself away: its time runs behind the caller's by as much."""

    # -- what is heard -------------------------------------------------------------------------------------------------------

    def registered(self, name: str, incarnation: int, now: float, kind: Kind = Kind.NODE) -> list[Change]:
        """It was accepted, perhaps again."""
        at, member = self._time(now), self.members.get(name)
        if member is None:
            if (full := self._make_room(name)) is not None:
                return [full]
            self._schedule(self._add(Member(name, kind, incarnation, Presence.JOINED, at)))
        elif self._refuses(member, incarnation):
            return [Fence(name, incarnation, member.incarnation)]
        elif incarnation > member.incarnation:
            member.presence = advance(member.presence, Sign.REGISTERED)
            member.incarnation, member.kind, member.heard, member.closed, member.load = incarnation, kind, at, None, None
            self._schedule(member)
        else:
            member.closed = None  # it came on a connection, so there is one
        return []

    def expected(self, name: str, incarnation: int, now: float, kind: Kind = Kind.NODE) -> list[Change]:
        """It was a member before this head started: it has the usual grace to come back."""
        if (full := self._make_room(name)) is not None:
            return [full]
        self._schedule(self._add(Member(name, kind, incarnation, Presence.SUSPECT, self._time(now))))
        return []

    def beat(self, name: str, incarnation: int, now: float, load: object = None) -> list[Change]:
        member = self.members.get(name)
        if member is None or incarnation > member.incarnation:
            return [Unknown(name, incarnation)]
        if incarnation < member.incarnation or member.presence in GONE:
            return [Fence(name, incarnation, member.incarnation)]
        member.heard, member.closed, member.load = self._time(now), None, load
        before, member.presence = member.presence, TABLE[member.presence, Sign.BEAT]
        if before is not Presence.SUSPECT:
            return []
        self._schedule(member)  # from now on it is looked at after less silence than before
        return [Recovered(name, incarnation)]

    def link_down(self, name: str, now: float) -> list[Change]:
        """The connection it used is closed."""
        at, member = self._time(now), self.members.get(name)
        if member is None or member.presence in GONE or member.closed is not None:
            return []
        member.closed = at
        self._schedule(member)
        return self._suspect(member, "its connection closed")

    def link_up(self, name: str, now: float) -> list[Change]:
        """It has a connection again; that it can be told something it proves by the next beat."""
        self._time(now)
        if (member := self.members.get(name)) is not None:
            member.closed = None
        return []

    def drain(self, name: str) -> list[Change]:
        if (member := self.members.get(name)) is not None and member.presence not in GONE:
            member.presence = advance(member.presence, Sign.DRAIN)
        return []

    def left(self, name: str) -> list[Change]:
        """It said goodbye. Its incarnation cannot come back."""
        if (member := self.members.get(name)) is not None and member.presence not in GONE:
            member.presence, member.look = advance(member.presence, Sign.LEAVE), None
        return []

    # -- what is not heard ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Change]:
        """Whoever is silent for too long by now."""
        at, changes = self._time(now), list[Change]()
        while self._settle() and self._looks[0][0] <= at:
            _, _, name = heapq.heappop(self._looks)
            member = self.members[name]
            member.look = None
            if at >= self._end(member):
                changes.append(self._lose(member))
                continue
            changes += self._suspect(member, f"no heartbeat for {at - member.heard:.1f} s")
            self._schedule(member)
        return changes

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None when it never has. In the caller's time."""
        if not self._settle():
            return None
        due = self._looks[0][0]
        then = due + self._asleep
        return then if then - self._asleep >= due else math.nextafter(then, math.inf)  # rounding must not make it come too early

    def alive(self, kind: Kind = Kind.NODE) -> Iterator[Member]:
        """Those that can be given something."""
        return (m for m in self.members.values() if m.presence is Presence.ALIVE and m.kind is kind)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _time(self, now: float) -> float:
        at = now - self._asleep
        if at - self._now > self.heartbeat and self._settle():
            late = at - max(self._looks[0][0], self._now)
            if late > self.heartbeat:
                self._asleep += late
                at -= late
        self._now = max(self._now, at)
        return self._now

    @staticmethod
    def _refuses(member: Member, incarnation: int) -> bool:
        return incarnation < member.incarnation or (incarnation == member.incarnation and member.presence in GONE)

    def _add(self, member: Member) -> Member:
        self.members[member.name] = member
        return member

    def _make_room(self, name: str) -> Full | None:
        if len(self.members) < self.capacity:
            return None
        gone = next((m.name for m in self.members.values() if m.presence in GONE), None)
        if gone is None:
            return Full(name, f"the cluster has {self.capacity:,} members, as many as it can have")
        del self.members[gone]
        return None

    def _suspect(self, member: Member, reason: str) -> list[Change]:
        before, member.presence = member.presence, advance(member.presence, Sign.SILENT)
        return [] if before is member.presence else [Suspected(member.name, member.incarnation, reason)]

    def _lose(self, member: Member) -> Lost:
        why = f"no heartbeat for {self.grace:.1f} s"
        if member.closed is not None and member.closed + self.closed < member.heard + self.grace:
            why = f"its connection closed and did not come back within {self.closed:.1f} s"
        member.presence = advance(member.presence, Sign.GIVEN_UP)
        return Lost(member.name, member.incarnation, why)

    def _end(self, member: Member) -> float:
        """When it is lost, if nothing is heard until then."""
        end = member.heard + self.grace
        return end if member.closed is None else min(end, member.closed + self.closed)

    def _due(self, member: Member) -> float:
        """When something is to be done about it, if nothing is heard until then."""
        if member.presence in (Presence.JOINED, Presence.ALIVE):
            return min(member.heard + self.silence, self._end(member))
        return self._end(member)

    def _schedule(self, member: Member) -> None:
        """An entry for its deadline, unless it has an earlier one, which then moves when it comes up."""
        due = self._due(member)
        if member.look is None or due < member.look[0]:
            self._count += 1
            member.look = due, self._count
            heapq.heappush(self._looks, (due, self._count, member.name))
            if len(self._looks) > 4 * len(self.members) + 64:
                self._looks = [(m.look[0], m.look[1], m.name) for m in self.members.values() if m.look is not None]
                heapq.heapify(self._looks)

    def _settle(self) -> bool:
        """Make the first entry one that counts, at its true time. Beats only note the time: this is where they move a deadline."""
        while self._looks:
            time, count, name = self._looks[0]
            member = self.members.get(name)
            if member is None or member.look != (time, count):
                heapq.heappop(self._looks)
            elif (due := self._due(member)) > time:
                member.look = due, count
                heapq.heapreplace(self._looks, (due, count, name))
            else:
                return True
        return False
