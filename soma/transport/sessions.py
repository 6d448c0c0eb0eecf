"""Messages between machines arrive once and in order, although connections break: numbers, acknowledgements, and sending again.

A *session* is one outlet's messages to one mailbox, as numbered `pieces`. `Sending` and `receiving.Receiving` are pure: pieces in,
pieces and messages out; no socket, clock or thread. After a lost connection the sender opens, learns from the answer what arrived,
and sends the rest again, so correctness needs no timer.

Refuses: messages that no receiver would take.
Invariant: a sender keeps every piece until it is acknowledged or the session is reset; then what may not have arrived is counted
as lost, and never sent again.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from enum import Enum

from soma.config import LIMITS, Limits
from soma.errors import ObjectTooLargeError
from soma.transport.pieces import (
    ACK,
    AGAIN,
    BEGIN,
    CHUNK,
    GONE,
    OPEN,
    RESET,
    SMALL_BYTES,
    SMALL_FRAMES,
    WHOLE,
    Frame,
    Piece,
    is_piece,
    lengths,
    piece,
    read_piece,
    small,
)

_Entry = tuple[int, int, Piece, bool]
"""(number, size, piece, whether it is the last of its message)"""


class State(Enum):
    """What a sender knows of its connection and its mailbox."""

    FLOWING = "flowing"
    OPENING = "opening"
    """Everything waits for the mailbox's answer to OPEN."""
    DOWN = "down"
    GONE = "gone"
    """Another process lives at that address now: everything is dropped."""


_FLOWING, _GONE = State.FLOWING, State.GONE  # to look one up in its class costs as much as the rest of a line


