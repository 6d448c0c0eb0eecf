"""Messages read from a process's mailbox, by the thread that waits: they may be behind the user's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.transport.frames import CallKey, Name, Natural, message

Notes = tuple[tuple[bytes, Name, str], ...]
"""Refs inside the value: object id, owner, producer. They are already counted for the receiver."""

Cause = tuple[str, int | None, str | None, int, str, str, int, int, bool]
"""The fields of a `DeathCause`."""


@message(1)
@dataclass(frozen=True, slots=True)
class Call:
    """Run a method. The value behind it is `(args, kwargs)`."""

    call_id: CallKey
    caller: Name
    method: str
    num_returns: int
    """-1 streams."""
    attempt: int
    deadline_ms: int | None
    refs: Notes


OK, ERROR, CANCELLED, END = range(4)


@message(2)
@dataclass(frozen=True, slots=True)
class Reply:
    """One return value of a call (or its only error). `status` is OK, ERROR, CANCELLED or END (of a stream)."""

    call_id: CallKey
    index: Natural
    status: int
    last: bool
    refs: Notes


@message(3)
@dataclass(frozen=True, slots=True)
class Credit:
    """The consumer of a stream took items: the producer may be `taken` + its window ahead."""

    call_id: CallKey
    taken: Natural


@message(4)
@dataclass(frozen=True, slots=True)
class ObjectValue:
    """Answer to Fetch. `status` is OK or ERROR; the value follows."""

    object_id: bytes
    status: int
    refs: Notes


@message(5)
@dataclass(frozen=True, slots=True)
class ActorUpdate:
    """The daemon tells watchers what became of an actor.

    `state` is a `Phase` value; `history` holds earlier causes. The first frame behind it holds the calls that the dead
    incarnation had begun, 8 bytes each (`calls.fingerprint`); a value after it, the constructor's exception.
    """

    actor: Name
    incarnation: Natural
    state: str
    cause: Cause | tuple[()]
    history: tuple[Cause, ...]
    peer: str
    """The full name of its process, while it has one that is ready; "" else."""


@message(6)
@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a question, the daemon's or to the daemon. `error` is "" or an exception's name, with its `text`; a body may follow."""

    request: bytes
    error: str
    text: str
    fields: dict[str, Any]


@message(7)
@dataclass(frozen=True, slots=True)
class Deadlock:
    """Your wait number `epoch` is part of the cycle that `text` names."""

    epoch: Natural
    text: str


@message(8)
@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what is queued, then leave."""

    reason: str


@message(9)
@dataclass(frozen=True, slots=True)
class Said:
    """A call that still runs tells its caller something: plain data, in the order said, and before its last reply."""

    call_id: CallKey
    fields: dict[str, Any]
