"""Names of things. All ids are short ASCII strings or bytes, unique without coordination.

A process id is 16 hex digits; a call id is the caller's 8 bytes followed by an 8-byte counter, so it is unique, sortable
per caller, and costs no random bits per call. An object is a call id and the index of the return value (20 hex-able bytes).
"""

from __future__ import annotations

import itertools
import secrets
from typing import NewType

ActorId = NewType("ActorId", str)
"""16 hex digits; the same over all restarts of an actor."""

PeerId = NewType("PeerId", str)
"""One process that has a mailbox: an actor's incarnation (`<actor id>.<n>`), a driver, the daemon (`daemon`)."""

CallId = NewType("CallId", bytes)
"""16 bytes: 8 of the calling process, 8 of its counter (big endian)."""

ObjectId = NewType("ObjectId", bytes)
"""20 bytes: a call id and a 4-byte index; what a ref names."""

NodeId = NewType("NodeId", str)

DAEMON = PeerId("daemon")


def new_hex() -> str:
    """16 random hex digits."""
    return secrets.token_hex(8)


def new_actor_id() -> ActorId:
    return ActorId(new_hex())


def incarnation_peer(actor: ActorId, incarnation: int) -> PeerId:
    """The peer name under which incarnation `incarnation` (0, 1, …) of an actor is addressed."""
    return PeerId(f"{actor}.{incarnation}")


def object_id(call: CallId, index: int = 0) -> ObjectId:
    return ObjectId(call + index.to_bytes(4, "big"))


class CallIds:
    """Call ids of one process, for all of its threads."""

    def __init__(self) -> None:
        self._prefix = secrets.token_bytes(8)
        self._numbers = itertools.count(1)  # its next() is one step: two threads never get the same

    def __call__(self) -> CallId:
        return CallId(self._prefix + next(self._numbers).to_bytes(8, "big"))
