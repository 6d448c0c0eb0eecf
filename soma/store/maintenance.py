"""Keeps a cache directory tidy: what there is, what may go, what is damaged, what must stay.

What goes is decided purely (`victims`), on a picture of the directory (`look`); the functions around it hold the gate, so that nothing is
written meanwhile. Entries used longest ago go first; a value goes when no record names it any more. Pinned entries never go.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from soma.errors import CacheError, CacheMissError
from soma.store import blob, locks
from soma.store.cache import default_path
from soma.store.disk import Disk, read_record
from soma.store.folder import sync


@dataclass(frozen=True, slots=True)
class Entry:
    """A record: its value's digest and size on disk, what it is, when it was used last."""

    key: str
    digest: str
    nbytes: int
    title: str
    summary: str
    used: float
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """A picture of a directory."""

    entries: tuple[Entry, ...]
    values: Mapping[str, int]
    """Size in bytes of every value, by digest."""
    broken: tuple[str, ...] = ()
    """Keys of records that cannot be read, or whose value is gone."""

    @property
    def nbytes(self) -> int:
        return sum(self.values.values())


@dataclass(frozen=True, slots=True)
class Victims:
    """What may go: keys of records, digests of values."""

    keys: frozenset[str]
    digests: frozenset[str]


@dataclass(slots=True)
class Freed:
    """What was removed."""

    entries: int = 0
    values: int = 0
    nbytes: int = 0
    leftovers: int = 0
    """Files that killed writers left."""


@dataclass(slots=True)
class Verified:
    """What a look at every byte found."""

    values: int = 0
    nbytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """Digests of values that are not what was written."""
    broken: list[str] = field(default_factory=list)
    """Keys of records that cannot be read, or whose value is gone or damaged."""

    @property
    def sound(self) -> bool:
        return not self.damaged and not self.broken


def victims(contents: Contents, now: float, max_bytes: int | None = None, older_than: float | None = None) -> Victims:
    """What may go so that at most `max_bytes` stay, and nothing that was not used for `older_than` seconds. Pure."""
    going = set(contents.broken)
    uses = Counter(entry.digest for entry in contents.entries)
    kept = sum(contents.values[digest] for digest in uses)
    for entry in sorted(contents.entries, key=lambda entry: (entry.used, entry.key)):
        too_much = max_bytes is not None and kept > max_bytes
        too_old = older_than is not None and now - entry.used > older_than
        if not entry.pinned and (too_much or too_old):
            going.add(entry.key)
            uses[entry.digest] -= 1
            if not uses[entry.digest]:
                kept -= contents.values[entry.digest]
    return Victims(frozenset(going), frozenset(digest for digest in contents.values if not uses[digest]))


def existing(path: str | None = None) -> Disk:
    """The cache at a path, by default the default one; CacheError if there is none."""
    where = os.path.abspath(os.path.expanduser(path)) if path else default_path()
    if not os.path.exists(os.path.join(where, "format")):
        raise CacheError(f"there is no cache at {where}")
    return Disk(where)


def look(disk: Disk) -> Contents:
    """What there is, by names and sizes; values are not read."""
    values = dict(_files(disk, "blobs"))
    pinned = set(pins(disk))
    entries, broken = [], []
    for key, _ in _files(disk, "actions"):
        path = disk.record_path(key)
        record = read_record(path)
        if record is None or record.digest not in values:
            broken.append(key)
            continue
        with contextlib.suppress(FileNotFoundError):  # removed just now
            used = os.stat(path).st_mtime
            entries.append(Entry(key, record.digest, values[record.digest], record.made.title, record.made.summary, used, key in pinned))
    return Contents(tuple(entries), values, tuple(broken))


def gc(disk: Disk, max_bytes: int | None = None, older_than: float | None = None) -> Freed:
    """Remove entries used longest ago until at most `max_bytes` stay, those not used for `older_than` seconds, values that no
    record names, and what killed writers left."""
    with disk.alone():
        contents = look(disk)
        freed = _remove(disk, contents, victims(contents, time.time(), max_bytes, older_than))
        for name in os.listdir(os.path.join(disk.path, "tmp")):  # nobody writes now, so its writer is dead
            os.unlink(os.path.join(disk.path, "tmp", name))
            freed.leftovers += 1
    for name in os.listdir(os.path.join(disk.path, "locks")):
        freed.leftovers += locks.is_free(os.path.join(disk.path, "locks", name))
    return freed


