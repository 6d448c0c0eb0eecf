"""Events of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soma.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStarted(Event):
    """`epoch` counts from 0; `node` is the node (or the first of the group) that trains."""

    epoch: int
    epochs: int
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCompleted(Event):
    """`loss` is the mean over the epoch's rows."""

    epoch: int
    epochs: int
    loss: float
    rows: int = 0
    duration_ms: float = 0.0
    node: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(Event):
    """One optimizer step; `step` counts from 0 over all epochs."""

    step: int
    loss: float
    rows: int = 0
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReported(Event):
    """What was said with `soma.report`."""

    name: str
    value: float
    step: int | None = None
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStarted(Event):
    """Of federated training; counts from 0. `clients` are the names of those that take part."""

    round: int
    rounds: int
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCompleted(Event):
    """`left_out` says of each client that gave nothing why; `samples` is how many rows the new state stands for."""

    round: int
    rounds: int
    clients: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    samples: float = 0.0
    duration_ms: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRestarted(Event):
    """Ranks died; the others go on with new ones, or fewer, as another generation, from the checkpoint of `step`."""

    generation: int
    ranks: int
    lost: tuple[int, ...] = ()
    step: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStarted(Event):
    """Of a population; counts from 0."""

    generation: int
    members: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCompleted(Event):
    generation: int
    best: float
    member: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberExploited(Event):
    """A member took over the weights of a better one."""

    member: int
    source: int
    generation: int = 0
