"""A value between two processes: from what the codec made to the frames behind a header, and back.

    [body]                              a value without buffers
    [segments] [body] [buffer]...
    segments: msgpack [grant | nil, [nil | [offset, length], ...]], one entry per buffer: nil takes the next frame, a pair
    lies in the granted block of the sender's arena.

A `Parcel` is a snapshot: it shares no memory with the value it came from. Each `open` gives a private, writable copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from soma.config import LIMITS
from soma.errors import ObjectTooLargeError, ProtocolError
from soma.transport.arena import Arena, Block, Grant
from soma.transport.codec import Packed, decode

Place = tuple[int, int] | None


@dataclass(slots=True, eq=False)
class Parcel:
    """An encoded value in this process's hands: waiting to be sent, kept under a ref, or just arrived."""

    body: bytes
    places: tuple[Place, ...] = ()
    """One entry per buffer: None for the next of `inline`, else (offset, length) in `block`."""
    inline: tuple[bytes, ...] = ()
    block: Block | None = None
    notes: tuple[Any, ...] = ()
    """Refs inside: live objects when packed here, wire tuples when received."""

    @property
    def size(self) -> int:
        return len(self.body) + sum(map(len, self.inline)) + (self.block.length if self.block else 0)


def parcel(packed: Packed, arena: Arena | None) -> Parcel:
    """Copy an encoded value out of the user's memory: large buffers to the arena while it has room, the rest to bytes."""
    if not packed.buffers:
        return Parcel(packed.body, notes=packed.notes)
    large = [b for b in packed.buffers if b.nbytes >= LIMITS.inline_bytes]
    total = sum(b.nbytes for b in packed.buffers)
    if total > LIMITS.value_bytes:
        raise ObjectTooLargeError(f"a value of {total} bytes; at most {LIMITS.value_bytes} are sent")
    stored = arena.store(large) if large and arena is not None else None
    if stored is None:
        if total + len(packed.body) > LIMITS.message_bytes:
            raise ObjectTooLargeError(
                f"a value of {total} bytes does not fit the shared memory (object_store_memory), and messages carry at most "
                f"{LIMITS.message_bytes}; drop refs that are no longer needed, or raise object_store_memory")
        return Parcel(packed.body, (None,) * len(packed.buffers), tuple(bytes(b) for b in packed.buffers), notes=packed.notes)
    block, regions = stored
    region = iter(regions)
    places = tuple(next(region) if b.nbytes >= LIMITS.inline_bytes else None for b in packed.buffers)
    inline = tuple(bytes(b) for b in packed.buffers if b.nbytes < LIMITS.inline_bytes)
    return Parcel(packed.body, places, inline, block, packed.notes)


def to_frames(p: Parcel, arena: Arena | None, holder: str) -> list[bytes]:
    """The frames behind the header; grants `holder` a lease on the block."""
    if not p.places:
        return [p.body]
    grant = None
    if p.block is not None:
        assert arena is not None
        grant = arena.grant(p.block, holder).astuple()
    return [msgpack.packb([grant, p.places]), p.body, *p.inline]


def from_frames(frames: Sequence[bytes], arena: Arena | None, notes: tuple[Any, ...] = ()) -> Parcel:
    """What `to_frames` made, at the receiver; opens the granted block so that it survives its sender."""
    if len(frames) == 1:
        return Parcel(frames[0], notes=notes)
    if not frames:
        raise ProtocolError("a message that must carry a value carries none")
    segments, body = frames[0], frames[1]
    try:
        grant, places = msgpack.unpackb(segments, use_list=False)
        if type(places) is not tuple or sum(p is None for p in places) != len(frames) - 2:
            raise ProtocolError("segments and frames of a value do not agree")
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise ProtocolError(f"segments of a value: {type(e).__name__}: {e}") from None
    block = None
    if grant is not None:
        if arena is None:
            raise ProtocolError("a value in shared memory came to a process without an arena")
        block = arena.open(Grant.fromtuple(grant))
    for place in places:
        if place is not None and not (block is not None and len(place) == 2 and 0 <= place[0] <= place[0] + place[1] <= block.length):
            raise ProtocolError("a segment lies outside its block")
    return Parcel(body, places, tuple(frames[2:]), block, notes)


def open_parcel(p: Parcel) -> Any:
    """The value, private to the caller and writable; large arrays are copy-on-write mappings."""
    if not p.places:
        return decode(p.body, ())
    window = p.block.view() if p.block is not None else None
    inline = iter(p.inline)
    buffers: list[Any] = []
    for place in p.places:
        if place is None:
            buffers.append(bytearray(next(inline)))
        else:
            assert window is not None
            buffers.append(window[place[0]:place[0] + place[1]])
    return decode(p.body, buffers)


def to_bytes(p: Parcel) -> bytes:
    """A parcel without shared memory or refs, as one string of bytes for a file."""
    assert p.block is None
    data: bytes = msgpack.packb([p.body, *p.inline])
    return data


def from_bytes(data: bytes) -> Parcel:
    """What `to_bytes` made."""
    body, *inline = msgpack.unpackb(data, max_bin_len=len(data))
    return Parcel(body, (None,) * len(inline), tuple(inline))
