"""Messages read by the daemon, by its only thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.transport.frames import Name, Natural, message
from soma.transport.messages.mailbox import Notes


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
    """A question with a plain answer: what = "status", "available", "machines", "events" (subscribe), "shutdown"; to a side mailbox
    "holdings"."""

    request: bytes
    peer: Name
    what: str


@message(52)
@dataclass(frozen=True, slots=True)
class CheckPlacing:
    """Could this ever run? Asked where machines come and go; answered by Answer, with a PlacementError if not."""

    request: bytes
    peer: Name
    who: str
    options: dict[str, Any]
