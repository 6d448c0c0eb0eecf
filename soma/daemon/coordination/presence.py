"""The states of a member as a table, (state, sign) → state, and the changes that a `Membership` tells.

Refuses: a sign that a state does not know is a bug and raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    NODE = "node"
    DRIVER = "driver"


class Presence(Enum):
    JOINED = "joined"
    """Accepted; it has not said yet that it knows."""
    ALIVE = "alive"
    SUSPECT = "suspect"
    """Silent, or without a connection. It keeps what it has and gets nothing new."""
    DRAINING = "draining"
    """Finishes what it has and gets nothing new."""
    LOST = "lost"
    LEFT = "left"


class Sign(Enum):
    """What is seen of a member."""

    BEAT = "a heartbeat"
    SILENT = "silent, or its connection closed"
    DRAIN = "wants to drain"
    GIVEN_UP = "silent for too long"
    LEAVE = "said goodbye"
    REGISTERED = "registered as another incarnation"


TABLE: dict[tuple[Presence, Sign], Presence] = {
    (Presence.JOINED, Sign.BEAT): Presence.ALIVE,
    (Presence.JOINED, Sign.SILENT): Presence.SUSPECT,
    (Presence.JOINED, Sign.DRAIN): Presence.DRAINING,
    (Presence.ALIVE, Sign.BEAT): Presence.ALIVE,
    (Presence.ALIVE, Sign.SILENT): Presence.SUSPECT,
    (Presence.ALIVE, Sign.DRAIN): Presence.DRAINING,
    (Presence.SUSPECT, Sign.BEAT): Presence.ALIVE,
    (Presence.SUSPECT, Sign.SILENT): Presence.SUSPECT,
    (Presence.SUSPECT, Sign.DRAIN): Presence.DRAINING,
    (Presence.DRAINING, Sign.BEAT): Presence.DRAINING,
    (Presence.DRAINING, Sign.SILENT): Presence.DRAINING,
    (Presence.DRAINING, Sign.DRAIN): Presence.DRAINING,
    **{(here, Sign.GIVEN_UP): Presence.LOST for here in (Presence.JOINED, Presence.ALIVE, Presence.SUSPECT, Presence.DRAINING)},
    **{(here, Sign.LEAVE): Presence.LEFT for here in (Presence.JOINED, Presence.ALIVE, Presence.SUSPECT, Presence.DRAINING)},
    **{(here, Sign.REGISTERED): Presence.JOINED for here in Presence},
}

GONE = frozenset({Presence.LOST, Presence.LEFT})
"""Nothing is heard of these again: they come back as another incarnation."""


def advance(presence: Presence, sign: Sign) -> Presence:
    """The next state; a pair that is not in the table raises."""
    try:
        return TABLE[presence, sign]
    except KeyError:
        raise AssertionError(f"a member that is {presence.value} cannot be seen: {sign.value}") from None


@dataclass(frozen=True, slots=True)
class Suspected:
    member: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    member: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Lost:
    member: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Tell this incarnation that it is refused for ever; the next must be higher than `seen`."""

    member: str
    incarnation: int
    seen: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """It beats, but never registered with this head: tell it to register."""

    member: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Full:
    """No room for another member: refuse it, saying why."""

    member: str
    reason: str


Change = Suspected | Recovered | Lost | Fence | Unknown | Full


@dataclass(slots=True)
class Member:
    """One member, as last seen."""

    name: str
    kind: Kind
    incarnation: int
    presence: Presence
    heard: float
    """When it last beat, or was accepted."""
    closed: float | None = None
    """Since when it has no connection."""
    load: object = None
    look: tuple[float, int] | None = field(default=None, repr=False)
    """The entry of the heap that counts for it: never later than its deadline."""
