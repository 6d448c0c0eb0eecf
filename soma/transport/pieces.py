"""Pieces of sessions on the wire (see `sessions`): `[header] [frame …]` behind the routing id.

    header: 0xC1, kind, flags, 0, session (u64), number (u64), crc32 (u32), all little-endian; 0xC1 begins no msgpack
    OPEN    number = the first that will come; frames: name of the sender, name of the mailbox. The first on every connection
    WHOLE   number; a message
    BEGIN   number; frame: the length of each frame of a large message, as u64. Its bytes follow in chunks
    CHUNK   number; frame: the next bytes, never across two frames of the message
    ACK     to the sender: all below `number` is here. Answers OPEN too
    AGAIN   to the sender: something is missing or damaged. It opens anew. Session 0: of whichever is yours
    RESET   to the sender: this session is not known here, or broke the rules. It begins another
    GONE    to the sender: the mailbox that it means is not here any more

Flag 1: the crc counts; it is of the header before it and of every frame with its length. CURVE authenticates by itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

Frame = bytes | bytearray | memoryview
Piece = list[Frame]
"""The frames of one message of the socket, without a routing id."""

MARK = 0xC1
OPEN, WHOLE, BEGIN, CHUNK, ACK, AGAIN, RESET, GONE = range(1, 9)
CHECKED = 1

HEADER = struct.Struct("<BBBxQQI")
HEADER_BYTES = HEADER.size
_LENGTH = struct.Struct("<Q")
_CRC_AT = HEADER_BYTES - 4


def is_piece(frame: Frame) -> bool:
    """Whether this first frame behind the routing id is of a session; others are headers of messages."""
    return len(frame) == HEADER_BYTES and frame[0] == MARK


def piece(kind: int, session: int, number: int, frames: Sequence[Frame] = (), *, checked: bool = False) -> Piece:
    """Put a piece together."""
    header = HEADER.pack(MARK, kind, CHECKED if checked else 0, session, number, 0)
    if checked:
        header = header[:_CRC_AT] + _crc(header, frames).to_bytes(4, "little")
    return [header, *frames]


def read_piece(header: Frame, frames: Sequence[Frame], checked: bool) -> tuple[int, int, int] | None:
    """(kind, session, number) of a piece; None if it is not what was sent. `checked`: refuse pieces without a checksum."""
    _, kind, flags, session, number, crc = HEADER.unpack(header)
    if (checked or flags) and not (flags == CHECKED and crc == _crc(header, frames)):
        return None
    return kind, session, number


def _crc(header: Frame, frames: Sequence[Frame]) -> int:
    crc = zlib.crc32(memoryview(header)[:_CRC_AT])
    for frame in frames:
        crc = zlib.crc32(frame, zlib.crc32(_LENGTH.pack(len(frame)), crc))
    return crc


def lengths(frames: Sequence[Frame]) -> bytes:
    """What BEGIN says."""
    return b"".join(_LENGTH.pack(len(f)) for f in frames)


def read_lengths(frame: Frame) -> list[int]:
    """The lengths in a BEGIN whose size is right."""
    return [size for size, in _LENGTH.iter_unpack(frame)]
