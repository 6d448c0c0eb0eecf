"""Events of the cluster: its actors and machines, and those that somebody published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorEvent(Event):
    """What the events of actors have in common. `node_id` is the machine; `restarts` how often the actor was made anew."""

    actor_id: str
    class_name: str = ""
    name: str | None = None
    incarnation: int = 0
    node_id: str = ""
    pid: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStarted(ActorEvent):
    """A process was made for an actor; its constructor may still run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDied(ActorEvent):
    """Its process is gone; `reason`, `signal` and `exit_code` as in `DeathCause`."""

    reason: str = ""
    signal: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRestarted(ActorEvent):
    """It will be made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStopped(ActorEvent):
    """SIGSTOP: it answers nothing until it is continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorContinued(ActorEvent):
    """SIGCONT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined(Event):
    """A machine joined the cluster."""

    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSuspected(Event):
    """A machine is silent, or its connection closed; it is lost if it stays so."""

    node_id: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Event):
    """A machine is gone, and the processes of its actors with it."""

    node_id: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom(Event):
    """Somebody's own event, published with a name that soma does not know."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
