"""From a plan to processes: asks the scheduler of the cluster, in its words, and reads its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soma.filters import options_of
from soma.graph.plan import Plan


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a node runs, why there, and what its process reserves."""

    process: str
    machine: str
    reason: str
    options: Mapping[str, Any]


def place(owner: str, plan: Plan, filters: Mapping[str, Any], wait: float) -> tuple[dict[str, Placed], list[Any]]:
    placed = {}
    for p in plan.plans():
        for n in p.nodes:
            if n.inner is None:
                first = p.group(n.id)[0]
                placed[n.id] = Placed(first, "here", "the only machine", options_of(filters[first]).reserved())
    return placed, []


def release(owner: str) -> None:
    pass
