"""Every event of soma, one frozen dataclass each: what happens in a run, a study, a training, the cluster.

An event belongs to a run (`run_id`; for those of the cluster, its name) and has a number in it, so that nothing can be lost or
change its order unseen. All fields are plain data: `as_dict` and `event_of` turn events into JSON and back. "Node" means a node
of a graph, but for `NodeJoined`, `NodeSuspected` and `NodeLost`, which speak of machines, as Ray does.

They are made when they are first asked for: each costs a millisecond, and most programs meet few of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soma.events.event import Event as Event

if TYPE_CHECKING:
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

_HOMES = {
    "graphs": ("NodeCacheHit", "NodeCacheMiss", "NodeCompleted", "NodeFailed", "NodeProgress", "NodeStarted", "RunCompleted", "RunFailed",
               "RunStarted", "StreamResumed"),
    "jobs": ("JobEnded", "JobProgress"),
    "machines": ("ActorContinued", "ActorDied", "ActorEvent", "ActorRestarted", "ActorStarted", "ActorStopped", "Custom", "NodeJoined",
                 "NodeLost", "NodeSuspected"),
    "studies": ("BestUpdated", "StudyCompleted", "StudyProgress", "StudyStarted", "TrialCompleted", "TrialFailed", "TrialMetric",
                "TrialPruned", "TrialStarted"),
    "training": ("EpochCompleted", "EpochStarted", "GenerationCompleted", "GenerationStarted", "GroupRestarted", "MemberExploited",
                 "MetricReported", "RoundCompleted", "RoundStarted", "StepCompleted"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
KINDS = frozenset(_HOME) - {"ActorEvent", "Custom"}
"""What an event can be called; else it is `Custom`."""
_COMMON = frozenset(Event.__dataclass_fields__)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"there is no event {name!r}")
    kind = globals()[name] = getattr(importlib.import_module(f"soma.events.{home}"), name)
    return kind


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def event_of(fields: Mapping[str, Any]) -> Event:
    """The event that `as_dict` gave; a kind that is not known here becomes `Custom`, and fields that are not known are left out."""
    from soma.events.machines import Custom

    name = str(fields.get("kind", ""))
    if name in KINDS:  # JSON and msgpack know no tuples
        kind = globals().get(name) or __getattr__(name)
        event: Event = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in kind.__dataclass_fields__})
        return event
    if name == "Custom":
        return Custom(**{k: v for k, v in fields.items() if k != "kind"})
    common = {k: v for k, v in fields.items() if k in _COMMON}
    return Custom(name=name, fields={k: v for k, v in fields.items() if k not in _COMMON and k != "kind"}, **common)
