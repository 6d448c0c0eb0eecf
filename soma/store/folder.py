"""The cache's directory: private, of one format, and written so that a file is there whole or not at all.

    format          what this directory is, and which version of it
    gate            its lock: shared by who writes, exclusive for who removes
    blobs/ab/…      values, by digest                    actions/ab/…  records, by key
    titles/ab/…     the newest record of each title      pins/…        keys of entries that are kept
    locks/…         keys of values that are being made   tmp/…         what is being written

Refuses, with a CacheError that says what to do: a directory of another user, or that others may write to (reading an entry runs code
that its writer chose), one of another format, and one that holds something else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from soma.errors import CacheError, CacheFullError
from soma.store.locks import FULL, locked

FORMAT = b"soma cache 1\n"
PARTS = ("blobs", "actions", "titles", "locks", "pins", "tmp")

_ELSEWHERE = "choose another with cache_path=, or $SOMA_CACHE"


def open_folder(path: str) -> None:
    """Make the directory, or check that it is one that may be used."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        make_private(path)
        _check_private(path)
        _check_format(path)
        for part in PARTS:
            make_private(os.path.join(path, part))
    except OSError as error:
        kind = CacheFullError if error.errno in FULL else CacheError
        raise kind(f"the cache at {path} cannot be used: {error.strerror}; {_ELSEWHERE}") from error


def make_private(directory: str) -> bool:
    """Make a directory of the user's own; False if it is there."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return False
    os.chmod(directory, 0o700)  # mkdir obeys the umask, which may have taken our own bits away
    return True


def _check_private(path: str) -> None:
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise CacheError(f"the cache at {path} is no directory; {_ELSEWHERE}")
    if found.st_uid != os.geteuid():
        raise CacheError(f"the cache at {path} belongs to user {found.st_uid}, and this is user {os.geteuid()}; {_ELSEWHERE}")
    if found.st_mode & 0o022:
        raise CacheError(f"others may write to the cache at {path} (mode {stat.S_IMODE(found.st_mode):04o}), and reading an entry runs "
                         f"code that its writer chose; chmod go-w {path}, after a look at what is in it")


def _check_format(path: str) -> None:
    file = os.path.join(path, "format")
    try:
        with open(file, "rb") as opened:
            found = opened.read(100)
    except FileNotFoundError:
        strangers = sorted(set(os.listdir(path)) - {*PARTS, "gate", "format"})
        if strangers:
            raise CacheError(f"{path} is no cache, and holds {strangers[0]!r}; {_ELSEWHERE} that is empty or does not exist") from None
        make_private(os.path.join(path, "tmp"))
        with locked(os.path.join(path, "gate"), shared=True), Draft(path, [FORMAT]) as draft:
            draft.publish(file)
            sync(path)
        return
    if found != FORMAT:
        raise CacheError(f"the cache at {path} has the format {found.decode(errors='replace').strip()!r}, and this soma reads "
                         f"{FORMAT.decode().strip()!r}; {_ELSEWHERE}, or remove it")


@dataclass(slots=True)
class Draft:
    """A file that is written in `tmp`, to be renamed when all of it is on the disk. Leaves nothing if it is not published.

    Raises:
        CacheFullError: the disk, the user's quota or the largest size of a file does not allow it.
    """

    folder: str
    pieces: Iterable[bytes | memoryview]
    lasting: bool = True
    """Whether it must survive a loss of power."""
    _path: str = ""

    def __enter__(self) -> Draft:
        self._path = os.path.join(self.folder, "tmp", secrets.token_hex(8))
        with writing(self.folder):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, 0o600)
                for piece in self.pieces:
                    left = memoryview(piece)
                    while left:
                        left = left[os.write(fd, left):]
                if self.lasting:
                    os.fsync(fd)
            except BaseException:
                os.unlink(self._path)
                raise
            finally:
                os.close(fd)
        return self

    def publish(self, target: str) -> None:
        """Rename it: from now on others see it, and after `sync` of its directory it stays."""
        with writing(self.folder):
            os.rename(self._path, target)
            self._path = ""

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._path:
            os.unlink(self._path)


@contextlib.contextmanager
def writing(folder: str) -> Iterator[None]:
    """Say what a failed write means."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise CacheFullError(f"no room in the cache at {folder}: {error.strerror}; "
                                 "`soma cache gc --max-size ...` makes some") from error
        raise CacheError(f"the cache at {folder} cannot be written: {error.strerror}") from error


def sync(directory: str) -> None:
    """What was renamed into a directory survives a loss of power."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
