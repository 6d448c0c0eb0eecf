"""What a head has written down, so that the next one knows: tables of plain data in one file that only grows, and an image in memory.

`put` and `drop` are collected; `flush` writes what was collected as one frame, so that a turn of the head is known whole or not at
all. It is handed to the system and not forced to the disk: a head that is killed loses nothing of it, a power cut the last moments.
Frames are `length, crc32, msgpack`; reading ends at the first one that is damaged (the last, torn by the death of its writer), and what is
behind it is cut off. A file that has grown far beyond its tables is written anew beside itself and takes its place.

Refuses nothing: a file of which no frame can be read is an empty one.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgpack

from soma.config import MIB

_HEAD = struct.Struct("<II")
GROWN = 16 * MIB
"""Bytes added after which a file is written anew, if they are more than three times its tables."""

Key = str | bytes
Change = tuple[str, Key, Any] | tuple[str, Key]
"""(table, key, value), or (table, key) that is there no more."""


class Book(Protocol):
    """Where a head writes down what the next one must know."""

    @property
    def lasting(self) -> bool:
        """Whether anything comes of it."""

    def put(self, table: str, key: Key, value: Any) -> None: ...
    def drop(self, table: str, key: Key) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Unwritten:
    """For a head that nobody follows."""

    lasting = False

    def put(self, table: str, key: Key, value: Any) -> None:
        return

    def drop(self, table: str, key: Key) -> None:
        return

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


UNWRITTEN = Unwritten()


class Ledger:
    """The tables of one cluster. One process at a time has a file open (see `estate`)."""

    lasting = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tables: dict[str, dict[Key, Any]] = {}
        """As they are now, in the order in which the keys came. Values are not to be changed."""
        self._changes: list[Change] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(self._file, 0o600)  # open obeys the umask
        for change in self._read():
            self._apply(change)
        self._size = self._added = 0
        self._rewrite()

    def table(self, name: str) -> Mapping[Key, Any]:
        return self.tables.get(name, {})

    def put(self, table: str, key: Key, value: Any) -> None:
        change = (table, key, value)
        self._changes.append(change)
        self._apply(change)

    def drop(self, table: str, key: Key) -> None:
        if key in self.tables.get(table, ()):
            self._changes.append((table, key))
            del self.tables[table][key]

    def flush(self) -> None:
        """Hand what was collected to the system. OSError: the disk is full, say; then the head must not go on."""
        if not self._changes:
            return
        frame = _frame(self._changes)
        self._changes.clear()
        _write(self._file, frame)
        self._added += len(frame)
        if self._added > GROWN and self._added > 3 * self._size:
            self._rewrite()

    def close(self) -> None:
        """What was not flushed is as if it had not been."""
        os.close(self._file)

    def _apply(self, change: Change) -> None:
        if len(change) == 3:
            self.tables.setdefault(change[0], {})[change[1]] = change[2]
        else:
            self.tables.get(change[0], {}).pop(change[1], None)

    def _read(self) -> Iterator[Change]:
        with os.fdopen(os.dup(self._file), "rb") as f:
            while len(head := f.read(_HEAD.size)) == _HEAD.size:
                size, crc = _HEAD.unpack(head)
                body = f.read(size)
                if len(body) != size or zlib.crc32(body) != crc:
                    return
                yield from msgpack.unpackb(body, use_list=False, strict_map_key=False)

    def _rewrite(self) -> None:
        """The same tables in as few bytes as it takes."""
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(file, 0o600)
        for name, table in self.tables.items():
            for key, value in table.items():
                _write(file, _frame([(name, key, value)]))
        self._size, self._added = os.fstat(file).st_size, 0
        os.fsync(file)
        fresh.rename(self._path)
        os.close(self._file)
        self._file = file


def _frame(changes: list[Change]) -> bytes:
    body: bytes = msgpack.packb(changes, use_bin_type=True)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]
