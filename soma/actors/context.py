"""What a process and the code in it know of themselves: who this process is, which call runs."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass

from soma.actors.engine import HandleInfo


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is. `role` is "driver" or "actor"; `totals` what the cluster has."""

    peer: str
    role: str
    node: str
    namespace: str
    totals: Mapping[str, float]
    actor: HandleInfo | None = None


@dataclass(frozen=True, slots=True)
class CallContext:
    """The call that the current thread or coroutine runs."""

    call_id: bytes
    attempt: int
    caller: str


CALL: contextvars.ContextVar[CallContext | None] = contextvars.ContextVar("soma_call", default=None)


class LeaveActor(BaseException):
    """Raised by `exit_actor()`; ends the actor's process from its main loop."""


class Interrupted(KeyboardInterrupt):
    """Raised in the user's code when its call is cancelled, as Ctrl-C would be."""
