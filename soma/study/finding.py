"""Finds a study that somebody names at a command line, and opens it to be read: by its name, its directory, one of its runs, or wherever
optuna keeps it. Reading makes no file, no table and no study.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma.errors import StudyError
from soma.runs import RunInfo, list_runs, load_run
from soma.runs.folder import runs_directory
from soma.study.board import Board, board_of
from soma.study.place import Place, checked_name
from soma.study.replay import replayed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

OWN_FILES = ("study.db", "study.journal")
"""Where a study's trials are in its directory, if they are there: also when that directory was moved since."""


@dataclass(frozen=True, slots=True)
class Named:
    """Where a study is.

    Attributes:
        storage: as `soma.Study` takes it.
        name: in that storage; None: the only one there.
        place: its directory, if it is soma's.
        description: what it was made to be; empty if it is not soma's.
        run: the run whose events are all that is left of it.
    """

    storage: str
    name: str | None
    place: Place | None
    description: Mapping[str, Any]
    run: RunInfo | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """One that can be read. `study` is None if nothing but events is left."""

    named: Named
    study: Study | None
    board: Board


def find(target: str, directory: Path | None = None) -> Named:
    """What `target` means: the name of a study, its directory, the id of one of its runs, a file or a URL of a storage.

    Args:
        directory: of runs; by default the usual one.

    Raises:
        StudyError: none of these; says what there is.
    """
    if not target:
        raise StudyError("which study? Its name is empty")
    if "://" in target or target.startswith("journal:"):
        return Named(target, None, None, {})
    path = Path(target)
    parent = (directory or runs_directory()) / "studies"
    if "/" not in target and (parent / target / "description.json").exists():
        return described(Place(target, parent))
    if (path / "description.json").exists():
        return described(Place(checked_name(path.resolve().name), path.resolve().parent))
    if path.is_file():
        return Named(storage_in(path), None, None, {})
    try:
        return of_run(load_run(target, directory))
    except ValueError as e:
        there = ", ".join(names(directory)) or "none"
        raise StudyError(f"{e}; nor is a study or a storage; studies in {parent}: {there}") from None


def of_run(run: RunInfo) -> Named:
    """The study of a run; if that was kept in memory, or has been removed, what its events tell. StudyError if it was none."""
    told = run.manifest.get("params") or {}
    name = told.get("study")
    if run.manifest.get("what") != "study" or not isinstance(name, str):
        raise StudyError(f"run {run.id} is no study but {run.manifest.get('what', 'something unknown')!r}")
    for parent in (run.path.parent / "studies", Path(str(told["directory"])).parent) if told.get("directory") else ():
        if (parent / checked_name(name) / "description.json").exists():
            return described(Place(name, parent))
    return Named(f"events of {run.id}", name, None, {k: v for k, v in told.items() if k not in ("study", "space")}, run)


def described(place: Place) -> Named:
    told = place.description() or {}
    storage = str(told.get("storage"))
    if not (path := file_of(storage)) or not path.exists():
        storage = next((storage_in(place.path / f) for f in OWN_FILES if (place.path / f).exists()), storage)
    return Named(storage, place.name, place, told)


def names(directory: Path | None = None) -> list[str]:
    """The studies that have a directory."""
    return sorted(p.parent.name for p in ((directory or runs_directory()) / "studies").glob("*/description.json"))


def last_run(name: str, directory: Path | None = None) -> RunInfo | None:
    """The latest recorded run of the study of that name."""
    found = [r for r in list_runs(directory) if r.manifest.get("what") == "study" and (r.manifest.get("params") or {}).get("study") == name]
    return found[-1] if found else None


def file_of(storage: str) -> Path | None:
    """The file that a storage is in; None if it is in none."""
    for prefix in ("sqlite:///", "journal:"):
        if storage.startswith(prefix):
            return Path(storage.removeprefix(prefix))
    return None


def storage_in(path: Path) -> str:
    """What kind of storage a file is. StudyError if it is none."""
    with open(path, "rb") as f:
        head = f.read(16)
    if head.startswith(b"SQLite format 3\0"):
        return f"sqlite:///{path.resolve()}"
    if head.startswith(b'{"'):
        return f"journal:{path.resolve()}"
    raise StudyError(f"{path} holds no study: it is neither a SQLite database nor a journal of optuna's")


@contextlib.contextmanager
def opened(named: Named, name: str | None = None) -> Iterator[Opened]:
    """Read it. Afterwards nothing of it is open.

    Args:
        name: which, where a storage holds several.

    Raises:
        StudyError: it is not there, or several are.
        ModuleNotFoundError: optuna is missing.
    """
    if named.run is not None:
        yield Opened(named, None, replayed(named.name or "", named.description, named.run.events()))
        return
    try:
        import optuna
    except ModuleNotFoundError as e:
        if e.name != "optuna":
            raise
        raise ModuleNotFoundError('studies need optuna: pip install "soma[study]"', name="optuna") from None
    from soma.study.storing import load, silent

    with _storage(named.storage) as storage:
        name = name or named.name
        if name is None:
            with silent():
                there = optuna.get_all_study_names(storage)
            if len(there) != 1:
                which = f"; which? {', '.join(map(repr, there))}" if there else ""
                raise StudyError(f"{named.storage} holds {len(there)} studies{which}")
            name = there[0]
        study = load(name, storage)
        board = board_of(study, named.description.get("objectives"))
        told = named.description.get("space") or ()
        yield Opened(named, study, replace(board, trials=tuple(replace(t, params=with_frozen(t.params, told)) for t in board.trials)))


@contextlib.contextmanager
def _storage(url: str) -> Iterator[BaseStorage]:
    from soma.study.storing import open_storage

    path = file_of(url)
    if path is None and "://" not in url:
        raise StudyError(f"this study was kept in {url!r}, which cannot be opened from here")
    if path is not None and not path.exists():
        raise StudyError(f"storage {url!r}: there is no such file")
    if path is not None and url.startswith("sqlite:///"):
        _check_tables(path)
        storage = _database(url)
    else:
        storage, _ = open_storage(url, Path())
    try:
        yield storage
    finally:
        if hasattr(storage, "engine"):
            storage.remove_session()
            storage.engine.dispose()


def _database(url: str) -> Any:
    """As `open_storage` does it, but the file stays as it is, also its kind of journal."""
    from optuna.storages import RDBStorage

    from soma.study.storing import BUSY

    try:
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY}})
    except Exception as e:  # sqlalchemy's, sqlite's, and optuna's where another version of it made the tables
        raise StudyError(f"storage {url!r} cannot be opened: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}") from e


def _check_tables(path: Path) -> None:
    """Whether it is optuna's, before optuna makes its tables in it."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as file:
            found = file.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('studies', 'trials')").fetchone()[0]
    except sqlite3.Error as e:
        raise StudyError(f"{path} cannot be read: {e}") from e
    if found < 2:
        raise StudyError(f"{path} is a database, but no study is in it")


def with_frozen(params: Mapping[str, Any], space: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters with those that were not searched, in the order of the space."""
    found: dict[str, Any] = {}
    for told in space:
        name = told["name"]
        if name in params:
            found[name] = params[name]
        elif "frozen" in told and all(found.get(other) in allowed for other, allowed in (told.get("when") or {}).items()):
            found[name] = told["frozen"]
    return {**found, **params}
