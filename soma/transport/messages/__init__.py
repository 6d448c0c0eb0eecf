"""Every message of the wire, one frozen dataclass each, by who reads it. Numbers are append-only.

A message is a header; most carry a value behind it (see `transport.values`): `[header] [segments] [body] [buffer]…`.
Field types are exact, all the way down (see `transport.frames`): a header is refused when a field has another.
"""

from __future__ import annotations

from soma.transport.messages.daemon import ActorReady as ActorReady
from soma.transport.messages.daemon import Ask as Ask
from soma.transport.messages.daemon import Blocked as Blocked
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
from soma.transport.messages.side import Cancel as Cancel
from soma.transport.messages.side import Event as Event
from soma.transport.messages.side import Fetch as Fetch
from soma.transport.messages.side import Hold as Hold
from soma.transport.messages.side import LogLines as LogLines
from soma.transport.messages.side import PeerDied as PeerDied
