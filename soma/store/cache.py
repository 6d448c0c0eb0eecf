"""What graphs use: one cache of up to three tiers. Keys are the caller's; digests are those of the values.

`find` asks memory, then the disk, then the shared place; `load` brings what it gives into the tiers before. `store` writes to all. Beside
a disk, memory keeps only what is small: the system keeps files in memory too, and a large value is mapped from there without
a copy. Values are private to whoever loads them, and can be written to.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from soma.config import MIB
from soma.errors import CacheFullError, CacheMissError
from soma.store import blob
from soma.store.disk import Disk
from soma.store.memory import Memory
from soma.store.records import Hit, Made, Record, check_key
from soma.store.shared import Shared, is_url
from soma.transport import codec
from soma.transport.codec import Packed

MEMORY_BYTES = 256 * MIB
"""What the memory tier of one process keeps at most."""

BESIDE_DISK = 16
"""The part of it that a single value may take, where there is a disk tier too: one in so many."""

CHOICES = ("memory", "disk", "tiered")


def default_path() -> str:
    """`$SOMA_CACHE`, else `$XDG_CACHE_HOME/soma`, else `~/.cache/soma`."""
    chosen = os.environ.get("SOMA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.abspath(os.path.expanduser(chosen or os.path.join(base, "soma")))


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """A cache in plain data: `Cache.open` opens the same one in another process."""

    path: str | None
    """Its directory; None without a disk tier."""
    url: str | None
    """Its shared place; None without one."""
    memory_bytes: int
    """Limit of its memory tier; 0 without one."""


_memories: dict[CacheSpec, Memory] = {}
_memories_lock = threading.Lock()


def _memory_of(spec: CacheSpec) -> Memory:
    """The memory tier of this process for a spec: one and the same for equal ones, and kept as long as the process lives."""
    with _memories_lock:
        return _memories.setdefault(spec, Memory(spec.memory_bytes))


class Cache:
    """A cache.

    Args:
        memory_bytes: limit of the memory tier in bytes; 0 switches it off.
        path: directory of the disk tier; "" is `default_path()`, None switches it off.
        url: an fsspec URL that machines share; None switches it off.

    Raises:
        CacheError: the directory or the URL cannot be used; says what to do.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, path: str | os.PathLike[str] | None = "", url: str | None = None) -> None:
        where = None if path is None else os.path.abspath(os.path.expanduser(os.fspath(path) or default_path()))
        self.spec = CacheSpec(where, url, memory_bytes)
        self._disk = Disk(where) if where is not None else None
        self._shared = Shared(url) if url is not None else None
        self._memory = _memory_of(self.spec) if memory_bytes else None
        self._told = False

    @classmethod
    def of(cls, what: None | str | Cache, path: str | os.PathLike[str] | None = None) -> Cache | None:
        """The cache that a graph was asked for: None, "memory", "disk", "tiered", or one that is there already.

        `path` is a directory (by default `default_path()`), or a URL: then its place is shared beside a disk tier in the default one.

        Raises:
            ValueError: another word, or a path for a cache that has none.
            CacheError: it cannot be used.
        """
        if what is not None and not isinstance(what, Cache) and what not in CHOICES:
            raise ValueError(f"cache={what!r}: None, {', '.join(map(repr, CHOICES))}, or a soma.store.Cache")
        if path is not None and what not in ("disk", "tiered"):
            raise ValueError(f"cache_path={str(path)!r} needs cache='disk' or cache='tiered', not {what!r}")
        if what is None or isinstance(what, Cache):
            return what
        if what == "memory":
            return cls(path=None)
        memory = MEMORY_BYTES if what == "tiered" else 0
        if is_url(path):
            return cls(memory_bytes=memory, url=str(path))
        return cls(memory_bytes=memory, path=path or "")

    @classmethod
    def open(cls, spec: CacheSpec) -> Cache:
        """The cache of a spec, in this process."""
        return cls(memory_bytes=spec.memory_bytes, path=spec.path, url=spec.url)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Hit | None:
        """What stands under a key, and where; no value is read."""
        check_key(key)
        if self._memory is not None and (record := self._memory.find(key)) is not None:
            if self._disk is not None:
                self._disk.touch(key)
            return Hit.of(key, record, "memory")
        if self._disk is not None and (record := self._disk.find(key)) is not None:
            return Hit.of(key, record, "disk")
        if self._shared is not None and (record := self._shared.find(key)) is not None:
            return Hit.of(key, record, "shared")
        return None

    def load(self, hit: Hit) -> Any:
        """The value of an entry, private to the caller and writable.

        Raises:
            CacheMissError: it is gone or damaged; the entry was removed, and the value must be made again.
        """
        record = Record(hit.digest, hit.nbytes, hit.made)
        if hit.tier == "memory" and self._memory is not None:
            with contextlib.suppress(CacheMissError):  # dropped since; it may lie on the disk
                return self._memory.load(hit.digest)
        if hit.tier == "shared" and self._shared is not None:
            return self._load_shared(hit.key, record)
        if self._disk is None:
            raise CacheMissError(f"entry {hit.key}: not in memory any more")
        value = self._disk.load(hit.digest, hit.key)
        self._remember(hit.key, record, value)
        return value

    def load_value(self, digest: str) -> Any:
        """The value that has a digest, wherever it lies."""
        if self._memory is not None:
            with contextlib.suppress(CacheMissError):
                return self._memory.load(digest)
        if self._disk is None:
            raise CacheMissError(f"entry {digest}: not in memory any more")
        return self._disk.load(digest)

    def last(self, title: str) -> Made | None:
        """How the newest entry of a title was made, here or on the disk."""
        found = [tier.last(title) for tier in (self._memory, self._disk) if tier is not None]
        return max((made for made in found if made is not None), key=lambda made: made.created, default=None)

    def _load_shared(self, key: str, record: Record) -> Any:
        assert self._shared is not None
        data = self._shared.fetch(record.digest)
        if data is None:
            raise CacheMissError(f"entry {key}: gone from {self._shared.url}")
        try:
            value = blob.from_memory(memoryview(data), record.digest)
        except CacheMissError:
            self._shared.forget(key, record.digest)
            raise
        if self._disk is not None:
            try:
                self._disk.adopt(key, record, data)
            except CacheFullError as error:  # the value is here all the same
                self._warn(str(error))
        self._remember(key, record, value)
        return value

    # -- writing ---------------------------------------------------------------------------------------------------------

    def store(self, key: str, value: Any, digest: str, made: Made) -> Hit:
        """Put a value under a key, in every tier; `digest` is its own. A value that is there is not written again.

        Raises:
            CacheFullError: the disk has no room; nothing was left there.
            NotSerializableError: the value cannot be pickled; names the part.
        """
        packed = blob.pack(value)
        record = Record(check_key(digest), codec.size_of(packed), made)
        self._keep(check_key(key), record, packed)
        if self._disk is not None:
            self._disk.store(key, record, packed)
        if self._shared is not None:
            self._shared.store(key, record, blob.to_bytes(digest, packed) if self._disk is None else self._disk.blob_path(digest))
        return Hit.of(key, record, "memory" if self._disk is None else "disk")

    def keep(self, key: str, value: Any, digest: str, made: Made) -> Hit:
        """Put a value in memory only: it lies on the disk already, or shall not."""
        packed = blob.pack(value)
        record = Record(check_key(digest), codec.size_of(packed), made)
        self._keep(check_key(key), record, packed)
        return Hit.of(key, record, "memory")

    def only_once(self, key: str) -> AbstractContextManager[None]:
        """While one process or thread is inside with a key, others wait; who comes in looks again before it makes the value.

        Ends with its process, however that ends. Does nothing without a disk tier.
        """
        return self._disk.only_once(key) if self._disk is not None else contextlib.nullcontext()

    def forget_memory(self) -> None:
        """Empty the memory tier, which caches of equal specs share."""
        if self._memory is not None:
            self._memory.clear()

    def _keep(self, key: str, record: Record, packed: Packed) -> None:
        if self._memory is not None and self._fits(record):
            self._memory.keep(key, record, packed)

    def _remember(self, key: str, record: Record, value: Any) -> None:
        if self._memory is not None and self._fits(record):
            self._memory.keep(key, record, blob.pack(value))

    def _fits(self, record: Record) -> bool:
        return self._disk is None or record.nbytes <= self.spec.memory_bytes // BESIDE_DISK

    def _warn(self, said: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(said, RuntimeWarning, stacklevel=4)

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache.open, (self.spec,)

    def __repr__(self) -> str:
        return f"Cache(path={self.spec.path!r}, url={self.spec.url!r}, memory_bytes={self.spec.memory_bytes})"
