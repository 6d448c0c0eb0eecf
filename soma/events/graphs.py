"""Events of runs of graphs."""

from __future__ import annotations

from dataclasses import dataclass

from soma.events.event import Event


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
class StreamResumed(Event):
    """A stream goes on after a death. `chunk` is the next whose result will be given, `replayed_from` the first that goes through again;
    `restarts` counts the deaths so far, `error` is what was seen of the last."""

    chunk: int
    replayed_from: int
    restarts: int
    error: str
    error_type: str


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
