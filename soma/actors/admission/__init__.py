"""Who may run: resources of machines, counted exactly, and the queues of those who wait for them.

One machine: `Pool`, `Queue`. Many: `Pools` (nodes and placement groups), `Where` (what a node must be, and which is preferred),
`ClusterQueue`. All of it is pure: no clock, no process, no random choice. Names are looked up when they are first used (PEP 562): every
process needs `amounts` and `where`, only the head needs the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from soma.actors.admission.amounts import CPU as CPU
from soma.actors.admission.amounts import GPU as GPU
from soma.actors.admission.amounts import MEMORY as MEMORY
from soma.actors.admission.amounts import PARTS as PARTS
from soma.actors.admission.amounts import Parts as Parts
from soma.actors.admission.amounts import amount_of as amount_of
from soma.actors.admission.amounts import explain_infeasible as explain_infeasible
from soma.actors.admission.amounts import parts_of as parts_of
from soma.actors.admission.amounts import quantity as quantity
from soma.actors.admission.where import ANYWHERE as ANYWHERE
from soma.actors.admission.where import Condition as Condition
from soma.actors.admission.where import InGroup as InGroup
from soma.actors.admission.where import NodeAffinity as NodeAffinity
from soma.actors.admission.where import NodeLabels as NodeLabels
from soma.actors.admission.where import Where as Where

if TYPE_CHECKING:
    from soma.actors.admission.cluster_queue import ClusterQueue as ClusterQueue
    from soma.actors.admission.groups import Group as Group
    from soma.actors.admission.groups import GroupState as GroupState
    from soma.actors.admission.infeasible import why_group_never as why_group_never
    from soma.actors.admission.infeasible import why_never as why_never
    from soma.actors.admission.pool import Pool as Pool
    from soma.actors.admission.pool import place_gpus as place_gpus
    from soma.actors.admission.pools import Pools as Pools
    from soma.actors.admission.queue import Queue as Queue
    from soma.actors.admission.seats import Gone as Gone
    from soma.actors.admission.seats import Node as Node

_HOMES = {"ClusterQueue": "cluster_queue", "Group": "groups", "GroupState": "groups", "why_group_never": "infeasible",
          "why_never": "infeasible", "Pool": "pool", "place_gpus": "pool",
          "Gone": "seats", "Node": "seats", "Pools": "pools", "Queue": "queue"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found
