"""The tier that several machines share: the layout of `disk` under an fsspec URL.

A value is stored before the record that names it. Where the place can rename (a file system) both are written aside first; an object
store makes a whole object of each write by itself; and a value that is damaged all the same is found by its checksum.
A place that fails (network, permissions) is not the fault of the run: it is told once, as a RuntimeWarning, and not asked again for
`PAUSE` seconds; meanwhile nothing is found there, and nothing stored.
Whoever may write there may run code wherever an entry is read: share it with those whom you would give a shell.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from soma.errors import CacheError
from soma.store.folder import FORMAT
from soma.store.records import Record, check_key

T = TypeVar("T")

PAUSE = 60.0
"""Seconds that a place which failed is left alone."""

_MISSING = 'a cache at a URL needs fsspec: pip install "soma[cloud]"'


class Shared:
    """A place by its URL; what is at fault with the URL itself is a CacheError at once."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise CacheError(_MISSING) from None
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # a scheme that is unknown, or needs one more package
            raise CacheError(f"the cache at {url}: {error}") from error
        self.url = url
        self._root = self._root.rstrip("/")
        self._checked = self._told = False
        self._resume = 0.0

    def find(self, key: str) -> Record | None:
        """What stands under a key."""
        data = self._try(lambda: self._read(self._path("actions", key)))
        return None if data is None else Record.from_bytes(data)

    def fetch(self, digest: str) -> bytes | None:
        """The bytes of a value, unchecked; None if they cannot be had."""
        return self._try(lambda: self._read(self._path("blobs", digest)))

    def store(self, key: str, record: Record, data: bytes | str) -> None:
        """Put a value under a key: its bytes, or the path of the file that has them."""

        def write() -> None:
            if self._read(f"{self._root}/format") is None:
                self._write(f"{self._root}/format", FORMAT)
            target = self._path("blobs", record.digest)
            if not self._files.exists(target):
                self._write(target, data)
            self._write(self._path("actions", key), record.to_bytes())

        self._try(write)

    def forget(self, key: str, digest: str) -> None:
        """Remove a value that turned out to be damaged, and the record that led to it."""

        def remove() -> None:
            for path in (self._path("actions", key), self._path("blobs", digest)):
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(path)

        self._try(remove)

    def _read(self, path: str) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    def _write(self, path: str, data: bytes | str) -> None:
        aside = f"{self._root}/tmp/{secrets.token_hex(8)}"
        whole = self._files.async_impl  # an object store: a write that is broken off leaves nothing
        at = path if whole else aside
        for directory in {at.rpartition("/")[0], path.rpartition("/")[0]}:
            self._files.makedirs(directory, exist_ok=True)
        if isinstance(data, str):
            self._files.put_file(data, at)
        else:
            self._files.pipe_file(at, data)
        if not whole:
            self._files.mv(aside, path)

    def _path(self, part: str, key: str) -> str:
        return f"{self._root}/{part}/{key[:2]}/{check_key(key)}"

    def _try(self, ask: Callable[[], T]) -> T | None:
        """What the place answers; None if it does not, which is told once."""
        if time.monotonic() < self._resume:
            return None
        try:
            if not self._checked:
                self._check_format()
            return ask()
        except CacheError:
            raise
        except Exception as error:  # each place has errors of its own, and none of them is the run's
            self._resume = time.monotonic() + PAUSE
            if not self._told:
                self._told = True
                said = f"the shared cache at {self.url} fails, and is left out: {type(error).__name__}: {error}"
                warnings.warn(said, RuntimeWarning, stacklevel=4)
            return None

    def _check_format(self) -> None:
        found = self._read(f"{self._root}/format")
        if found is not None and found != FORMAT:
            raise CacheError(f"the cache at {self.url} has the format {found[:100]!r}, and this soma reads {FORMAT!r}; choose another URL")
        self._checked = True


def is_url(path: Any) -> bool:
    """Whether a path is an fsspec URL."""
    return isinstance(path, str) and "://" in path
