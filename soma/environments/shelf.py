"""Directories that are made once, found by key, shared by threads and processes, and removed when nobody used them for long.

    <root>/<key>/            complete: it came here in one rename, with `.complete` (its size) inside
    <root>/.making/<key>-…   being made; what a maker that died left is removed by the next maker of the same key
    <root>/.locks/<key>      held while it is made, looked up or removed

The kernel drops the locks of a dead process, so none is ever stale. A lease (a shared lock on `.complete`) keeps a directory from being
removed while somebody uses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from soma.config import GIB
from soma.environments.leases import Lease, hold, private_directory
from soma.errors import EnvironmentBuildError

_MARK = ".complete"
_LOOK = 0.1
"""Seconds between looks at whether somebody who waits is to stop."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A directory, the lease that keeps it, and whether it was made for this."""

    path: Path
    lease: Lease
    made: bool


class Shelf:
    """The directories below one root.

    Args:
        root: made when it is missing, for this user only.
        most: how many to keep.
        most_bytes: how much they may hold together.
    """

    def __init__(self, root: Path, *, most: int = 32, most_bytes: int = 20 * GIB) -> None:
        self.root, self._most, self._most_bytes = root, most, most_bytes
        for folder in (root, root / ".making", root / ".locks"):
            private_directory(folder)

    def take(self, key: str, make: Callable[[Path], None], *, timeout: float, stop: Callable[[], bool] = lambda: False,
             sound: Callable[[Path], bool] = Path.is_dir) -> Taken:
        """The directory of a key; made by `make(path)` if there is none, or it is not `sound` any more.

        Args:
            timeout: seconds to wait for somebody else who makes it.
            stop: asked while waiting; True gives up.

        Raises:
            EnvironmentBuildError: the wait was too long, or stopped.
        """
        with _lock_of(self, key, timeout, stop):
            path = self.root / key
            made = not ((path / _MARK).exists() and sound(path))
            if made:
                self._make(key, path, make)
            lease = hold(path / _MARK, shared=True)
            assert lease is not None
            os.utime(path / _MARK)
            taken = Taken(path, lease, made)
        if made:
            self._shrink()
        return taken

    def keys(self) -> list[str]:
        """Those that are complete, the one used last at the end."""
        return [path.name for _, path in sorted(self._complete())]

    def _make(self, key: str, path: Path, make: Callable[[Path], None]) -> None:
        for left in (self.root / ".making").glob(f"{key}-*"):
            _discard(left)  # who made it is gone: we hold the lock
        fresh = self.root / ".making" / f"{key}-{secrets.token_hex(4)}"
        fresh.mkdir(mode=0o700)
        try:
            make(fresh)
            (fresh / _MARK).write_text(json.dumps({"bytes": used_bytes(fresh), "made": time.time()}))
            if path.exists():
                shutil.rmtree(path)
            fresh.rename(path)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _complete(self) -> list[tuple[float, Path]]:
        found = []
        for path in self.root.iterdir():
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    found.append(((path / _MARK).stat().st_mtime, path))
        return found

    def _shrink(self) -> None:
        """Remove those not used for longest until the limits are kept; never one that is in use."""
        oldest_first = [path for _, path in sorted(self._complete())]
        sizes = {path: _size_of(path) for path in oldest_first}
        for path in oldest_first:
            if len(sizes) <= self._most and sum(sizes.values()) <= self._most_bytes:
                return
            if self._remove(path):
                del sizes[path]

    def _remove(self, path: Path) -> bool:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_lock_of(self, path.name, 0, lambda: False))
            except EnvironmentBuildError:
                return False  # somebody takes it
            if not (path / _MARK).exists():
                return True
            lease = hold(path / _MARK, wait=False)
            if lease is None:
                return False  # somebody uses it
            stack.callback(lease.release)
            trash = self.root / ".making" / f"{path.name}-{secrets.token_hex(4)}"
            path.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
        return True


@contextlib.contextmanager
def _lock_of(shelf: Shelf, key: str, timeout: float, stop: Callable[[], bool]) -> Iterator[None]:
    try:
        import filelock
    except ModuleNotFoundError:
        raise EnvironmentBuildError('environments need uv and filelock: pip install "soma[env]"') from None
    lock = filelock.FileLock(shelf.root / ".locks" / key, mode=0o600)
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        try:
            lock.acquire(timeout=max(0.0, min(_LOOK, left)), poll_interval=0.02)
            break
        except filelock.Timeout:
            if stop():
                raise EnvironmentBuildError("stopped while another process made the same") from None
            if left <= 0:
                raise EnvironmentBuildError(f"another process was still making {key} after {timeout:g} s") from None
    try:
        yield
    finally:
        lock.release()


def _discard(path: Path) -> None:
    """Remove a directory that somebody who is being killed may still write into."""
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def _size_of(path: Path) -> int:
    try:
        return int(json.loads((path / _MARK).read_bytes())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):  # removed meanwhile, or torn by a crash of the machine
        return 0


def used_bytes(directory: Path) -> int:
    """Bytes on the disk of everything below a directory; what vanishes meanwhile counts for nothing, links are not followed."""
    total, seen, folders = 0, set(), [os.fspath(directory)]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except (FileNotFoundError, PermissionError):
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                total += found.st_blocks * 512
            seen.add((found.st_dev, found.st_ino))
    return total
