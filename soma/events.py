"""Every event of soma, one frozen dataclass each: what happens in a run, a study, a training, the cluster.

An event belongs to a run (`run_id`; for those of the cluster, its name) and has a number in it, so that nothing can be lost or
change its order unseen. All fields are plain data: `as_dict` and `event_of` turn events into JSON and back. "Node" means a node
of a graph, but for `NodeJoined` and `NodeLost`, which speak of machines, as Ray does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all have in common.

    Attributes:
        run_id: which run (or which cluster) it belongs to.
        seq: its number there: 0, 1, 2, … without gaps.
        time: seconds since 1970, for people; durations are measured by another clock.
    """

    run_id: str = ""
    seq: int = -1
    time: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the name of the class is under "kind"."""
        return {"kind": type(self).__name__, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}


# -- runs of graphs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """`what` is "fit", "forward", "run", …; `plan_summary` the graph as a formula; `nodes` how many there are."""

    what: str
    plan_summary: str = ""
    nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted(Event):
    """A node's inputs are there and its call is on its way. `attempt` counts from 0, `chunk` too, in a stream."""

    node: str
    attempt: int = 0
    chunk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProgress(Event):
    """What a node said with `soma.progress`, or how many chunks it has done. `total` is None where it is not known."""

    node: str
    done: float
    total: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCacheHit(Event):
    """A node's state or output was in the cache. `what` is "state" or "output", `tier` "memory", "disk" or "shared"."""

    node: str
    what: str
    tier: str
    load_ms: float
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCacheMiss(Event):
    """It was not, and why: `why` compares with the last time this node was stored."""

    node: str
    what: str
    why: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCompleted(Event):
    """A node is done. `duration_ms` counts what its process worked; `output_summary` says what came out, e.g. "float64[1797, 8]"."""

    node: str
    duration_ms: float
    output_summary: str = ""
    attempt: int = 0
    chunk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailed(Event):
    """An attempt of a node failed; `final` unless it is tried again."""

    node: str
    error: str
    error_type: str
    attempt: int = 0
    final: bool = True
    chunk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted(Event):
    """The last event of a run that went well."""

    duration_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The last event of a run that did not. `node` is "" where no node is to blame."""

    error: str
    error_type: str
    node: str = ""
    duration_ms: float = 0.0


# -- training ---------------------------------------------------------------------------------------------------------------


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


# -- studies ----------------------------------------------------------------------------------------------------------------


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


# -- the cluster ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorEvent(Event):
    """What the events of actors have in common. `node_id` is the machine; `restarts` how often the actor was made anew."""

    actor_id: str
    class_name: str = ""
    name: str | None = None
    incarnation: int = 0
    node_id: str = ""
    pid: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStarted(ActorEvent):
    """A process is being made for an actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDied(ActorEvent):
    """Its process is gone; `reason`, `signal` and `exit_code` as in `DeathCause`."""

    reason: str = ""
    signal: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRestarted(ActorEvent):
    """It will be made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStopped(ActorEvent):
    """SIGSTOP: it answers nothing until it is continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorContinued(ActorEvent):
    """SIGCONT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined(Event):
    """A machine joined the cluster."""

    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Event):
    """A machine is gone."""

    node_id: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom(Event):
    """Somebody's own event, published with a name that soma does not know."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


KINDS: dict[str, type[Event]] = {
    name: kind for name, kind in list(vars().items())
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, ActorEvent, Custom)}
_FIELDS = {kind: frozenset(f.name for f in dataclasses.fields(kind)) for kind in KINDS.values()}
_COMMON = frozenset(f.name for f in dataclasses.fields(Event))


def event_of(fields: Mapping[str, Any]) -> Event:
    """The event that `as_dict` gave; a kind that is not known here becomes `Custom`, and fields that are not known are left out."""
    name = str(fields.get("kind", ""))
    kind = KINDS.get(name)
    if kind is not None:
        return kind(**{k: v for k, v in fields.items() if k in _FIELDS[kind]})
    if name == "Custom":
        return Custom(**{k: v for k, v in fields.items() if k != "kind"})
    common = {k: v for k, v in fields.items() if k in _COMMON}
    return Custom(name=name, fields={k: v for k, v in fields.items() if k not in _COMMON and k != "kind"}, **common)
