"""The tier in this process's memory: encoded values, the ones used longest ago dropped first.

Values are kept as bytes, so that what is handed out is made anew each time and shares nothing. A value that is larger than the limit is
not kept. Any thread may use it. Invariant: all that is kept, records included, is at most `limit` bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from soma.errors import CacheMissError
from soma.store.records import Made, Record
from soma.transport import codec
from soma.transport.codec import Packed

RECORD = 1024
"""Bytes that the record of one key counts for."""

TITLES = 10_000
"""Titles whose newest record is remembered."""


@dataclass(slots=True)
class _Kept:
    body: bytes
    buffers: tuple[bytes, ...]
    size: int
    keys: set[str] = field(default_factory=set)


class Memory:
    """Values by digest, records by key. `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._values: OrderedDict[str, _Kept] = OrderedDict()
        self._records: dict[str, Record] = {}
        self._last: OrderedDict[str, Made] = OrderedDict()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that are kept."""
        return self._used

    def __len__(self) -> int:
        return len(self._records)

    def keep(self, key: str, record: Record, packed: Packed) -> None:
        """Keep a value under a key; drops others until it fits."""
        size = codec.size_of(packed)
        fits = size + RECORD <= self.limit
        # The copy is what takes long: before the lock.
        kept = _Kept(packed.body, tuple(bytes(b) for b in packed.buffers) if fits else (), size)
        with self._lock:
            self._note(record.made)
            self._drop_key(key)
            if not fits:
                return
            kept = self._values.setdefault(record.digest, kept)
            self._values.move_to_end(record.digest)
            self._used += RECORD + (0 if kept.keys else kept.size)
            kept.keys.add(key)
            self._records[key] = record
            while self._used > self.limit:
                self._drop_value(next(iter(self._values)))

    def find(self, key: str) -> Record | None:
        """What stands under a key; counts as a use."""
        with self._lock:
            record = self._records.get(key)
            if record is not None:
                self._values.move_to_end(record.digest)
            return record

    def load(self, digest: str) -> Any:
        """A value of its own for the caller, who may change it. CacheMissError if it is not kept."""
        with self._lock:
            kept = self._values.get(digest)
            if kept is None:
                raise CacheMissError(f"entry {digest}: not in memory any more")
            self._values.move_to_end(digest)
        return codec.decode(kept.body, kept.buffers)

    def last(self, title: str) -> Made | None:
        """The newest of a title that was kept here, whether its value still is or not."""
        with self._lock:
            return self._last.get(title)

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._values.clear()
            self._records.clear()
            self._last.clear()
            self._used = 0

    def _note(self, made: Made) -> None:
        self._last[made.title] = made
        self._last.move_to_end(made.title)
        if len(self._last) > TITLES:
            self._last.popitem(last=False)

    def _drop_key(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is None:
            return
        self._used -= RECORD
        kept = self._values[record.digest]
        kept.keys.remove(key)
        if not kept.keys:
            del self._values[record.digest]
            self._used -= kept.size

    def _drop_value(self, digest: str) -> None:
        for key in list(self._values[digest].keys):
            self._drop_key(key)
