"""What actors print: bytes to lines, the same line of many actors shown once, and a file each.

Bounded: a line keeps its first 16 KiB, a file is turned over at 64 MiB, few lines are remembered to find repeats, and not long.
Pure but for `LogFile`; time is an argument.
"""

from __future__ import annotations

import codecs
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from soma.config import KIB, MIB

LINE_BYTES = 16 * KIB
TAIL_BYTES = 8 * KIB


class LineBuffer:
    """Bytes of one stream, in any pieces; complete lines out, without their ends ("\\n" or "\\r\\n").

    A longer line than `limit` bytes keeps its beginning and says how much is missing. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, limit: int = LINE_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._limit, self._tail_bytes = limit, tail_bytes
        self._begun = bytearray()
        self._dropped = 0
        self._tail = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        self._tail = (self._tail + data)[-self._tail_bytes:] if len(data) < self._tail_bytes else data[-self._tail_bytes:]
        *complete, rest = data.split(b"\n")
        lines = []
        for piece in complete:
            self._append(piece)
            lines.append(self._finish())
        self._append(rest)
        return lines

    def close(self) -> list[str]:
        """The stream has ended: the last line, if it had no end."""
        return [self._finish()] if self._begun else []

    @property
    def tail(self) -> str:
        """The last `tail_bytes` bytes of all, for the report of a death; a character cut in two is left out."""
        start = next((i for i, byte in enumerate(self._tail[:4]) if byte & 0xC0 != 0x80), 0)
        return self._tail[start:].decode("utf-8", "replace")

    def _append(self, piece: bytes) -> None:
        # one byte more than is kept: it may turn out to be the "\r" before an end
        room = self._limit + 1 - len(self._begun)
        self._begun += piece[:room]
        self._dropped += max(0, len(piece) - room)

    def _finish(self) -> str:
        line, dropped = self._begun, self._dropped
        self._begun, self._dropped = bytearray(), 0
        if not dropped and line.endswith(b"\r"):
            del line[-1:]
        if len(line) <= self._limit:
            return line.decode("utf-8", "replace")
        # not final: a character cut in two is left out and counted with the rest
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(line[: self._limit]))
        half = len(decoder.getstate()[0])
        return f"{text} … [{len(line) - self._limit + half + dropped} bytes more]"


@dataclass(frozen=True, slots=True)
class Shown:
    """A line to show. `repeats`: how often others said it since it was shown first; 0: this is that first time."""

    actor: str
    line: str
    repeats: int = 0

    def __str__(self) -> str:
        return self.line if not self.repeats else f"{self.line} [repeated {self.repeats}x across actors]"


@dataclass(slots=True)
class _Said:
    actor: str
    until: float
    repeats: int = 0


class Dedup:
    """The same line of several actors is shown once at once; repeats are counted and told when `window` seconds are over.

    The actor that said it first may go on saying it: its own repetition is not noise made by their number. Blank lines pass.
    """

    def __init__(self, window: float = 5.0, remembered: int = 1000) -> None:
        self._window, self._remembered = window, remembered
        self._said: OrderedDict[str, _Said] = OrderedDict()  # in the order of `until`

    def feed(self, actor: str, line: str, now: float) -> list[Shown]:
        """What to show now that `actor` said `line`."""
        shown = self.due(now)
        if not line.strip():
            return [*shown, Shown(actor, line)]
        said = self._said.get(line)
        if said is None:
            if len(self._said) >= self._remembered:
                shown += self._told(*self._said.popitem(last=False))
            self._said[line] = _Said(actor, now + self._window)
            return [*shown, Shown(actor, line)]
        if said.actor == actor:
            return [*shown, Shown(actor, line)]
        said.repeats += 1
        return shown

    def due(self, now: float) -> list[Shown]:
        """The counts of windows that are over."""
        shown: list[Shown] = []
        while self._said and next(iter(self._said.values())).until <= now:
            shown += self._told(*self._said.popitem(last=False))
        return shown

    def next_due(self) -> float | None:
        """When `due` will have something to tell; None: not unless somebody says something."""
        return next((said.until for said in self._said.values() if said.repeats), None)

    def close(self) -> list[Shown]:
        """All counts, at once."""
        return self.due(float("inf"))

    def _told(self, line: str, said: _Said) -> list[Shown]:
        return [Shown(said.actor, line, said.repeats)] if said.repeats else []


class LogFile:
    """One stream on disk: `path`, and what was before the last turn in `path` + ".1". At most twice `limit` bytes.

    A full disk loses lines, not the actor: what could not be written is counted, `problem` says why, and the count is written
    as soon as there is room.
    """

    def __init__(self, path: Path, limit: int = 64 * MIB) -> None:
        self._path, self._limit = path, limit
        self._fd = -1
        self._size = 0
        self.lost = 0
        """Bytes that could not be written and were not yet accounted for in the file."""
        self.problem = ""
        self._open()

    def write(self, data: bytes) -> None:
        """Append. Raises ValueError after `close`; errors of the disk go to `problem`."""
        if self._fd < 0:
            raise ValueError(f"{self._path} is closed")
        try:
            if self.lost:
                self._append(f"[{self.lost} bytes lost: {self.problem}]\n".encode())
                self.lost, self.problem = 0, ""
            if self._size and self._size + len(data) > self._limit:
                self._turn_over()
        except OSError as e:
            self._lose(len(data), e)
            return
        written = self._size
        try:
            self._append(data)
        except OSError as e:
            self._lose(len(data) - (self._size - written), e)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            n = os.write(self._fd, rest)
            self._size += n
            rest = rest[n:]

    def _lose(self, n: int, error: OSError) -> None:
        self.lost += n
        self.problem = error.strerror or str(error)

    def _turn_over(self) -> None:
        os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        before = self._fd
        self._open()  # if this fails, the old one is still there to write to
        os.close(before)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._fd).st_size
