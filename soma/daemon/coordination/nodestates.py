"""The states of a node's session as a table, (state, event) → state, and what a `NodeSession` tells its shell to do.

Refuses: an event that a state does not know is a bug and raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    JOINING = "joining"
    """Nothing runs here; asks to be accepted."""
    REGISTERED = "registered"
    CUT_OFF = "cut off"
    """What runs goes on; nothing starts; registers again."""
    FENCED = "fenced"
    """Declared lost: ends all that runs, then joins as another incarnation."""
    DRAINING = "draining"
    """What runs goes on; nothing starts; leaves when it has nothing left."""
    LEAVING = "leaving"
    """Ends all that runs, and then itself."""
    GONE = "gone"


class Event(Enum):
    ACCEPTED = "accepted"
    CUT = "nothing heard of the head"
    REFUSED = "refused by the head"
    DRAIN = "asked to drain"
    LEAVE = "asked to leave at once"
    EMPTY = "nothing left to run or tell"


_LIVING = (State.JOINING, State.REGISTERED, State.CUT_OFF, State.FENCED, State.DRAINING, State.LEAVING)

TABLE: dict[tuple[State, Event], State] = {
    (State.JOINING, Event.ACCEPTED): State.REGISTERED,
    (State.JOINING, Event.REFUSED): State.JOINING,
    (State.JOINING, Event.DRAIN): State.LEAVING,
    (State.REGISTERED, Event.CUT): State.CUT_OFF,
    (State.REGISTERED, Event.REFUSED): State.FENCED,
    (State.REGISTERED, Event.DRAIN): State.DRAINING,
    (State.CUT_OFF, Event.ACCEPTED): State.REGISTERED,
    (State.CUT_OFF, Event.REFUSED): State.FENCED,
    (State.CUT_OFF, Event.DRAIN): State.CUT_OFF,
    (State.FENCED, Event.REFUSED): State.FENCED,
    (State.FENCED, Event.DRAIN): State.FENCED,
    (State.FENCED, Event.EMPTY): State.JOINING,
    (State.DRAINING, Event.CUT): State.CUT_OFF,
    (State.DRAINING, Event.REFUSED): State.FENCED,
    (State.DRAINING, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.EMPTY): State.LEAVING,
    (State.LEAVING, Event.EMPTY): State.GONE,
    **{(state, Event.LEAVE): State.LEAVING for state in _LIVING},
}


def advance(state: State, event: Event) -> State:
    """The next state; a pair that is not in the table raises."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise AssertionError(f"a node that is {state.value} cannot have happen: {event.value}") from None


@dataclass(frozen=True, slots=True)
class SendJoin:
    """Ask for what is needed to take part; `welcome` answers."""


@dataclass(frozen=True, slots=True)
class SendRegister:
    incarnation: int
    registration: int
    alive: frozenset[str]


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    incarnation: int
    draining: bool


@dataclass(frozen=True, slots=True)
class SendLeave:
    incarnation: int


@dataclass(frozen=True, slots=True)
class Start:
    key: str


@dataclass(frozen=True, slots=True)
class End:
    """Kill it, also if it is just being started."""

    key: str


@dataclass(frozen=True, slots=True)
class EndAll:
    """Kill everything that was started and has not ended."""


@dataclass(frozen=True, slots=True)
class TellStarted:
    key: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class TellExited:
    key: str
    incarnation: int
    detail: object


@dataclass(frozen=True, slots=True)
class TellPrinted:
    lines: object
    """As `printed` got them."""


@dataclass(frozen=True, slots=True)
class TellDropped:
    """So many bytes of printed lines could not be kept."""

    size: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call `tick` then, and no earlier one that was asked for."""

    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing is left to do."""


Instruction = (SendJoin | SendRegister | SendHeartbeat | SendLeave | Start | End | EndAll
               | TellStarted | TellExited | TellPrinted | TellDropped | SetTimer | Stop)


class NeverRan(Enum):
    """The `detail` of what ended here without having been started."""

    UNKNOWN = "it was never started here, or is long over"
    DRAINING = "its node takes nothing new"
