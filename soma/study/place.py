"""Where a study lies: its directory, who works on it, and what it was made to be. Knows nothing of optuna.

    <runs>/studies/<name>/
        study.db            the trials, as optuna keeps them, unless another storage was named
        description.json    space, objectives, sampler, and the command that made it
        lock                held while a driver takes its next trial, so that several share a study without doubles
        drivers/<id>        one file for each driver; the kernel drops its lock when that process is gone, however it went
        stop                as long as it is there, drivers take no further trial
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from soma.errors import StudyError
from soma.runs.folder import runs_directory

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_name(name: Any) -> str:
    """The name of a study, which is also that of its directory.

    Raises:
        StudyError: it could not be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StudyError(f"name={name!r:.120}: up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


class Place:
    """The directory of one study."""

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self.name = checked_name(name)
        self.path = (parent or runs_directory() / "studies") / self.name

    def make(self) -> Self:
        (self.path / "drivers").mkdir(parents=True, exist_ok=True)
        return self

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, one thread at a time."""
        file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    # -- what it is ------------------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any] | None:
        """As `describe` wrote it; None if this is a new one."""
        try:
            told = json.loads((self.path / "description.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as e:
            raise StudyError(f"{self.path / 'description.json'} is damaged: {e}; if the study is of no use, remove its directory") from e
        return dict(told)

    def describe(self, told: Mapping[str, Any]) -> None:
        """Replace the description, whole or not at all. The command that ran the study last stays in it."""
        before = self.description() or {}
        self._write({**told, **({key: before[key] for key in ("argv", "cwd") if key in before} or _command())})

    def record_command(self) -> None:
        """This process is the one that `soma study resume` would start again; a notebook is none, and does not replace a script."""
        told = self.description()
        if told is not None and sys.argv[:1] not in ([""], ["-c"]) and Path(sys.argv[0]).is_file():
            self._write({**told, **_command()})

    def _write(self, told: Mapping[str, Any]) -> None:
        fresh = self.path / f"description.{secrets.token_hex(4)}"
        fresh.write_text(json.dumps(told, indent=2, default=str), encoding="utf-8")
        fresh.replace(self.path / "description.json")

    # -- stopping --------------------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return (self.path / "stop").exists()

    def stop(self) -> None:
        """Ask every driver to take no further trial."""
        (self.path / "stop").touch()

    def go_on(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)

    # -- drivers ---------------------------------------------------------------------------------------------------------------

    def enter(self) -> Driver:
        """Work on it from now on."""
        with self.locked():
            for file in (self.path / "drivers").iterdir():  # what those left that were killed
                if not _is_locked(file):
                    file.unlink(missing_ok=True)
            return Driver(self.path / "drivers")

    def lives(self, driver: str) -> bool:
        """Whether the driver of that identity may still be there; one on another machine, of which nothing is known here, may."""
        host, _, id = driver.rpartition("/")
        if host != socket.gethostname():
            return True
        return _is_locked(self.path / "drivers" / id)

    def drivers(self) -> list[str]:
        """Those of this machine that live."""
        found = sorted(p for p in (self.path / "drivers").glob("*") if _is_locked(p))
        return [f"{socket.gethostname()}/{p.name}" for p in found]


class Alone:
    """The place of a study that is kept in memory: of one process only, and nowhere on a disk."""

    path = None

    def __init__(self, name: str) -> None:
        self.name = checked_name(name)
        self.stopping = False
        self._drivers: set[str] = set()

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def description(self) -> None:
        return None

    def describe(self, told: Mapping[str, Any]) -> None:
        """There is nowhere to keep it."""

    def record_command(self) -> None:
        """There is nowhere to keep it."""

    def stop(self) -> None:
        self.stopping = True

    def go_on(self) -> None:
        self.stopping = False

    def enter(self) -> Guest:
        return Guest(self._drivers)

    def lives(self, driver: str) -> bool:
        return driver in self._drivers


class Guest:
    """The driver of a study in memory. Use it in a `with`."""

    def __init__(self, among: set[str]) -> None:
        self.identity, self._among = f"{os.getpid()}-{secrets.token_hex(4)}", among
        among.add(self.identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._among.discard(self.identity)


class Driver:
    """That of this process, in one run of a study: as long as it lives its file is locked. Use it in a `with`, or forget it.

    A process that is forked off has no part in it: it would keep the lock when this one is gone.
    """

    def __init__(self, directory: Path) -> None:
        id = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.identity = f"{socket.gethostname()}/{id}"
        file = os.open(directory / id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        self.leave = weakref.finalize(self, _leave, directory / id, file, os.getpid())
        self.file = file
        _DRIVERS.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


_DRIVERS: weakref.WeakSet[Driver] = weakref.WeakSet()


def _leave(path: Path, file: int, pid: int) -> None:
    if os.getpid() == pid:
        path.unlink(missing_ok=True)
        os.close(file)


def _in_child() -> None:
    for driver in _DRIVERS:
        if driver.leave.detach() is not None:
            os.close(driver.file)
    _DRIVERS.clear()


os.register_at_fork(after_in_child=_in_child)


def _command() -> dict[str, Any]:
    return {"argv": list(sys.argv), "cwd": os.getcwd()}


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