class Sending:
    """The sender's side of a session, of the outlet `me` to the mailbox `peer`. What its methods return goes to the socket, in order."""

    __slots__ = ("_answered", "_checked", "_flight", "_limits", "_names", "_next", "_session", "_waiting", "flying", "lost", "state",
                 "unacknowledged")

    def __init__(self, me: str, peer: str, *, checked: bool = False, limits: Limits = LIMITS) -> None:
        self._names, self._checked, self._limits = (me.encode(), peer.encode()), checked, limits
        self._flight: deque[_Entry] = deque()
        self._waiting: deque[_Entry] = deque()
        self._session, self._next = _new_session(), 0
        self.state = State.FLOWING
        self._answered = False
        """The mailbox has said something in this session."""
        self.flying = 0
        """Bytes that were sent and not acknowledged."""
        self.unacknowledged = 0
        """Bytes that are kept in case they have to be sent again; what waits to be sent is among them."""
        self.lost = 0
        """Messages that perhaps never arrived: the mailbox forgot or refused the session, or is gone."""

    @property
    def unsettled(self) -> bool:
        """Whether the mailbox has to be asked again (`again`) if it says nothing for a while."""
        return self.state is State.OPENING or self.state is State.DOWN or (
            self.state is State.FLOWING and not self._answered and bool(self._flight))

    def again(self) -> list[Piece]:
        """Ask once more. The first pieces of a session are trusted to arrive, but a connection can swallow them."""
        return self.up() if self.state is State.FLOWING else [self.opening()]

    def opening(self) -> Piece:
        """The first piece on a connection."""
        return piece(OPEN, self._session, self._first(), self._names, checked=self._checked)

    def send(self, frames: Sequence[Frame]) -> Sequence[Piece]:
        """A message; its buffers may be used again at once, but for read-only views, which promise not to change.

        Raises:
            ObjectTooLargeError: it is larger than any receiver would take.
        """
        kept = [frame if type(frame) is bytes else _kept(frame) for frame in frames]
        size = sum(map(len, kept))
        if self.state is _GONE:
            self.lost += 1
            return ()
        if size > self._limits.chunk_bytes:
            self._split(kept, size)
            return self.pump()
        number = self._next
        self._next = number + 1
        if size <= SMALL_BYTES and 0 < len(kept) <= SMALL_FRAMES:
            made = small(self._session, number, kept, checked=self._checked)
        else:
            made = piece(WHOLE, self._session, number, kept, checked=self._checked)
        self.unacknowledged += size
        if self.state is _FLOWING and not self._waiting and self.flying < self._limits.flight_bytes:
            self._flight.append((number, size, made, True))
            self.flying += size
            return (made,)
        self._waiting.append((number, size, made, True))
        return ()

    def _split(self, frames: list[Frame], total: int) -> None:
        if total > self._limits.message_bytes:
            raise ObjectTooLargeError(f"a message of {total} bytes; to another machine at most {self._limits.message_bytes} are sent")
        step = self._limits.chunk_bytes
        parts = [memoryview(f)[at:at + step] for f in frames for at in range(0, len(f), step)]
        self._wait(BEGIN, lengths(frames), 0, last=False)
        for part in parts[:-1]:
            self._wait(CHUNK, part, len(part), last=False)
        self._wait(CHUNK, parts[-1], len(parts[-1]), last=True)

    def _wait(self, kind: int, frame: Frame, size: int, *, last: bool) -> None:
        made = piece(kind, self._session, self._next, (frame,), checked=self._checked)
        self._waiting.append((self._next, size, made, last))
        self._next += 1
        self.unacknowledged += size

    def pump(self) -> list[Piece]:
        """What may be sent now of what waits."""
        out: list[Piece] = []
        if self.state is State.FLOWING:
            while self._waiting and self.flying < self._limits.flight_bytes:
                out.append(self._take_off())
        return out

    def flush(self) -> list[Piece]:
        """Everything that waits, whatever the connection does: the outlet closes, and this is the last chance."""
        out = [] if self.state is State.FLOWING else [self.opening()]
        while self._waiting:
            out.append(self._take_off())
        return out

    def _take_off(self) -> Piece:
        entry = self._waiting.popleft()
        self._flight.append(entry)
        self.flying += entry[1]
        return entry[2]

    # -- the connection --------------------------------------------------------------------------------------------------------

    def down(self) -> None:
        """The connection is lost, and perhaps what is in flight."""
        if self.state is not State.GONE:
            self.state = State.DOWN
            self._land()

    def up(self) -> list[Piece]:
        """There is a new connection: ask what arrived over the old one."""
        if self.state is State.GONE:
            return []
        self.state = State.OPENING
        self._land()
        return [self.opening()]

    def _land(self) -> None:
        self._waiting.extendleft(reversed(self._flight))
        self._flight.clear()
        self.flying = 0

    def receive(self, frames: Sequence[Frame]) -> list[Piece]:
        """What came back from the mailbox; nothing happens if it is no piece of this session."""
        found = read_piece(frames[0], (), self._checked) if len(frames) == 1 and is_piece(frames[0]) else None
        if found is None:
            return []
        kind, session, number = found
        if kind == AGAIN and session in (0, self._session) and self.state is State.FLOWING:
            return self.up()
        if session != self._session:
            return []
        self._answered = True
        if kind == ACK and self._first() <= number <= self._next:
            self._acknowledged(number)
            if self.state is State.OPENING:
                self.state = State.FLOWING
            return self.pump()
        if kind in (RESET, GONE):
            return self._begin_anew(gone=kind == GONE)
        return []

    def _first(self) -> int:
        kept = self._flight or self._waiting
        return kept[0][0] if kept else self._next

    def _acknowledged(self, number: int) -> None:
        flight, waiting = self._flight, self._waiting
        while flight and flight[0][0] < number:
            size = flight.popleft()[1]
            self.flying -= size
            self.unacknowledged -= size
        while not flight and waiting and waiting[0][0] < number:
            self.unacknowledged -= waiting.popleft()[1]

    def _begin_anew(self, *, gone: bool) -> list[Piece]:
        self.lost += sum(last for _, _, _, last in (*self._flight, *self._waiting))
        self._flight.clear()
        self._waiting.clear()
        self._session, self._next, self.flying, self.unacknowledged, self._answered = _new_session(), 0, 0, 0, False
        if gone:
            self.state = State.GONE
        elif self.state is not State.DOWN:
            self.state = State.FLOWING
            return [self.opening()]
        return []


def _kept(frame: Frame) -> Frame:
    """A frame as it can be kept: what may be written to is copied."""
    if type(frame) is memoryview and frame.readonly and frame.contiguous:
        return frame if frame.format == "B" and frame.ndim == 1 else frame.cast("B")
    return bytes(frame)


def _new_session() -> int:
    return int.from_bytes(secrets.token_bytes(8), "little") or 1
