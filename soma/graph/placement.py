"""From a plan to processes: asks the scheduler of the cluster, in its words, and reads its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import GetTimeoutError, PlacementError, TaskCancelledError
from soma.filters import options_of
from soma.graph.plan import Plan
from soma.graph.steps import Branch, Loop


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a node runs, why there, and what its process reserves."""

    process: str
    machine: str
    reason: str
    options: Mapping[str, Any]


_OPTION_OF = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def place(owner: str, plan: Plan, filters: Mapping[str, Any], wait: float,
          asked: list[ObjectRef[Any]]) -> tuple[dict[str, Placed], str]:
    """Where each filter of a plan runs, and the scheduler's log of that decision, in lines of JSON.

    Args:
        owner: names the plan to the scheduler.
        wait: seconds to wait for what others hold.
        asked: holds the question while it waits, for who wants to cancel it.

    Raises:
        PlacementError: it cannot run anywhere, or not now; says what was asked, what exists, and who holds it.
    """
    request = {"owner": owner, "tasks": list(tasks_of(plan, filters)), "wait": wait > 0}
    scheduler = cluster.scheduler()
    try:
        asked.append(scheduler.place.remote(request))
        answer = cluster.get(asked[-1], timeout=wait if wait > 0 else None)
    except TaskCancelledError:
        cluster.get(scheduler.withdraw.remote(owner))
        raise
    except GetTimeoutError:
        cluster.get(scheduler.withdraw.remote(owner))
        try:
            answer = cluster.get(scheduler.place.remote({**request, "wait": False}))  # it may have come free just now; if not, why
        except PlacementError as e:
            raise PlacementError(f"{e} (waited {wait:g} s)") from None
    finally:
        asked.clear()
    placed = {}
    for process in answer["processes"]:
        options = {_OPTION_OF[name]: int(n) if name == "memory" else n for name, n in process["needs"].items() if name in _OPTION_OF}
        tags = tuple(sorted({tag for id in process["tasks"] for tag in options_of(filters[id]).tags}))
        for id in process["tasks"]:
            placed[id] = Placed(process["name"], process["machine"], process["reasons"][id], {**options, "tags": tags})
    return placed, "".join(json.dumps(entry) + "\n" for entry in answer["log"])


def release(owner: str) -> None:
    """The plan's processes are gone."""
    cluster.scheduler().release.remote(owner)


def tasks_of(plan: Plan, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The filters of a plan as tasks, each after those whose output it takes; those inside loops and branches in their place."""
    yield from _tasks(plan, filters, ("",), {})


def _tasks(plan: Plan, filters: Mapping[str, Any], entering: tuple[str, ...],
           makers: dict[str, tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """`entering` are the tasks whose output the plan gets; `makers` learns which tasks make a node's output."""
    for unit in plan.units:
        members = plan.group(unit)
        for id in members:
            node = plan.node(id)
            inputs = tuple(dict.fromkeys(m for i in node.inputs for m in makers[i])) if node.inputs else entering
            if node.inner is None:
                yield _task(id, filters[id], inputs, members)
                makers[id] = (id,)
                continue
            for part in node.parts:
                yield from _tasks(part, filters, inputs, makers)
            if isinstance(node.inner, Loop):
                makers[id] = tuple(m for c in node.inner.carry for m in makers[c])
            elif isinstance(node.inner, Branch):
                makers[id] = tuple(m for _, arm in node.inner.arms for leaf in arm.leaves for m in makers[leaf])


def _task(id: str, filter: Any, inputs: tuple[str, ...], members: tuple[str, ...]) -> dict[str, Any]:
    options = options_of(filter)
    asked = {"CPU": options.num_cpus, "GPU": options.num_gpus, "memory": options.memory}
    return {"id": id, "needs": {name: float(n) for name, n in asked.items() if n}, "tags": list(options.tags),
            "inputs": [[i, 0] for i in inputs], "together": members[0] if len(members) > 1 else None}
