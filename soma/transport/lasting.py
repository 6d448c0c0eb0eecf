"""The mailbox's side of sessions that outlive its process: what counts as arrived is what its reader has written down.

Each message carries in the place of its sender's name a `Mark`, the same name with a position. The reader says `settled` once what the
message led to is on record together with its mark; no sooner is it acknowledged. After a restart `resume` says how far each sender was:
it goes on from there, so that no message is lost, and none comes twice but the one at which the reader died.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soma.transport.pieces import ACK, HEADER, Frame, Piece
from soma.transport.receiving import Receiving, Taken, _Stream


class Mark(bytes):
    """A sender's name, and how far its session is with this message."""

    session: int
    number: int


class Lasting(Receiving):
    """A `Receiving` whose reader keeps a record."""

    def __init__(self, me: str, **options: Any) -> None:
        super().__init__(me, **options)
        self._done: dict[int, int] = {}

    def resume(self, sender: bytes, session: int, number: int) -> None:
        """All below `number` of this session was settled by an earlier process."""
        self._streams[session] = _Stream(sender, session, number)
        self._by_sender.setdefault(sender, []).append(session)
        self._done[session] = number

    def settled(self, mark: Mark) -> None:
        """The message with this mark is on record."""
        if mark.session in self._streams:
            self._done[mark.session] = mark.number

    def receive(self, header: Frame, frames: Sequence[Frame]) -> Taken:
        message, answer = super().receive(header, frames)
        if message is not None:
            session = HEADER.unpack_from(header)[4]
            mark = Mark(message[0])
            mark.session, mark.number = session, self._streams[session].expected
            message[0] = mark
        return message, answer

    def _forget(self, stream: _Stream) -> None:
        super()._forget(stream)
        self._done.pop(stream.session, None)

    def _answer(self, kind: int, session: int, number: int = 0) -> Piece:
        return super()._answer(kind, session, self._done.get(session, 0) if kind == ACK else number)