def clear(disk: Disk, all: bool = False) -> Freed:
    """Remove every entry but the pinned ones; with `all` these too, and their pins."""
    with disk.alone():
        if all:
            for key in pins(disk):
                os.unlink(_pin_path(disk, key))
        contents = look(disk)
        freed = _remove(disk, contents, victims(contents, time.time(), max_bytes=-1))
        for name, _ in _files(disk, "titles"):
            os.unlink(os.path.join(disk.path, "titles", name[:2], name))
    return freed


def verify(disk: Disk, repair: bool = True) -> Verified:
    """Read every byte of every value, and every record; `repair` removes what is damaged."""
    found = Verified()
    for digest, size in _files(disk, "blobs"):
        found.values += 1
        found.nbytes += size
        if not _is_sound(disk, digest):
            found.damaged.append(digest)
    with disk.alone() if repair else contextlib.nullcontext():
        contents = look(disk)
        damaged = {digest for digest in found.damaged if digest in contents.values and not _is_sound(disk, digest)}
        found.damaged = sorted(damaged)
        found.broken += contents.broken
        found.broken += (entry.key for entry in contents.entries if entry.digest in damaged)
        if repair:
            _remove(disk, contents, Victims(frozenset(found.broken), frozenset(damaged)))
    return found


def pin(disk: Disk, prefix: str) -> str:
    """Keep an entry whatever happens; the beginning of its key is enough. Returns the key.

    Raises:
        CacheError: no entry begins like this, or several do.
    """
    with disk.together():
        key = _only((key for key, _ in _files(disk, "actions")), prefix, "entry")
        with open(_pin_path(disk, key), "wb"):
            sync(os.path.join(disk.path, "pins"))
    return key


def unpin(disk: Disk, prefix: str) -> str:
    """Let a pinned entry go when its time comes; CacheError if no pin, or several, begin like this."""
    key = _only(iter(pins(disk)), prefix, "pinned entry")
    os.unlink(_pin_path(disk, key))
    return key


def pins(disk: Disk) -> list[str]:
    """Keys of the pinned entries."""
    return sorted(os.listdir(os.path.join(disk.path, "pins")))


def _only(keys: Iterator[str], prefix: str, what: str) -> str:
    found = sorted(key for key in keys if key.startswith(prefix.lower()))
    if len(found) != 1:
        many = f"{len(found)} begin with {prefix!r} ({', '.join(found[:3])}, ...): give more of the key"
        raise CacheError(many if found else f"no {what} has a key that begins with {prefix!r}; `soma cache stats` shows them")
    return found[0]


def _pin_path(disk: Disk, key: str) -> str:
    return os.path.join(disk.path, "pins", key)


def _files(disk: Disk, part: str) -> Iterator[tuple[str, int]]:
    """Name and size of each file in one part of the directory, sorted."""
    top = os.path.join(disk.path, part)
    for room in sorted(os.listdir(top)):
        with os.scandir(os.path.join(top, room)) as inside:
            for file in sorted(inside, key=lambda file: file.name):
                with contextlib.suppress(FileNotFoundError):  # removed just now
                    yield file.name, file.stat().st_size


def _is_sound(disk: Disk, digest: str) -> bool:
    try:
        with open(disk.blob_path(digest), "rb", buffering=0) as file:
            blob.check(file, digest)
    except FileNotFoundError:  # removed just now
        return True
    except CacheMissError:
        return False
    return True


def _remove(disk: Disk, contents: Contents, going: Victims) -> Freed:
    """Records first: a record without a value is damage, a value without a record is only waste."""
    for path in (*map(disk.record_path, going.keys), *map(disk.blob_path, going.digests)):
        with contextlib.suppress(FileNotFoundError):  # somebody removed it by hand
            os.unlink(path)
    return Freed(len(going.keys), len(going.digests), sum(contents.values[digest] for digest in going.digests))
