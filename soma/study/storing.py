"""Where trials are kept: optuna's storages, so that optuna's own tools and its dashboard open a soma study."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna import load_study
from optuna import logging as optuna_logging
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import Study, StudyDirection, create_study

from soma.errors import StudyError
from soma.study.sampling import quiet

LEFT_BEHIND = 3
"""Seconds after which the lock file of a journal is taken to be that of a process that was killed."""
BUSY = 60.0
"""Seconds that a driver waits for another one to have written to a SQLite file."""


def open_storage(storage: Any, directory: Path) -> tuple[BaseStorage, str]:
    """The storage, and in words what it is: a URL that opens it again.

    Args:
        storage: None, a SQLite file in the directory; "memory"; "journal", a file of operations there, which is several times quicker;
            "journal:PATH"; a URL such as "sqlite:///tune.db" or "postgresql://…"; or a storage of optuna's.
        directory: of the study.

    Raises:
        StudyError: it cannot be opened.
    """
    if isinstance(storage, BaseStorage):
        return storage, type(storage).__name__
    if storage == "memory":
        return InMemoryStorage(), "memory"
    if storage is not None and not isinstance(storage, str):
        raise StudyError(f'storage={storage!r:.80}: None, "memory", "journal", "journal:PATH", a URL, or a storage of optuna\'s')
    if storage is not None and storage.partition(":")[0] == "journal":
        return _journal(Path(storage.partition(":")[2] or directory / "study.journal"))
    if storage is None:
        storage = f"sqlite:///{(directory / 'study.db').resolve()}"
    if "://" not in storage:
        raise StudyError(f'storage={storage!r}: "memory", "journal", "journal:PATH", or a URL such as "sqlite:///tune.db"')
    try:
        return _database(storage), storage
    except Exception as e:  # sqlalchemy's errors, and those of drivers that nobody can list
        raise StudyError(f"storage={storage!r} cannot be opened: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}") from e


def _database(url: str) -> BaseStorage:
    if not url.startswith("sqlite:///"):
        return RDBStorage(url)
    from sqlalchemy import event

    path = Path(url.removeprefix("sqlite:///"))
    if str(path) not in ("", ".", ":memory:"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY)) as file:
            file.execute("PRAGMA journal_mode=WAL")  # who reads (a dashboard) and who writes do not wait for each other
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY}})
    event.listen(storage.engine, "connect", _quick)
    storage.engine.dispose()  # connections made before
    return storage


def _quick(connection: sqlite3.Connection, _: object) -> None:
    """Wait for the disk at checkpoints only. No crash of a program loses anything; after a power failure the last trials may be missing."""
    connection.execute("PRAGMA synchronous=NORMAL")


def _journal(path: Path) -> tuple[BaseStorage, str]:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        lock = JournalLock(path, JournalFileSymlinkLock(str(path), grace_period=LEFT_BEHIND))
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock)), f"journal:{path.resolve()}"


class JournalLock(BaseJournalFileLock):
    """The kernel's lock, which goes with its process, around optuna's, a file that stays where a process was killed: among soma's drivers
    such a file belongs to nobody, and after a moment it is taken to be optuna's own that died."""

    def __init__(self, path: Path, inner: BaseJournalFileLock) -> None:
        self._path, self._inner = path.with_name(path.name + ".soma"), inner
        self._file = -1

    def acquire(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._inner.acquire()
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def release(self) -> None:
        try:
            self._inner.release()
        finally:
            os.close(self._file)


def open_study(name: str, storage: BaseStorage, directions: tuple[str, ...], sampler: Any, pruner: Any) -> Study:
    """The study of that name there, a new one if there is none.

    Raises:
        StudyError: there is one with other directions.
    """
    with silent():
        study = create_study(study_name=name, storage=storage, directions=[StudyDirection[d.upper()] for d in directions],
                             sampler=sampler, pruner=pruner, load_if_exists=True)
    found = tuple("maximize" if d is StudyDirection.MAXIMIZE else "minimize" for d in study.directions)
    if found != directions:
        raise StudyError(f"study {name!r} is there already, with directions {found}, not {directions}; give this one another name")
    return study


def load(name: str | None, storage: BaseStorage) -> Study:
    """The study that is there. StudyError if there is none, or several and no name.

    To read from: it has no sampler or pruner of ours.
    """
    with silent():
        try:
            return load_study(study_name=name, storage=storage)
        except (KeyError, ValueError) as e:
            raise StudyError(f"no study {name!r} in this storage" if name else f"which study? {e}") from e


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, optuna logs warnings only. Afterwards it is as loud as the user wants it."""
    before = optuna_logging.get_verbosity()
    optuna_logging.set_verbosity(max(before, logging.WARNING))
    try:
        yield
    finally:
        optuna_logging.set_verbosity(before)
