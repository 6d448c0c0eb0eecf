"""Events of studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStarted(Event):
    study: str
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted(Event):
    trial: int
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialMetric(Event):
    trial: int
    name: str
    value: float
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPruned(Event):
    trial: int
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCompleted(Event):
    trial: int
    values: Mapping[str, float] = field(default_factory=dict)
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed(Event):
    trial: int
    error: str
    error_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestUpdated(Event):
    trial: int
    values: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress(Event):
    done: int
    total: int | None = None
    running: int = 0
    pruned: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCompleted(Event):
    study: str
    done: int = 0
    best: Mapping[str, float] = field(default_factory=dict)
