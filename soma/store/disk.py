"""The tier on disk: values by their digest, and records that say which value stands under a key.

A value is stored before the record that names it, each written aside, flushed, and renamed, and the directories are flushed at last. So
a SIGKILL leaves no record without its value, and what was stored stays. (A loss of power may undo the first renaming and not the
second on some file systems: whoever finds a record looks for the value too.) Both are written before either is renamed, so a full
disk leaves neither. Who writes holds the gate with others, who removes holds it alone: no value goes between the moment that a
writer sees it and the record that needs it. Readers hold nothing; an entry that goes from under them is a CacheMissError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from blake3 import blake3

from soma.errors import CacheError, CacheMissError
from soma.store import blob, locks
from soma.store.folder import Draft, make_private, open_folder, sync, writing
from soma.store.records import Made, Record, check_key, made_from_bytes, made_to_bytes
from soma.transport.codec import Packed


class Disk:
    """A cache directory, opened; it holds no descriptor and no lock between calls."""

    def __init__(self, path: str) -> None:
        open_folder(path)
        self.path = path

    # -- reading ---------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Record | None:
        """What stands under a key, if its value is there; counts as a use."""
        path = self.record_path(key)
        record = read_record(path)
        if record is None or not os.path.exists(self.blob_path(record.digest)):
            return None
        try:
            os.utime(path)
        except FileNotFoundError:  # removed just now
            return None
        return record

    def touch(self, key: str) -> None:
        """Count a use."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.record_path(key))

    def load(self, digest: str, key: str = "") -> Any:
        """A value; CacheMissError if it is gone or damaged. What is damaged is removed, with the record of `key`."""
        path = self.blob_path(digest)
        try:
            file = open(path, "rb", buffering=0)
        except FileNotFoundError:
            raise CacheMissError(f"entry {digest}: gone from {self.path}") from None
        except OSError as error:
            raise CacheError(f"{path} cannot be read: {error.strerror}") from error
        with file:
            try:
                return blob.read(file, digest)
            except CacheMissError:
                self._remove_damaged(path, os.fstat(file.fileno()).st_ino, key)
                raise

    def last(self, title: str) -> Made | None:
        """The newest record of a title."""
        try:
            with open(self._title_path(title), "rb") as file:
                return made_from_bytes(file.read())
        except FileNotFoundError:
            return None

    def _remove_damaged(self, path: str, inode: int, key: str) -> None:
        with self.alone():
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:  # else somebody stored it anew
                    os.unlink(path)
            if key and not os.path.exists(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.record_path(key))

    # -- writing ---------------------------------------------------------------------------------------------------------

    def store(self, key: str, record: Record, packed: Packed) -> None:
        """Put a value under a key. A value that is there already is not written again."""
        self._store(key, record, blob.size_of(packed), blob.pieces(record.digest, packed))

    def adopt(self, key: str, record: Record, data: bytes) -> None:
        """The same with the bytes of a blob that came from elsewhere, and were checked."""
        self._store(key, record, len(data), [data])

    def _store(self, key: str, record: Record, size: int, pieces: Iterable[bytes | memoryview]) -> None:
        target, action, title = self.blob_path(record.digest), self.record_path(key), self._title_path(record.made.title)
        with self.together(), ExitStack() as drafts:
            rooms = [os.path.dirname(path) for path in (target, action, title)]
            with writing(self.path):
                new = [room for room in rooms if make_private(room)]
            written = drafts.enter_context(Draft(self.path, [record.to_bytes()]))
            newest = drafts.enter_context(Draft(self.path, [made_to_bytes(record.made)], lasting=False))
            if _size(target) != size:
                drafts.enter_context(Draft(self.path, pieces)).publish(target)
            written.publish(action)
            newest.publish(title)
            with writing(self.path):
                for directory in (*rooms[:2], *map(os.path.dirname, new)):
                    sync(directory)

    # -- locks -----------------------------------------------------------------------------------------------------------

    def only_once(self, key: str) -> AbstractContextManager[None]:
        """Of all processes and threads, one at a time."""
        return locks.alone(os.path.join(self.path, "locks", check_key(key)))

    def together(self) -> AbstractContextManager[None]:
        """Nothing is removed meanwhile."""
        return locks.locked(os.path.join(self.path, "gate"), shared=True)

    def alone(self) -> AbstractContextManager[None]:
        """Nothing is written or removed meanwhile."""
        return locks.locked(os.path.join(self.path, "gate"))

    # -- paths -----------------------------------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> str:
        return os.path.join(self.path, "blobs", digest[:2], check_key(digest))

    def record_path(self, key: str) -> str:
        return os.path.join(self.path, "actions", key[:2], check_key(key))

    def _title_path(self, title: str) -> str:
        name = blake3(title.encode("utf-8", "surrogatepass")).hexdigest(length=20)
        return os.path.join(self.path, "titles", name[:2], name)


def read_record(path: str) -> Record | None:
    """The record in a file; None if there is none, or it is damaged."""
    try:
        with open(path, "rb", buffering=0) as file:
            return Record.from_bytes(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}") from error


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
