"""Events of jobs. Their `run_id` is the job's id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soma.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress(Event):
    """A job is in another phase ("preparing", "environment", "running", "collecting"), or said how far it is."""

    phase: str
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """A job is over: SUCCEEDED, FAILED or CANCELLED, and why."""

    state: str
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    duration_ms: float = 0.0
