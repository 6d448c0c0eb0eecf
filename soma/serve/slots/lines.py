"""`LineBlocks`: bytes as they come, into texts of whole lines that fit into a message. Pure.

A line that is not ended is kept back until it is, or until `end()`; unless it grows beyond a block, then it goes in pieces. What a line has
beyond `LINE` bytes is dropped, and a mark stands for it. Bytes that are not UTF-8 become U+FFFD.
"""

from __future__ import annotations

import codecs

from soma.config import MIB

LINE = 4 * MIB
BLOCK = 20_000
"""Bytes in a text; as UTF-8 it has at most three times as many, for each wrong byte becomes three. A message holds 64 KiB."""
_Utf8 = codecs.getincrementaldecoder("utf-8")
MARK = " … [cut: a line of more than 4 MiB]\n"


class LineBlocks:
    """`feed` what was read, `end` when there is no more."""

    def __init__(self, line: int = LINE, block: int = BLOCK) -> None:
        self._line, self._block = line, block
        self._kept = b""
        self._length = 0
        """Of the line that is not ended, in bytes that have been given already."""
        self._cut = False
        self._decode = _Utf8("replace").decode

    def feed(self, data: bytes) -> list[str]:
        """Whole lines, and pieces of a long one."""
        if self._cut or self._length + len(self._kept) + len(data) > self._line:
            return self._feed_slowly(data)
        end = data.rfind(b"\n") + 1
        if not end and len(self._kept) + len(data) <= self._block:
            self._kept += data
            return []
        if not end:
            return self._partial(data)
        ready, self._kept = self._kept + data[:end], data[end:]
        self._length = 0
        texts = self._texts(ready)
        return texts + self._partial(b"") if len(self._kept) > self._block else texts

    def end(self) -> list[str]:
        """What is left of a line that never ended."""
        left, self._kept, self._length, self._cut = self._kept, b"", 0, False
        texts = self._texts(left)
        if rest := self._decode(b"", True):
            texts[-1:] = ["".join(texts[-1:]) + rest]
        return texts

    def _partial(self, data: bytes) -> list[str]:
        ready, self._kept = self._kept + data, b""
        self._length += len(ready)
        return self._texts(ready)

    def _texts(self, ready: bytes) -> list[str]:
        """In blocks, at ends of lines where there are any."""
        texts = []
        start, size = 0, len(ready)
        while size - start > self._block:
            stop = ready.rfind(b"\n", start, start + self._block) + 1 or start + self._block
            texts.append(self._decode(ready[start:stop]))
            start = stop
        if start < size:
            texts.append(self._decode(ready[start:]))
        return [t for t in texts if t]

    def _feed_slowly(self, data: bytes) -> list[str]:
        """Line by line, where one of them may be too long."""
        texts: list[str] = []
        for piece in _at_newlines(data):
            ended = piece.endswith(b"\n")
            room = self._line - self._length - len(self._kept)
            if not self._cut and len(piece) - ended <= room:
                texts += self._line_end(piece) if ended else self._partial(piece)
                continue
            if not self._cut:
                texts += self._partial(piece[:max(room, 0)])
                texts += [t for t in (self._decode(b"", True), MARK) if t]
                self._cut = True
            if ended:
                self._cut, self._length = False, 0
        return texts

    def _line_end(self, piece: bytes) -> list[str]:
        ready, self._kept, self._length = self._kept + piece, b"", 0
        return self._texts(ready)


def _at_newlines(data: bytes) -> list[bytes]:
    pieces = data.split(b"\n")
    return [p + b"\n" for p in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
