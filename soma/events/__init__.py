"""Every event of soma, one frozen dataclass each: what happens in a run, a study, a training, the cluster.

An event belongs to a run (`run_id`; for those of the cluster, its name) and has a number in it, so that nothing can be lost or
change its order unseen. All fields are plain data: `as_dict` and `event_of` turn events into JSON and back. "Node" means a node
of a graph, but for `NodeJoined`, `NodeSuspected` and `NodeLost`, which speak of machines, as Ray does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from soma.events.event import Event as Event
from soma.events.graphs import NodeCacheHit as NodeCacheHit
from soma.events.graphs import NodeCacheMiss as NodeCacheMiss
from soma.events.graphs import NodeCompleted as NodeCompleted
from soma.events.graphs import NodeFailed as NodeFailed
from soma.events.graphs import NodeProgress as NodeProgress
from soma.events.graphs import NodeStarted as NodeStarted
from soma.events.graphs import RunCompleted as RunCompleted
from soma.events.graphs import RunFailed as RunFailed
from soma.events.graphs import RunStarted as RunStarted
from soma.events.graphs import StreamResumed as StreamResumed
from soma.events.jobs import JobEnded as JobEnded
from soma.events.jobs import JobProgress as JobProgress
from soma.events.machines import ActorContinued as ActorContinued
from soma.events.machines import ActorDied as ActorDied
from soma.events.machines import ActorEvent as ActorEvent
from soma.events.machines import ActorRestarted as ActorRestarted
from soma.events.machines import ActorStarted as ActorStarted
from soma.events.machines import ActorStopped as ActorStopped
from soma.events.machines import Custom as Custom
from soma.events.machines import NodeJoined as NodeJoined
from soma.events.machines import NodeLost as NodeLost
from soma.events.machines import NodeSuspected as NodeSuspected
from soma.events.studies import BestUpdated as BestUpdated
from soma.events.studies import StudyCompleted as StudyCompleted
from soma.events.studies import StudyProgress as StudyProgress
from soma.events.studies import StudyStarted as StudyStarted
from soma.events.studies import TrialCompleted as TrialCompleted
from soma.events.studies import TrialFailed as TrialFailed
from soma.events.studies import TrialMetric as TrialMetric
from soma.events.studies import TrialPruned as TrialPruned
from soma.events.studies import TrialStarted as TrialStarted
from soma.events.training import EpochCompleted as EpochCompleted
from soma.events.training import EpochStarted as EpochStarted
from soma.events.training import GenerationCompleted as GenerationCompleted
from soma.events.training import GenerationStarted as GenerationStarted
from soma.events.training import GroupRestarted as GroupRestarted
from soma.events.training import MemberExploited as MemberExploited
from soma.events.training import MetricReported as MetricReported
from soma.events.training import RoundCompleted as RoundCompleted
from soma.events.training import RoundStarted as RoundStarted
from soma.events.training import StepCompleted as StepCompleted

KINDS: dict[str, type[Event]] = {
    name: kind for name, kind in list(vars().items())
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, ActorEvent, Custom)}
_FIELDS = {kind: frozenset(f.name for f in dataclasses.fields(kind)) for kind in KINDS.values()}
_COMMON = frozenset(f.name for f in dataclasses.fields(Event))


def event_of(fields: Mapping[str, Any]) -> Event:
    """The event that `as_dict` gave; a kind that is not known here becomes `Custom`, and fields that are not known are left out."""
    name = str(fields.get("kind", ""))
    kind = KINDS.get(name)
    if kind is not None:  # JSON and msgpack know no tuples
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in _FIELDS[kind]}
        return kind(**known)
    if name == "Custom":
        return Custom(**{k: v for k, v in fields.items() if k != "kind"})
    common = {k: v for k, v in fields.items() if k in _COMMON}
    return Custom(name=name, fields={k: v for k, v in fields.items() if k not in _COMMON and k != "kind"}, **common)
