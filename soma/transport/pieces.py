"""Pieces of sessions on the wire (see `sessions`): `[header] [frame …]` behind the routing id.

    header: 0xC1, kind, flags, count (u8), session (u64), number (u64), crc32 (u32), all little-endian; 0xC1 begins no msgpack
    OPEN    number = the first that will come; frames: name of the sender, name of the mailbox. The first on every connection
    WHOLE   number; a message
    SMALL   number; a message of `count` frames, all behind the header in one frame: the length of each but the last, as u32, then
            their bytes. Each frame of the socket is encrypted by itself, which costs more than to copy a few kilobytes
    BEGIN   number; frame: the length of each frame of a large message, as u64. Its bytes follow in chunks
    CHUNK   number; frame: the next bytes, never across two frames of the message
    ACK     to the sender: all below `number` is here. Answers OPEN too
    AGAIN   to the sender: something is missing or damaged. It opens anew. Session 0: of whichever is yours
    RESET   to the sender: this session is not known here, or broke the rules. It begins another
    GONE    to the sender: the mailbox that it means is not here any more

Flag 1: the crc counts; it is of the header before it and of every frame with its length (of a SMALL, of what is behind the header).
CURVE authenticates by itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from soma.config import KIB
from soma.errors import ProtocolError

Frame = bytes | bytearray | memoryview
Piece = list[Frame]
"""The frames of one message of the socket, without a routing id."""

MARK = 0xC1
OPEN, WHOLE, BEGIN, CHUNK, ACK, AGAIN, RESET, GONE, SMALL = range(1, 10)
CHECKED = 1

SMALL_BYTES = 16 * KIB
SMALL_FRAMES = 8
"""A message of at most so many bytes and frames goes as SMALL."""

HEADER = struct.Struct("<BBBBQQI")
HEADER_BYTES = HEADER.size
_LENGTH = struct.Struct("<Q")
_CRC_AT = HEADER_BYTES - 4
_SMALL = tuple(struct.Struct(f"{HEADER.format}{n}I") for n in range(SMALL_FRAMES))
"""The header with the lengths of so many frames."""


def is_piece(frame: Frame) -> bool:
    """Whether this first frame behind the routing id is of a session; others are headers of messages."""
    return len(frame) >= HEADER_BYTES and frame[0] == MARK


def piece(kind: int, session: int, number: int, frames: Sequence[Frame] = (), *, checked: bool = False) -> Piece:
    """Put a piece together."""
    header = HEADER.pack(MARK, kind, CHECKED if checked else 0, 0, session, number, 0)
    return [_with_crc(header, frames) if checked else header, *frames]


def small(session: int, number: int, frames: Sequence[Frame], *, checked: bool = False) -> Piece:
    """A message of 1 to SMALL_FRAMES frames as SMALL."""
    count = len(frames)
    header = _SMALL[count - 1].pack(MARK, SMALL, CHECKED if checked else 0, count, session, number, 0, *map(len, frames[:-1]))
    made = b"".join((header, *frames))
    return [_with_crc(made, ()) if checked else made]


def read_small(piece: Frame) -> list[Frame]:
    """The frames of a SMALL.

    Raises:
        ProtocolError: it is none.
    """
    count = piece[3]
    if not 0 < count <= SMALL_FRAMES or len(piece) < _SMALL[count - 1].size:
        raise ProtocolError("a small message does not say how long its frames are")
    shape = _SMALL[count - 1]
    at, frames = shape.size, []
    for size in shape.unpack_from(piece)[7:]:
        frames.append(piece[at:at + size])
        at += size
    if at > len(piece):
        raise ProtocolError("a small message is shorter than its frames")
    frames.append(piece[at:])
    return frames


def read_piece(header: Frame, frames: Sequence[Frame], checked: bool) -> tuple[int, int, int] | None:
    """(kind, session, number) of a piece; None if it is not what was sent. `checked`: refuse pieces without a checksum."""
    _, kind, flags, _, session, number, crc = HEADER.unpack_from(header)
    if (checked or flags) and not (flags == CHECKED and crc == _crc(header, frames)):
        return None
    return kind, session, number


def _with_crc(header: bytes, frames: Sequence[Frame]) -> bytes:
    return header[:_CRC_AT] + _crc(header, frames).to_bytes(4, "little") + header[HEADER_BYTES:]


def _crc(header: Frame, frames: Sequence[Frame]) -> int:
    view = memoryview(header)
    crc = zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[:_CRC_AT]))
    for frame in frames:
        crc = zlib.crc32(frame, zlib.crc32(_LENGTH.pack(len(frame)), crc))
    return crc


def lengths(frames: Sequence[Frame]) -> bytes:
    """What BEGIN says."""
    return b"".join(_LENGTH.pack(len(f)) for f in frames)


def read_lengths(frame: Frame) -> list[int]:
    """The lengths in a BEGIN whose size is right."""
    return [size for size, in _LENGTH.iter_unpack(frame)]
