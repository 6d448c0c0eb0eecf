"""A run's scalars for TensorBoard, written with the `tensorboard` package alone: its own writer needs no torch and no TensorFlow."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from soma.events import (
    EpochCompleted,
    Event,
    GenerationCompleted,
    MetricReported,
    RoundCompleted,
    RunCompleted,
    RunFailed,
    StepCompleted,
)

Scalar = tuple[str, float, int | None]
"""Tag, value, step; None for the next one."""


def tensorboard_listener(directory: str | PathLike[str]) -> Callable[[Event], None]:
    """Who writes losses and metrics to `directory/<run id>`: for `soma.on_event`, or a trainer's `listeners`.

    Raises:
        ModuleNotFoundError: the `tensorboard` package is missing.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("scalars for TensorBoard need its package: pip install tensorboard", name=e.name) from None

    def record(time: float, tag: str, value: float, step: int) -> Any:
        return Record(wall_time=time, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))

    return _Listener(Path(directory), EventFileWriter, record)


class _Listener:
    """A writer for each run that says a scalar, closed with the run. Runs may tell from threads of their own."""

    def __init__(self, directory: Path, open_writer: Callable[[str], Any], record: Callable[[float, str, float, int], Any]) -> None:
        self._directory, self._open, self._record = directory, open_writer, record
        self._lock = threading.Lock()
        self._writers: dict[str, Any] = {}
        self._next: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunCompleted | RunFailed):
            with self._lock:
                writer = self._writers.pop(event.run_id, None)
            if writer is not None:
                writer.close()
            return
        for tag, value, step in scalars(event):
            if step is None:
                step = self._next[event.run_id, tag]
                self._next[event.run_id, tag] += 1
            self._writer(event.run_id).add_event(self._record(event.time, tag, value, step))
        if isinstance(event, EpochCompleted | RoundCompleted | GenerationCompleted) and event.run_id in self._writers:
            self._writers[event.run_id].flush()

    def _writer(self, run: str) -> Any:
        with self._lock:
            if run not in self._writers:
                self._writers[run] = self._open(str(self._directory / run))
            return self._writers[run]


def scalars(event: Event) -> Iterator[Scalar]:
    """What of an event is a scalar. Tags group: TensorBoard makes a section of what stands before the first slash."""
    match event:
        case StepCompleted():
            yield _tag("loss/step", event.node), event.loss, event.step
        case EpochCompleted():
            yield _tag("loss/epoch", event.node), event.loss, event.epoch
            if event.rows and event.duration_ms:
                yield _tag("speed/rows per second", event.node), event.rows / event.duration_ms * 1e3, event.epoch
            for name, value in event.metrics.items():
                yield _tag(f"{name}/epoch", event.node), value, event.epoch
        case RoundCompleted():
            yield "clients/took part", len(set(event.clients) - set(event.left_out)), event.round
            yield "clients/left out", len(event.left_out), event.round
            for name, value in event.metrics.items():
                yield f"{name}/round", value, event.round
        case GenerationCompleted():
            yield "fitness/best", event.best, event.generation
        case MetricReported():
            yield _tag(f"{event.name}/reported", event.node), event.value, event.step


def _tag(name: str, node: str) -> str:
    return f"{name} ({node})" if node else name
