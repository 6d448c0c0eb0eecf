"""Placement groups: resources reserved together, on nodes chosen together, before anything runs in them. Ray's verbs and meanings.

    group = soma.placement_group([{"CPU": 2}, {"CPU": 2}], strategy="SPREAD")
    soma.get(group.ready())
    worker = Worker.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0)).remote()
    soma.remove_placement_group(group)

All bundles are reserved or none is; until then the group waits in line with everybody else. A group without `lifetime="detached"` is
removed when the process that made it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from soma.actors import current
from soma.actors.handle import RemoteFunction
from soma.actors.options import Options
from soma.actors.placement_groups import GroupSpec, GroupVerbs
from soma.actors.refs import ObjectRef
from soma.actors.strategies import PlacementGroupSchedulingStrategy
from soma.cluster.verbs import wait as wait_for
from soma.ids import new_hex


@dataclass(frozen=True, slots=True)
class PlacementGroup:
    """A placement group, to be given to `PlacementGroupSchedulingStrategy`. It travels; it is only a name."""

    id: str
    bundle_specs: tuple[Mapping[str, float], ...]

    @property
    def bundle_count(self) -> int:
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that is settled, with the group itself, once it is reserved; its `get` raises a PlacementError if it is removed before."""
        strategy = PlacementGroupSchedulingStrategy(self)
        return RemoteFunction(_reserved, Options(num_cpus=0, scheduling_strategy=strategy)).remote(self)

    def wait(self, timeout_seconds: float | None = 30) -> bool:
        """Whether it is reserved after at most so many seconds (None: without end)."""
        if timeout_seconds is not None and (math.isnan(timeout_seconds) or timeout_seconds < 0):
            raise ValueError(f"timeout_seconds={timeout_seconds!r}: seconds from 0, or None for no limit")
        return bool(wait_for([self.ready()], timeout=timeout_seconds)[0])


def _reserved(group: PlacementGroup) -> PlacementGroup:
    """Runs inside the group, so not before it is there."""
    return group


def placement_group(bundles: Sequence[Mapping[str, float]], strategy: str = "PACK", name: str = "",
                    lifetime: Literal["detached"] | None = None) -> PlacementGroup:
    """Reserve bundles of resources, all or none. Returns at once; see `ready` and `wait`.

    Args:
        bundles: what each must have, on one node: `[{"CPU": 2, "GPU": 1}, {"CPU": 2}]`.
        strategy: "PACK": on as few nodes as there is room on; "SPREAD": on as many; "STRICT_PACK": on one node, or not at all;
            "STRICT_SPREAD": each on a node of its own, or not at all.
        name: for `get_placement_group`.
        lifetime: None removes it when this process ends; "detached" keeps it until the cluster ends.

    Raises:
        ValueError: bundles or a strategy that cannot be, or a name that is taken.
        PlacementError: no choice of nodes could ever hold it.
    """
    if isinstance(bundles, (str, Mapping)) or not isinstance(bundles, Sequence):
        raise ValueError(f"bundles={bundles!r:.80}: a list of mappings, e.g. [{{'CPU': 1}}]")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime={lifetime!r}: None or 'detached'")
    spec = GroupSpec(new_hex(), tuple(bundles), strategy, name, lifetime == "detached")
    _engine().create_group(spec)
    return PlacementGroup(spec.id, spec.bundles)


def get_placement_group(name: str) -> PlacementGroup:
    """The group of this name, in this namespace; ValueError if there is none."""
    for row in _engine().groups():
        if name and row["name"] == name:
            return PlacementGroup(row["placement_group_id"], tuple(row["bundles"][key] for key in sorted(row["bundles"], key=int)))
    raise ValueError(f"no placement group named {name!r}")


def remove_placement_group(group: PlacementGroup) -> None:
    """Give its bundles back, and end the actors and tasks inside. One that is gone already is no error."""
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"soma.remove_placement_group takes a PlacementGroup, got {type(group).__name__}")
    _engine().remove_group(group.id)


def placement_group_table(group: PlacementGroup | None = None) -> dict[str, Any]:
    """Every group by its id, or the row of one (empty if it is gone).

    A row: "placement_group_id", "name", "strategy", "state" (PENDING, CREATED, RESCHEDULING), "bundles" {number: {resource: amount}},
    "bundles_to_node_id" {number: node}, for those that are reserved.
    """
    rows = {row["placement_group_id"]: _row(row) for row in _engine().groups()}
    return rows if group is None else rows.get(group.id, {})


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has made text of the numbers."""
    return {**row, **{key: {int(j): there for j, there in row[key].items()} for key in ("bundles", "bundles_to_node_id")}}


def _engine() -> GroupVerbs:
    engine = current.engine()
    if not isinstance(engine, GroupVerbs):
        raise RuntimeError("there are no placement groups with soma.init(local=True): everything runs in this process")
    return engine
