"""How refs and handles travel inside values: as names, rebuilt by whichever engine runs where they arrive.

Importing this module registers the reducers with the codec. Each leaves the live object among the notes of the encoded value,
so that whoever keeps the bytes also keeps what they name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.actors import current
from soma.actors.engine import Engine, HandleInfo
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.config import KIB
from soma.errors import NotInitializedError, ObjectLostError
from soma.ids import ActorId, ObjectId
from soma.transport import codec
from soma.transport.codec import decode
from soma.transport.values import Parcel, open_parcel

_HANDLES = b"\xff\xff\xff\xff"

Note = tuple[bytes, str, str]
"""What a message says of a ref or handle inside a value: object id, owner, producer."""


def handle_object(actor: ActorId) -> ObjectId:
    """The object that stands for an actor's handles; counted like any other by the actor's creator."""
    return ObjectId(actor.encode() + _HANDLES)


def actor_of(id: ObjectId) -> ActorId | None:
    """The actor whose handles an id counts; None for ordinary values."""
    return ActorId(id[:16].decode()) if id.endswith(_HANDLES) else None


def note_of(thing: Any) -> Note:
    """The note of a live ref or handle; one that is a note already stays as it is."""
    if isinstance(thing, ObjectRef):
        return bytes(thing.id), thing.owner, thing.producer
    if isinstance(thing, ActorHandle):
        info = thing._info
        return bytes(handle_object(info.actor)), info.creator, info.actor
    id, owner, producer = thing
    return id, owner, producer


def _engine() -> Engine:
    engine = current.peek()
    if engine is None:
        raise NotInitializedError("a ref or a handle arrived where no cluster runs")
    return engine


def _rebuild_ref(id: ObjectId, owner: str, producer: str) -> ObjectRef[Any]:
    return _engine().rebuild_ref(id, owner, producer)


def _rebuild_handle(info: HandleInfo) -> ActorHandle[Any]:
    return ActorHandle(info, _engine())


def _reduce_ref(ref: ObjectRef[Any], notes: list[object]) -> tuple[Any, ...]:
    if ref._home is not current.peek():
        raise ObjectLostError("it belongs to a cluster that was shut down")
    notes.append(ref)
    return _rebuild_ref, (ref.id, ref.owner, ref.producer)


def _reduce_handle(handle: ActorHandle[Any], notes: list[object]) -> tuple[Any, ...]:
    if handle._engine is not current.peek():
        raise ObjectLostError("its actor belongs to a cluster that was shut down")
    notes.append(handle)
    return _rebuild_handle, (handle._info,)


@dataclass(frozen=True, slots=True)
class Inlined:
    """An encoded value inside another one: unpickled as the value itself, and never decoded on the way."""

    parcel: Parcel


INLINED = 64 * KIB
"""Values up to this many bytes go with the call that takes them."""


def may_inline(parcel: Parcel) -> bool:
    """Whether a value lies in this process's own memory, is small, and holds no refs (which would have to be counted)."""
    return parcel.block is None and not parcel.notes and parcel.size <= INLINED


def _reduce_inlined(inlined: Inlined, notes: list[object]) -> tuple[Any, ...]:
    p = inlined.parcel
    return (decode, (p.body,)) if not p.places else (_open_inlined, (p.body, p.places, p.inline))


def _open_inlined(body: bytes, places: tuple[tuple[int, int], ...], inline: bytes) -> Any:
    return open_parcel(Parcel(body, places, inline))


codec.register(ObjectRef, _reduce_ref)
codec.register(Inlined, _reduce_inlined)
codec.register(ActorHandle, _reduce_handle)
