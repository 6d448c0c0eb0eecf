"""Every message of the wire, one frozen dataclass each, by who reads it. Numbers are append-only.

A message is a header; most carry a value behind it (see `transport.values`): `[header] [segments] [body] [buffer]…`.
Field types are exact, all the way down (see `transport.frames`): a header is refused when a field has another.
Those between machines are registered when they are first used: a cluster of one machine neither has nor reads them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from soma.transport import frames
from soma.transport.messages.daemon import ActorReady as ActorReady
from soma.transport.messages.daemon import Ask as Ask
from soma.transport.messages.daemon import Blocked as Blocked
from soma.transport.messages.daemon import CheckPlacing as CheckPlacing
from soma.transport.messages.daemon import CreateActor as CreateActor
from soma.transport.messages.daemon import FindActor as FindActor
from soma.transport.messages.daemon import Hello as Hello
from soma.transport.messages.daemon import Kill as Kill
from soma.transport.messages.daemon import LeaseWorker as LeaseWorker
from soma.transport.messages.daemon import Leaving as Leaving
from soma.transport.messages.daemon import ReturnWorker as ReturnWorker
from soma.transport.messages.daemon import Unblocked as Unblocked
from soma.transport.messages.daemon import Watch as Watch
from soma.transport.messages.mailbox import CANCELLED as CANCELLED
from soma.transport.messages.mailbox import END as END
from soma.transport.messages.mailbox import ERROR as ERROR
from soma.transport.messages.mailbox import OK as OK
from soma.transport.messages.mailbox import ActorUpdate as ActorUpdate
from soma.transport.messages.mailbox import Answer as Answer
from soma.transport.messages.mailbox import Call as Call
from soma.transport.messages.mailbox import Cause as Cause
from soma.transport.messages.mailbox import Credit as Credit
from soma.transport.messages.mailbox import Deadlock as Deadlock
from soma.transport.messages.mailbox import Notes as Notes
from soma.transport.messages.mailbox import ObjectValue as ObjectValue
from soma.transport.messages.mailbox import Reply as Reply
from soma.transport.messages.mailbox import Said as Said
from soma.transport.messages.mailbox import Stop as Stop
from soma.transport.messages.placement import CreateGroup as CreateGroup
from soma.transport.messages.placement import RemoveGroup as RemoveGroup
from soma.transport.messages.side import Cancel as Cancel
from soma.transport.messages.side import Event as Event
from soma.transport.messages.side import Fetch as Fetch
from soma.transport.messages.side import Hold as Hold
from soma.transport.messages.side import LogLines as LogLines
from soma.transport.messages.side import PeerDied as PeerDied

if TYPE_CHECKING:
    from soma.transport.messages.control import Beat as Beat
    from soma.transport.messages.control import Drain as Drain
    from soma.transport.messages.control import Fenced as Fenced
    from soma.transport.messages.control import Heartbeat as Heartbeat
    from soma.transport.messages.control import Join as Join
    from soma.transport.messages.control import Leave as Leave
    from soma.transport.messages.control import Query as Query
    from soma.transport.messages.control import Refused as Refused
    from soma.transport.messages.control import Register as Register
    from soma.transport.messages.control import Registered as Registered
    from soma.transport.messages.control import Report as Report
    from soma.transport.messages.control import Shutdown as Shutdown
    from soma.transport.messages.control import Welcome as Welcome
    from soma.transport.messages.node import ConfirmEnd as ConfirmEnd
    from soma.transport.messages.node import Detach as Detach
    from soma.transport.messages.node import EndProcess as EndProcess
    from soma.transport.messages.node import Exited as Exited
    from soma.transport.messages.node import ForgetActor as ForgetActor
    from soma.transport.messages.node import Halted as Halted
    from soma.transport.messages.node import Kept as Kept
    from soma.transport.messages.node import Launch as Launch
    from soma.transport.messages.node import LogPart as LogPart
    from soma.transport.messages.node import Look as Look
    from soma.transport.messages.node import Looked as Looked
    from soma.transport.messages.node import ReadLog as ReadLog
    from soma.transport.messages.node import Spawned as Spawned

_CONTROL = frozenset((
    "Beat", "Drain", "Fenced", "Heartbeat", "Join", "Leave", "Query", "Refused", "Register", "Registered", "Report", "Shutdown",
    "Welcome",
))
_NODE = frozenset((
    "ConfirmEnd", "Detach", "EndProcess", "Exited", "ForgetActor", "Halted", "Kept", "Launch", "LogPart", "Look", "Looked", "ReadLog",
    "Spawned",
))


def __getattr__(name: str) -> Any:
    home = "control" if name in _CONTROL else "node" if name in _NODE else ""
    if not home:
        raise AttributeError(f"there is no message {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"soma.transport.messages.{home}"), name)
    return value


def catalogue() -> list[tuple[int, type]]:
    """Every message, by number (docs/protocol.md is written from it)."""
    for home in ("control", "node"):
        importlib.import_module(f"soma.transport.messages.{home}")
    return frames.registered()
