"""When workers worked: one lane for each process, and a clock that leaves out the nights between two runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soma.study.results import FinishedTrial

IDLE = 0.1
"""A pause of all workers longer than this share of the time they worked is not drawn as long as it was."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker and what it did: trial, and from when to when, in seconds since 1970."""

    label: str
    stays: tuple[tuple[FinishedTrial, float, float], ...]


def lanes_of(trials: Sequence[FinishedTrial], now: float | None = None) -> list[Lane]:
    """One for each worker process, in the order in which they began; trials of unknown workers in as few lanes as will do.

    Args:
        trials: of a study.
        now: until when running trials last; by default until the last thing that is known.
    """
    known = [at for t in trials for at in (t.started, t.ended) if at is not None]
    until = now if now is not None else max(known, default=0.0)
    stays = sorted(((t, t.started, max(t.started, t.ended if t.ended is not None else until)) for t in trials
                    if t.started is not None and t.state != "waiting"), key=lambda s: s[1])
    labels = labels_of([t for t, _, _ in stays])
    found: dict[str, list[tuple[FinishedTrial, float, float]]] = {}
    for stay in stays:
        found.setdefault(labels[stay[0].number] or free(found, stay[1]), []).append(stay)
    return [Lane(label, tuple(taken)) for label, taken in found.items()]


def busy(trials: Iterable[FinishedTrial]) -> list[tuple[float, float]]:
    """When at least one trial ran, as far as it has ended."""
    return union((t.started, t.ended) for t in trials if t.started is not None and t.ended is not None)


def union(stays: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Intervals that do not touch."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(stays):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def labels_of(trials: Sequence[FinishedTrial]) -> dict[int, str]:
    """For each trial the process that ran it; "" if that is not known. They are in the order in which they began.

    A worker's first trial may not know its pid yet; then the next one of that worker does.
    """
    several = len({t.worker.get("node") for t in trials} - {None, ""}) > 1
    later: dict[Any, Mapping[str, Any]] = {}
    found: dict[int, str] = {}
    for trial in reversed(trials):
        told = {**trial.worker} if trial.worker.get("pid") else {**later.get(trial.worker.get("worker"), {}), **trial.worker}
        later[told.get("worker")] = told
        said = [f"worker {told['worker']}"] if "worker" in told else []
        said += [f"pid {told['pid']}"] if told.get("pid") else []
        said += [str(told["node"])] if several and told.get("node") else []
        found[trial.number] = ", ".join(said)
    return found


def free(lanes: Mapping[str, Sequence[tuple[FinishedTrial, float, float]]], begin: float) -> str:
    """A lane of no known worker in which nothing runs at that time; a new one if there is none."""
    unknown = [label for label in lanes if label.startswith("lane ")]
    return next((label for label in unknown if lanes[label][-1][2] <= begin), f"lane {len(unknown)}")


class Clock:
    """Seconds since 1970 as seconds at work: long pauses between two runs of a study shrink to a notch.

    Attributes:
        pauses: where they are on the axis, and how long they were.
        notch: how wide each is drawn.
    """

    def __init__(self, busy: Sequence[tuple[float, float]]) -> None:
        self._origin = busy[0][0] if busy else 0.0
        worked = sum(end - begin for begin, end in busy)
        self.notch = worked * IDLE / 4
        self._cuts: list[tuple[float, float]] = []  # where a pause ends, and how much of it is not drawn
        self.pauses: list[tuple[float, float]] = []
        for (_, end), (begin, _) in zip(busy, busy[1:], strict=False):
            if worked and begin - end > max(IDLE * worked, self.notch):
                self.pauses.append((self.at(end), begin - end))
                self._cuts.append((begin, begin - end - self.notch))

    def at(self, time: float) -> float:
        return time - self._origin - sum(cut for end, cut in self._cuts if time >= end)


def span(seconds: float) -> str:
    """A time in words: two units of it at most."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for name, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.3g} s"
