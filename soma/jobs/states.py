"""What becomes of a job: its states as a table, its phases, and what is told of it. Pure: times are arguments.

    PENDING → RUNNING → SUCCEEDED | FAILED | CANCELLED; from PENDING it may also fail or be cancelled. The first end counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from soma.jobs.events import Began, Ended, JobEvent, PhaseBegan, Reported


class JobState(Enum):
    PENDING = "PENDING"
    """It waits for room on a machine."""
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_end(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Phase(Enum):
    """What a running job is at."""

    PREPARING = "preparing"
    """Its files are unpacked."""
    ENVIRONMENT = "environment"
    """Its environment is made, or found."""
    RUNNING = "running"
    """Its program runs."""
    COLLECTING = "collecting"
    """What it left is gathered."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: its phase, and what its program reported (see `soma.jobs.report`)."""

    phase: Phase | None = None
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment. Times are seconds since 1970, None where it has not come so far."""

    id: str
    entry: str
    state: JobState = JobState.PENDING
    progress: Progress = Progress()
    message: str = ""
    """Why it failed."""
    node: str | None = None
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a job left: its size and its BLAKE3."""

    bytes: int
    hash: str


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. `exit_code` and `signal` are None if its program never ran; one of them is if it did."""

    id: str
    state: JobState
    success: bool
    exit_code: int | None
    signal: str | None
    metrics: Mapping[str, float]
    outputs: Mapping[str, OutputFile]
    duration_ms: float
    message: str


def after(status: JobStatus, event: JobEvent, now: float) -> JobStatus:
    """The status once something happened. What comes after the end changes nothing."""
    if status.state.is_end:
        return status
    match event:
        case Began(node):
            return replace(status, state=_to(status.state, JobState.RUNNING), node=node, started=now,
                           progress=replace(status.progress, phase=Phase.PREPARING))
        case PhaseBegan(name):
            return replace(status, progress=replace(status.progress, phase=Phase(name)))
        case Reported(step, total, metrics):
            seen = status.progress
            return replace(status, progress=replace(
                seen, step=seen.step if step is None else step, total=seen.total if total is None else total,
                metrics={**seen.metrics, **metrics}))
        case Ended(state, message):
            return replace(status, state=_to(status.state, JobState(state)), message=message, ended=now)
        case _:
            return status


def _to(state: JobState, to: JobState) -> JobState:
    if to not in TRANSITIONS[state]:
        raise ValueError(f"a job that is {state.value} cannot become {to.value}")
    return to
