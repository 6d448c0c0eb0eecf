"""A value between two processes: from what the codec made to the frames behind a header, and back.

    [body]                        a value without buffers
    [segments] [body] [bytes]     a value with buffers
    [segments] [body] [bytes] [image]    the same to another machine, with what lies in the block
    segments: msgpack [grant | nil, places]; places: 16 bytes for each buffer, offset and length as little-endian int64. The
    buffer lies in the granted block of the sender's arena (or in the image of it), or, with offset -1, it is the next `length`
    bytes of the third frame.

Refuses: places outside of the block, and places that do not use up the third frame. A million small arrays are three frames.
A `Parcel` is a snapshot: it shares no memory with the value it came from. Each `open` gives a private, writable copy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from soma.config import LIMITS
from soma.errors import ObjectTooLargeError, ProtocolError
from soma.transport.arena import Arena, Block, Grant
from soma.transport.codec import Packed, decode
from soma.transport.endpoint import Frame
from soma.transport.image import Image

Place = tuple[int, int]
_PLACE = struct.Struct("<qq")
_INLINE = -1
_NOTES = 1000
"""Refs in one value: the header names them, and has 64 KiB."""


@dataclass(slots=True, eq=False)
class Parcel:
    """An encoded value in this process's hands: waiting to be sent, kept under a ref, or just arrived."""

    body: bytes
    places: tuple[Place, ...] = ()
    """One (offset, length) per buffer: in `block`, or with offset -1 the next bytes of `inline`."""
    inline: bytes = b""
    block: Block | Image | None = None
    """Shared memory that this process can reach, or what another machine sent of its own."""
    notes: tuple[Any, ...] = ()
    """Refs inside: live objects when packed here, wire tuples when received."""

    @property
    def size(self) -> int:
        return len(self.body) + len(self.inline) + (self.block.length if self.block else 0)


def parcel(packed: Packed, arena: Arena | None) -> Parcel:
    """Copy an encoded value out of the user's memory: large buffers to the arena while it has room, the rest to bytes."""
    if packed.notes and len(packed.notes) > _NOTES:
        raise ObjectTooLargeError(f"a value with {len(packed.notes)} refs or handles in it; at most {_NOTES} travel in one")
    if not packed.buffers:
        if len(packed.body) > LIMITS.message_bytes:
            raise ObjectTooLargeError(f"a value of {len(packed.body)} bytes without arrays; messages carry {LIMITS.message_bytes}")
        return Parcel(packed.body, notes=packed.notes)
    buffers = packed.buffers
    total = sum(b.nbytes for b in buffers)
    if total > LIMITS.value_bytes:
        raise ObjectTooLargeError(f"a value of {total} bytes; at most {LIMITS.value_bytes} are sent")
    large = [b for b in buffers if b.nbytes >= LIMITS.inline_bytes]
    if len(large) < len(buffers) and total - sum(b.nbytes for b in large) >= LIMITS.inline_bytes:
        large = list(buffers)  # many small ones are as heavy
    stored = arena.store(large) if large and arena is not None else None
    if stored is None:
        if total + len(packed.body) > LIMITS.message_bytes:
            raise ObjectTooLargeError(
                f"a value of {total} bytes does not fit the shared memory (object_store_memory), and messages carry at most "
                f"{LIMITS.message_bytes}; drop refs that are no longer needed, or raise object_store_memory")
        return Parcel(packed.body, tuple((_INLINE, b.nbytes) for b in buffers), b"".join(buffers), notes=packed.notes)
    block, regions = stored
    if len(large) == len(buffers):
        return Parcel(packed.body, tuple(regions), b"", block, packed.notes)
    region = iter(regions)
    places = tuple(next(region) if b.nbytes >= LIMITS.inline_bytes else (_INLINE, b.nbytes) for b in buffers)
    return Parcel(packed.body, places, b"".join(b for b in buffers if b.nbytes < LIMITS.inline_bytes), block, packed.notes)


