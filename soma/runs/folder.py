"""A run's directory, `.soma/runs/<id>/`: what it was, its plan, its events, its metrics. Written as it happens, readable after a crash.

    manifest.json   what was run, with which versions, from which commit, with which arguments and seed
    plan.json       the plan, if there is one
    events.jsonl    every event, one JSON object a line, in order; locked by the process that writes it as long as that lives
    metrics.jsonl   what was reported: name, value, step, time, node
    result.json     how it ended; a run without one whose writer is gone has crashed

The kernel drops the lock with its process, so a crash shows without heartbeats or pids.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma.events import Event, MetricReported, TrialMetric, event_of
from soma.runs.manifest import manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = Path(".soma") / "runs"
_as_json = json.JSONEncoder(default=str).encode


def runs_directory() -> Path:
    """`$SOMA_RUNS`, else `.soma/runs` in the working directory."""
    return Path(os.environ.get("SOMA_RUNS") or DEFAULT)


class RunFolder:
    """Of a run that goes on. A disk that is full or read-only ends the recording with a warning, never the run."""

    def __init__(self, id: str, directory: Path) -> None:
        self.id, self.path = id, directory / id
        self._events = self._metrics = -1
        self._broken = False

    @classmethod
    def create(cls, id: str, what: str, *, directory: Path | None = None, seed: int | None = None,
               params: Mapping[str, Any] | None = None) -> RunFolder | None:
        """A new one, with its manifest; None, after a warning, where none can be made."""
        folder = cls(id, directory or runs_directory())
        try:
            folder.path.mkdir(parents=True)
            folder._events = os.open(folder.path / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(folder._events, fcntl.LOCK_EX)
            folder._write("manifest.json", json.dumps(manifest(id, what, seed, params or {}), indent=2))
        except OSError as e:
            if folder._events >= 0:
                os.close(folder._events)
            folder._give_up(e)
            return None
        return folder

    def add(self, event: Event) -> None:
        if not self._broken:
            self._append(self._events, _as_json(event.as_dict()))

    def add_metric(self, event: MetricReported | TrialMetric) -> None:
        if self._broken:
            return
        try:
            if self._metrics < 0:
                self._metrics = os.open(self.path / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as e:
            self._give_up(e)
            return
        node = f"trial {event.trial}" if isinstance(event, TrialMetric) else event.node
        self._append(self._metrics, json.dumps({"name": event.name, "value": event.value, "step": event.step, "time": event.time,
                                                "node": node}))

    def add_plan(self, text: str) -> None:
        self._write_or_give_up("plan.json", text)

    def add_schedule(self, lines: str) -> None:
        """What the scheduler decided for this run, replayable: see `soma.actors.scheduling`."""
        self._write_or_give_up("schedule.jsonl", lines)

    def close(self, status: str, error: BaseException | None) -> None:
        result = {"status": status, **({} if error is None else {"error": str(error)[:10_000], "error_type": type(error).__name__})}
        self._write_or_give_up("result.json", json.dumps(result, indent=2))
        for fd in (self._events, self._metrics):
            if fd >= 0:
                os.close(fd)
        self._events = self._metrics = -1

    def _append(self, fd: int, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[os.write(fd, data):]
        except OSError as e:
            self._give_up(e)

    def _write_or_give_up(self, name: str, text: str) -> None:
        if not self._broken:
            try:
                self._write(name, text)
            except OSError as e:
                self._give_up(e)

    def _write(self, name: str, text: str) -> None:
        fresh = self.path / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.path / name)

    def _give_up(self, e: OSError) -> None:
        self._broken = True
        warnings.warn(f"run {self.id} is not recorded any further: {e}", RuntimeWarning, stacklevel=2)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A recorded run. `status` is "running", "completed", "failed" or "crashed"; `error` says why it failed."""

    id: str
    path: Path
    status: str
    manifest: Mapping[str, Any]
    error: str = ""

    def events(self) -> Iterator[Event]:
        """In order. The last line of a crashed run may be torn; it is left out."""
        for fields in _lines(self.path / "events.jsonl"):
            yield event_of(fields)

    def metrics(self) -> list[dict[str, Any]]:
        """name, value, step, time, node of each."""
        return list(_lines(self.path / "metrics.jsonl"))

    def plot(self, path: str | os.PathLike[str] | None = None, metrics: Collection[str] | None = None) -> Figure:
        """Its curves so far, as a matplotlib figure: losses, metrics beside their `val_` twins, rounds, a population's fitness.

        Args:
            path: where to save it; the suffix decides: .png, .svg, .pdf.
            metrics: names of those to draw; by default all.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
            ValueError: nothing was recorded that could be drawn.
        """
        try:
            from soma.runs.plotting import plot
        except ModuleNotFoundError as e:
            if not str(e.name).startswith("matplotlib"):
                raise
            raise ModuleNotFoundError('plots need matplotlib: pip install "soma[viz]"', name=e.name) from None
        return plot(self, path, metrics)


def load_run(id: str, directory: Path | None = None) -> RunInfo:
    """A recorded run.

    Raises:
        ValueError: there is none of that name, or several begin with it.
    """
    found = [p for p in (directory or runs_directory()).glob("*") if p.name.startswith(id) and (p / "events.jsonl").exists()]
    exact = [p for p in found if p.name == id]
    if len(exact or found) != 1:
        raise ValueError(f"{len(found)} runs in {directory or runs_directory()} are called {id!r}…" if found else
                         f"no run in {directory or runs_directory()} is called {id!r}")
    return _info((exact or found)[0])


def list_runs(directory: Path | None = None) -> list[RunInfo]:
    """All recorded runs, the oldest first."""
    where = directory or runs_directory()
    return [_info(p) for p in sorted(where.glob("*")) if (p / "events.jsonl").exists()] if where.is_dir() else []


def _info(path: Path) -> RunInfo:
    told, result = _json(path / "manifest.json"), _json(path / "result.json")
    if result:
        return RunInfo(path.name, path, str(result.get("status")), told, str(result.get("error", "")))
    return RunInfo(path.name, path, "running" if _is_locked(path / "events.jsonl") else "crashed", told)


def _is_locked(path: Path) -> bool:
    with open(path, "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)
