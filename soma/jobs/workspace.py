"""Directories of jobs, one for each, locked by the process that uses it: what a dead one left is removed by the next that comes.

    <root>/<name>-<8 hex>/          in use
    <root>/<name>-<8 hex>.lock      held by its user
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from soma.environments import Lease, hold, private_directory


def jobs_root() -> Path:
    """`$SOMA_JOBS`, else `soma/jobs` in the user's cache."""
    given = os.environ.get("SOMA_JOBS")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache and os.path.isabs(cache) else Path.home() / ".cache") / "soma" / "jobs"


class Workspace:
    """A directory of its own. `remove` ends it; so does the end of the process, in effect."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path, self._lease = path, lease

    @classmethod
    def create(cls, name: str, root: Path | None = None) -> Workspace:
        root = private_directory(root or jobs_root())
        door = hold(root / ".lock")  # nobody sweeps between the directory and its lock
        assert door is not None
        try:
            sweep(root)
            path = root / f"{name}-{secrets.token_hex(4)}"
            lease = hold(_lock_of(path))
            assert lease is not None
            path.mkdir(mode=0o700)
        finally:
            door.release()
        return cls(path, lease)

    def folder(self, name: str) -> Path:
        """A directory inside; made if it is missing."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def remove(self) -> None:
        """Everything in it is gone. Any number of times."""
        _remove(self.path)
        self._lease.release()


def sweep(root: Path) -> None:
    """Remove the directories whose users are gone. The caller holds the root's lock."""
    for lock in root.glob("*.lock"):
        if lock.name == ".lock":
            continue
        lease = hold(lock, wait=False)
        if lease is not None:
            _remove(lock.with_suffix(""))
            lease.release()


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # the job took the rights of its directories away
        for folder, below, _ in os.walk(path):
            for name in below:
                if not os.path.islink(inner := os.path.join(folder, name)):
                    os.chmod(inner, 0o700)
        shutil.rmtree(path, ignore_errors=True)
    _lock_of(path).unlink(missing_ok=True)
