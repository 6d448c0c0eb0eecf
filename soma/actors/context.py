"""What a process and the code in it know of themselves: who this process is, which call runs."""

from __future__ import annotations

import contextvars
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from soma.actors.engine import HandleInfo
from soma.transport.messages import Call


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is. `role` is "driver" or "actor"; `totals` what the cluster has."""

    peer: str
    role: str
    node: str
    namespace: str
    totals: Mapping[str, float]
    actor: HandleInfo | None = None


CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("soma_call", default=None)
"""The call that the current thread or coroutine runs."""


INTERRUPT = signal.SIGURG
"""Ignored by default, used by nobody else: makes the main thread look whether its call was cancelled."""


class LeaveActor(BaseException):
    """Raised by `exit_actor()`; ends the actor's process from its main loop."""


class Interrupted(KeyboardInterrupt):
    """Raised in the user's code when its call is cancelled, as Ctrl-C would be."""


def exit_code(e: BaseException) -> int:
    """What a process that ends by `e` returns, as Python itself has it: a text is printed and means 1."""
    code = e.code if isinstance(e, SystemExit) else 0
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1
