"""The mailbox's side of `sessions`: duplicates and gaps are dropped, large messages put together, arrivals acknowledged.

Refuses, and resets the session: chunks that no BEGIN announced, or that are empty or too many; messages over the limits; a message
while another one is incomplete; sessions that are meant for another mailbox.
Invariant: each message of a session is given once, in order, and none after one that was not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from soma.config import LIMITS, Limits
from soma.errors import ProtocolError
from soma.transport.image import fill
from soma.transport.pieces import (
    ACK,
    AGAIN,
    BEGIN,
    CHUNK,
    GONE,
    HEADER_BYTES,
    OPEN,
    RESET,
    SMALL,
    WHOLE,
    Frame,
    Piece,
    piece,
    read_lengths,
    read_piece,
    read_small,
)


class _Incomplete:
    """A large message that is being put together."""

    __slots__ = ("_at", "_frames", "_index", "_left", "_small")

    def __init__(self, lengths: Frame, limits: Limits, room: Callable[[int], memoryview]) -> None:
        if not 0 < len(lengths) <= limits.parts * 8 or len(lengths) % 8:
            raise ProtocolError("a large message does not say how long its frames are")
        sizes = read_lengths(lengths)
        self._left, self._small = sum(sizes), limits.chunk_bytes
        if not 0 < self._left <= limits.message_bytes:
            raise ProtocolError(f"a message of {self._left} bytes in pieces; at most {limits.message_bytes} are read")
        self._frames = [room(size) if size > self._small else memoryview(bytearray(size)) for size in sizes]
        self._index = self._at = 0

    def add(self, part: Frame) -> list[Frame] | None:
        """The next bytes; all frames when these were the last ones."""
        while self._at == len(self._frames[self._index]):
            self._index, self._at = self._index + 1, 0
        frame, size = self._frames[self._index], len(part)
        if not 0 < size <= len(frame) - self._at:
            raise ProtocolError("a piece of a large message is empty, or longer than what is missing")
        fill(frame, self._at, part)
        self._at += size
        self._left -= size
        return None if self._left else [bytes(f) if len(f) <= self._small else f.toreadonly() for f in self._frames]


@dataclass(slots=True, eq=False)
class _Stream:
    """What a mailbox knows of one session."""

    sender: bytes
    session: int
    expected: int = 0
    incomplete: _Incomplete | None = None
    messages: int = 0
    bytes: int = 0
    """Since the last ACK."""
    missed: int = -1
    """The number that AGAIN was last sent for."""


Taken = tuple[list[Any] | None, Piece | None]
"""What a piece brought: perhaps a message ([sender's name, frame, …]), perhaps an answer for whoever sent it."""

_NOTHING: Taken = (None, None)


class Receiving:
    """The mailbox's side of all its sessions. `me`: which one it is.

    Attributes:
        refused: pieces that broke the rules; `why` has the last reason.
        duplicates, corrupt: pieces that were dropped.
    """

    def __init__(self, me: str, *, checked: bool = False, limits: Limits = LIMITS,
                 room: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size))) -> None:
        self._me, self._checked, self._limits, self._room = me.encode(), checked, limits, room
        self._streams: dict[int, _Stream] = {}
        self._by_sender: dict[bytes, list[int]] = {}
        """Sessions by who opened them, the latest last: at most two, for who took a dead one's name may be heard before what that left."""
        self.refused = self.duplicates = self.corrupt = 0
        self.why: ProtocolError | None = None

    def receive(self, header: Frame, frames: Sequence[Frame]) -> Taken:
        """A piece whose header `is_piece` knows."""
        found = read_piece(header, frames, self._checked)
        if found is None:
            self.corrupt += 1
            return None, self._answer(AGAIN, 0)
        kind, session, number = found
        if kind == OPEN:
            return None, self._open(session, number, frames)
        stream = self._streams.get(session)
        if stream is None:
            return _NOTHING  # left from a connection that is gone: what counts begins with OPEN
        if number != stream.expected:
            return None, self._out_of_order(stream, number)
        stream.expected = number + 1
        stream.messages += 1
        message: list[Any] | None
        try:
            if kind == SMALL and stream.incomplete is None and not frames:
                stream.bytes += len(header)
                message = [stream.sender, *read_small(header)]
            elif len(header) != HEADER_BYTES:
                raise ProtocolError("there is something behind the header of a piece")
            elif kind == WHOLE and stream.incomplete is None:
                stream.bytes += sum(map(len, frames))
                message = [stream.sender, *frames]
            else:
                message = self._in_chunks(stream, kind, frames)
        except ProtocolError as e:
            self._forget(stream)
            return None, self._refuse(RESET, session, e)
        if stream.messages >= self._limits.ack_messages or stream.bytes >= self._limits.ack_bytes:
            stream.messages = stream.bytes = 0
            return message, self._answer(ACK, session, stream.expected)
        return message, None

    def _in_chunks(self, stream: _Stream, kind: int, frames: Sequence[Frame]) -> list[Any] | None:
        if len(frames) == 1 and kind == CHUNK and stream.incomplete is not None:
            stream.bytes += len(frames[0])
            done = stream.incomplete.add(frames[0])
            if done is None:
                return None
            stream.incomplete = None
            return [stream.sender, *done]
        if len(frames) == 1 and kind == BEGIN and stream.incomplete is None:
            stream.incomplete = _Incomplete(frames[0], self._limits, self._room)
            return None
        raise ProtocolError(f"a piece of kind {kind} is not what can come now")

    def _out_of_order(self, stream: _Stream, number: int) -> Piece | None:
        if number < stream.expected:
            self.duplicates += 1
            return None
        if stream.missed == stream.expected and not self._checked:
            return None  # it was told, and over a connection that works it will hear it
        stream.missed = stream.expected
        return self._answer(AGAIN, stream.session)

    def _open(self, session: int, first: int, frames: Sequence[Frame]) -> Piece:
        if len(frames) != 2 or not 0 < len(frames[0]) <= 255 or not session:
            return self._refuse(RESET, session, ProtocolError("OPEN does not say who opens"))
        if bytes(frames[1]) != self._me:
            return self._refuse(GONE, session, ProtocolError(f"OPEN is for {bytes(frames[1][:128])!r}, who is not here"))
        stream = self._streams.get(session)
        if stream is None:
            if first:
                return self._answer(RESET, session)
            stream = self._meet(bytes(frames[0]), session)
        elif first > stream.expected:
            self._forget(stream)
            return self._answer(RESET, session)
        stream.messages = stream.bytes = 0
        stream.missed = -1
        return self._answer(ACK, session, stream.expected)

    def _meet(self, sender: bytes, session: int) -> _Stream:
        known = self._by_sender.get(sender, [])
        if len(known) > 1:
            self._forget(self._streams[known[0]])
        while len(self._streams) >= self._limits.sessions:
            self._forget(next(iter(self._streams.values())))
        self._by_sender.setdefault(sender, []).append(session)
        stream = self._streams[session] = _Stream(sender, session)
        return stream

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.session]
        known = self._by_sender[stream.sender]
        known.remove(stream.session)
        if not known:
            del self._by_sender[stream.sender]

    def _refuse(self, kind: int, session: int, why: ProtocolError) -> Piece:
        self.refused += 1
        self.why = why
        return self._answer(kind, session)

    def _answer(self, kind: int, session: int, number: int = 0) -> Piece:
        return piece(kind, session, number, checked=self._checked)