def to_frames(p: Parcel, arena: Arena | None, holder: str, near: bool = True) -> list[Frame]:
    """The frames behind the header. `near` holders get a lease on the block, others what lies in it.

    Raises:
        ObjectTooLargeError: to another machine, and larger than a message may be.
    """
    if not p.places:
        return [p.body]
    if p.block is None:
        return [msgpack.packb([None, _packed(p.places)]), p.body, p.inline]
    if near and type(p.block) is Block:
        assert arena is not None
        return [msgpack.packb([arena.grant(p.block, holder).astuple(), _packed(p.places)]), p.body, p.inline]
    if p.size > LIMITS.message_bytes - LIMITS.header_bytes:
        raise ObjectTooLargeError(f"a value of {p.size} bytes; messages to other machines carry {LIMITS.message_bytes}")
    return [msgpack.packb([None, _packed(p.places)]), p.body, p.inline, _image(p.block)]


def _image(block: Block | Image) -> Frame:
    """All bytes of a block, not copied; read-only says that they never change."""
    return block.frame() if type(block) is Image else block.view().toreadonly()


def _packed(places: tuple[Place, ...]) -> bytes:
    return b"".join(_PLACE.pack(*place) for place in places)


def from_frames(frames: Sequence[bytes], arena: Arena | None, notes: tuple[Any, ...] = ()) -> Parcel:
    """What `to_frames` made, at the receiver; opens the granted block so that it survives its sender."""
    if len(frames) == 1:
        return Parcel(frames[0], notes=notes)
    if not 3 <= len(frames) <= 4:
        raise ProtocolError(f"a value is 1, 3 or 4 frames, not {len(frames)}")
    segments, body, inline = frames[:3]
    grant, places = _unpacked(segments)
    if sum(length for offset, length in places if offset == _INLINE) != len(inline):
        raise ProtocolError("segments and bytes of a value do not agree")
    block: Block | Image | None = Image(frames[3]) if len(frames) == 4 else None
    if grant is not None:
        if block is not None:
            raise ProtocolError("a value lies in granted memory, and its bytes came too")
        if arena is None:
            raise ProtocolError("a value in shared memory came to a process without an arena")
        block = arena.open(Grant.fromtuple(grant))
    elif block is not None and all(offset == _INLINE for offset, _ in places):
        raise ProtocolError("no buffer of a value lies in the image that came with it")
    room = block.length if block is not None else 0
    for offset, length in places:
        if offset != _INLINE and not 0 <= offset <= offset + length <= room:
            raise ProtocolError("a segment lies outside its block")
    return Parcel(body, places, inline, block, notes)


def _unpacked(segments: bytes) -> tuple[Any, tuple[Place, ...]]:
    try:
        # no array is longer than a grant, so that claims of more cost nothing
        grant, raw = msgpack.unpackb(segments, use_list=False, max_array_len=7, max_map_len=0, max_ext_len=0)
        if type(raw) is not bytes:
            raise ProtocolError("the places of a value are no bytes")
        places = tuple(_PLACE.iter_unpack(raw))
    except (ValueError, TypeError, msgpack.UnpackException, struct.error) as e:
        raise ProtocolError(f"segments of a value: {type(e).__name__}: {e}") from None
    if not places or any(length < 0 or offset < _INLINE for offset, length in places):
        raise ProtocolError("a segment lies outside its block")
    return grant, places


def open_parcel(p: Parcel) -> Any:
    """The value, private to the caller and writable; large arrays are copy-on-write mappings."""
    if not p.places:
        return decode(p.body, ())
    window = p.block.view() if p.block is not None else None
    inline, at = memoryview(p.inline), 0
    buffers: list[Any] = []
    for offset, length in p.places:
        if offset == _INLINE:
            buffers.append(bytearray(inline[at:at + length]))
            at += length
        else:
            assert window is not None
            buffers.append(window[offset:offset + length])
    return decode(p.body, buffers)


def to_bytes(p: Parcel) -> bytes:
    """A parcel as one piece, to be kept in a file."""
    places, inline = p.places, p.inline
    if p.block is not None:
        window, rest, at, parts = memoryview(_image(p.block)), memoryview(p.inline), 0, []
        for offset, length in places:
            parts.append(rest[at:at + length] if offset == _INLINE else window[offset:offset + length])
            at += length if offset == _INLINE else 0
        places, inline = tuple((_INLINE, length) for _, length in places), b"".join(parts)
    data: bytes = msgpack.packb([p.body, _packed(places), inline])
    return data


def from_bytes(data: bytes) -> Parcel:
    """What `to_bytes` made."""
    body, places, inline = msgpack.unpackb(data, use_list=False)
    return Parcel(body, tuple(_PLACE.iter_unpack(places)), inline)
