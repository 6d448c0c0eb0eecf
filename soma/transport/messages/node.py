"""Messages between the head and its machines, over the data plane: orders, and what came of them.

`key` is a process's peer without its address (`<actor>.<incarnation>`); `incarnation` is the machine's. Orders carry `number`, which
only rises: a machine starts nothing on an order that is older than one it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from soma.transport.frames import Name, Natural, message


def _is_number(value: int, left: int) -> bool:
    return 0 <= value < 1 << 63


Number = Annotated[int, _is_number]


@message(90)
@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process; `order` has the fields of `daemon.orders.Order`."""

    incarnation: Natural
    number: Number
    key: Name
    order: dict[str, Any]


@message(91)
@dataclass(frozen=True, slots=True)
class EndProcess:
    """Kill it."""

    incarnation: Natural
    number: Number
    key: Name


@message(92)
@dataclass(frozen=True, slots=True)
class ConfirmEnd:
    """Its end is known: it need not be told again."""

    incarnation: Natural
    number: Number
    key: Name


@message(93)
@dataclass(frozen=True, slots=True)
class Look:
    """What does its black box say? Answered by Looked."""

    request: bytes
    key: Name


@message(94)
@dataclass(frozen=True, slots=True)
class ForgetActor:
    """It is gone for good: its cores, and what it saved."""

    actor: Name


@message(95)
@dataclass(frozen=True, slots=True)
class Spawned:
    """It runs, as process `pid`, on `cores` only if that is not empty."""

    node: str
    incarnation: Natural
    key: Name
    pid: Natural
    cores: tuple[Natural, ...]


@message(96)
@dataclass(frozen=True, slots=True)
class Halted:
    """A signal stopped it, or it goes on."""

    node: str
    key: Name
    stopped: bool


@message(97)
@dataclass(frozen=True, slots=True)
class Exited:
    """It is over. `detail` has the fields of `daemon.orders.Exit`, or says under "never" why it never ran."""

    node: str
    incarnation: Natural
    key: Name
    detail: dict[str, Any]


@message(98)
@dataclass(frozen=True, slots=True)
class Looked:
    """What a black box says: fingerprints of the calls begun and of the one that runs. `there` is False if it has no process."""

    request: bytes
    there: bool
    begun: bytes
    running: bytes


@message(99)
@dataclass(frozen=True, slots=True)
class Detach:
    """A driver leaves: what it created ends."""

    peer: Name


@message(100)
@dataclass(frozen=True, slots=True)
class ReadLog:
    """What did it print, from this byte on? A negative `offset` counts from the end. Answered by LogPart."""

    request: bytes
    key: Name
    offset: int


@message(101)
@dataclass(frozen=True, slots=True)
class LogPart:
    """A piece of a log, in one raw frame; `end` is the offset behind it. `there` is False if it printed nothing."""

    request: bytes
    there: bool
    end: Number


@message(102)
@dataclass(frozen=True, slots=True)
class Kept:
    """For these actors, none of which has a process there, the machine still keeps cores and what they saved. ForgetActor answers for
    those that are gone, or elsewhere now: the word of it may have been lost with a head, or with an earlier incarnation of the machine."""

    node: str
    actors: tuple[Name, ...]
