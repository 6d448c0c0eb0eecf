"""A value as one file that knows whether it is whole.

    [magic 8] [blake3 of all that follows 32]
    [version u32] [buffers u32] [length of the file u64] [name 40] [length of the body u64] [offset u64, length u64 for each buffer]
    [body: pickle] [buffer, at a multiple of 64]…                                                        all numbers little-endian

`name` is the digest that the file lies under, so that a file under a wrong name is found too. Large buffers are written from where they
are, and read as a private mapping: what arrives is writable, nobody else sees it, and no byte is copied.
Refuses with CacheMissError whatever is not exactly what was written: another version, a file that is too short, a flipped bit.
Unpickling runs code that the writer chose: only a directory of the user's own is read (see `disk`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from blake3 import blake3

from soma.config import MIB
from soma.errors import CacheError, CacheMissError, DecodeError
from soma.transport.codec import Packed, decode, encode
from soma.transport.segment import Window

MAGIC = b"somablob"
VERSION = 1
ALIGN = 64
MAPPED = MIB
"""Files of at least this many bytes are mapped, smaller ones read."""

_CHECK = 32
_HEAD = struct.Struct("<IIQ40sQ")
_PLACE = struct.Struct("<QQ")
_START = len(MAGIC) + _CHECK


def pack(value: Any) -> Packed:
    """Encode a value for keeping; its large buffers are views of the caller's memory.

    Raises:
        NotSerializableError: it cannot be pickled; names the part.
        CacheError: it holds refs or handles of actors, which are worth nothing tomorrow.
    """
    packed = encode(value)
    if packed.notes:
        raise CacheError(f"a value with {len(packed.notes)} refs or handles of actors in it cannot be cached; soma.get(...) what they name")
    return packed


def size_of(packed: Packed) -> int:
    """Bytes of the file."""
    return _layout(packed)[1]


def pieces(name: str, packed: Packed) -> Iterator[bytes | memoryview]:
    """The bytes of the file, in order."""
    places, length = _layout(packed)
    head = _HEAD.pack(VERSION, len(places), length, name.encode(), len(packed.body)) + b"".join(_PLACE.pack(*place) for place in places)
    parts: list[bytes | memoryview] = [head, packed.body]
    at = _START + len(head) + len(packed.body)
    for (offset, size), buffer in zip(places, packed.buffers, strict=True):
        parts += (bytes(offset - at), buffer)
        at = offset + size
    check = blake3()
    for part in parts:
        check.update(part)
    yield MAGIC + check.digest()
    yield from parts


def _layout(packed: Packed) -> tuple[list[tuple[int, int]], int]:
    """Offset and length of each buffer, and the length of the file."""
    at = _START + _HEAD.size + _PLACE.size * len(packed.buffers) + len(packed.body)
    places = []
    for buffer in packed.buffers:
        at += -at % ALIGN
        places.append((at, buffer.nbytes))
        at += buffer.nbytes
    return places, at


def to_bytes(name: str, packed: Packed) -> bytes:
    """The whole file."""
    return b"".join(pieces(name, packed))


def read(file: BinaryIO, name: str) -> Any:
    """The value in an open file.

    Raises:
        CacheMissError: it is damaged, something else, or cannot be unpickled here.
    """
    return from_memory(_memory(file), name)


def check(file: BinaryIO, name: str) -> None:
    """Read every byte of a file, without unpickling it; CacheMissError if it is damaged."""
    _parts(_memory(file), name)


def from_memory(memory: memoryview, name: str) -> Any:
    """The value in the bytes of a file; if they can be written to, arrays lie over them."""
    body, buffers = _parts(memory, name)
    try:
        return decode(body, buffers)
    except DecodeError as error:
        raise CacheMissError(f"entry {name}: {error}") from error


def _memory(file: BinaryIO) -> memoryview:
    """What is in a file, private and writable."""
    length = os.fstat(file.fileno()).st_size
    if length < MAPPED:
        return memoryview(bytearray(file.read()))
    import numpy as np

    window: Any = np.asarray(Window(file.fileno(), 0, length, None))
    return memoryview(window)


def _parts(memory: memoryview, name: str) -> tuple[memoryview, Sequence[memoryview]]:
    """Body and buffers, once all is known to be as it was written."""
    start = _START + _HEAD.size
    if len(memory) < start or memory[:len(MAGIC)] != MAGIC:
        raise CacheMissError(f"entry {name}: {len(memory)} bytes that are no blob")
    version, count, length, named, body = _HEAD.unpack_from(memory, _START)
    if version != VERSION:
        raise CacheMissError(f"entry {name}: it has version {version}, and this soma reads {VERSION}")
    if length != len(memory):
        raise CacheMissError(f"entry {name}: {len(memory)} bytes where {length} were written")
    if blake3(memory[_START:]).digest() != memory[len(MAGIC):_START]:
        raise CacheMissError(f"entry {name}: its checksum is wrong")
    if named != name.encode():
        raise CacheMissError(f"entry {name}: the file holds {named.decode(errors='replace')}")
    places = [_PLACE.unpack_from(memory, start + n * _PLACE.size) for n in range(count)]
    start += count * _PLACE.size
    return memory[start:start + body], [memory[offset:offset + size] for offset, size in places]
