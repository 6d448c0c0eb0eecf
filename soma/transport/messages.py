"""Every message of the wire, one frozen dataclass each. Numbers are append-only.

A message is a header; most carry a value behind it (see `transport.values`): `[header] [segments] [body] [buffer]…`.
Field types are exact, all the way down (see `transport.frames`): a header is refused when a field has another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.transport.frames import CallKey, Name, Natural, message

Notes = tuple[tuple[bytes, Name, str], ...]
"""Refs inside the value: object id, owner, producer. They are already counted for the receiver."""

Cause = tuple[str, int | None, str | None, int, str, str, int, int, bool]
"""The fields of a `DeathCause`."""

# -- between callers and actors, read from the mailbox ----------------------------------------------------------------


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


# -- read by the side thread -------------------------------------------------------------------------------------------


@message(20)
@dataclass(frozen=True, slots=True)
class Cancel:
    """Interrupt a call, or drop it from the queue."""

    call_id: CallKey


@message(21)
@dataclass(frozen=True, slots=True)
class Fetch:
    """Send me this value when it is settled; answered by ObjectValue."""

    object_id: bytes
    peer: Name


@message(22)
@dataclass(frozen=True, slots=True)
class Hold:
    """`holder` holds `delta` more (or fewer) references to a value that the receiver owns."""

    object_id: bytes
    holder: Name
    delta: int


@message(23)
@dataclass(frozen=True, slots=True)
class PeerDied:
    """A process is gone: its leases and references return."""

    peer: Name


@message(24)
@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines that an actor printed; `stream` is "stdout" or "stderr"."""

    label: str
    pid: Natural
    stream: str
    lines: tuple[str, ...]
    dropped: Natural


@message(25)
@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in the cluster; plain data."""

    fields: dict[str, Any]


# -- to the daemon -----------------------------------------------------------------------------------------------------


@message(40)
@dataclass(frozen=True, slots=True)
class Hello:
    """A driver or actor process is there."""

    peer: Name
    pid: Natural
    role: str


@message(41)
@dataclass(frozen=True, slots=True)
class CreateActor:
    """Make an actor. `options` are the placing ones; the value behind it is `(cls, args, kwargs, groups)`, kept unread."""

    request: bytes
    actor: Name
    creator: Name
    class_name: str
    options: dict[str, Any]
    refs: Notes
    info: bytes
    """The pickled HandleInfo, for those who find the actor by name; the daemon never unpickles it."""


@message(42)
@dataclass(frozen=True, slots=True)
class Watch:
    """Tell me what becomes of this actor."""

    actor: Name
    peer: Name


@message(43)
@dataclass(frozen=True, slots=True)
class Kill:
    """End an actor. `reason` is a DeathCause reason; `graceful` lets it finish its queue first."""

    actor: Name
    no_restart: bool
    reason: str
    graceful: bool


@message(44)
@dataclass(frozen=True, slots=True)
class FindActor:
    """Who has this name?"""

    request: bytes
    peer: Name
    name: str
    namespace: str


@message(45)
@dataclass(frozen=True, slots=True)
class Blocked:
    """The sender waits for calls of other actors: `on` is a tuple of (actor, call id). It gives its CPU back meanwhile."""

    peer: Name
    epoch: Natural
    on: tuple[tuple[str, bytes], ...]
    every: bool


@message(46)
@dataclass(frozen=True, slots=True)
class Unblocked:
    peer: Name
    epoch: Natural


@message(47)
@dataclass(frozen=True, slots=True)
class ActorReady:
    """The constructor returned (or raised: then `error` is set and its exception is the value behind)."""

    actor: Name
    incarnation: Natural
    error: str


@message(48)
@dataclass(frozen=True, slots=True)
class Leaving:
    """This process ends by its own will; `reason` is "exit_actor", "exited" or "init"."""

    peer: Name
    reason: str
    exit_code: int


@message(49)
@dataclass(frozen=True, slots=True)
class LeaseWorker:
    """Lend me a task actor with these resources; answered by Answer with its actor id."""

    request: bytes
    peer: Name
    options: dict[str, Any]


@message(50)
@dataclass(frozen=True, slots=True)
class ReturnWorker:
    """A lent task actor, or a request for one, is not needed any more."""

    peer: Name
    actor: str
    request: bytes


@message(51)
@dataclass(frozen=True, slots=True)
class Ask:
    """A question with a plain answer: what = "status", "available", "events" (subscribe), "shutdown"; to a side mailbox "holdings"."""

    request: bytes
    peer: Name
    what: str
