"""Placement groups as a process of the cluster asks for them. What the head does is `admission.groups`.

A group that no nodes could ever hold is refused at once; any other waits in the head's queue until all of it can be reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from soma.actors.admission.amounts import PARTS
from soma.actors.admission.packing import checked

if TYPE_CHECKING:
    from soma.actors.admission.groups import Group


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A placement group to be made."""

    id: str
    bundles: tuple[Mapping[str, float], ...]
    strategy: str
    name: str = ""
    detached: bool = False

    def __post_init__(self) -> None:
        checked(self.bundles, self.strategy)
        plain = tuple({str(name): float(n) for name, n in bundle.items() if n} for bundle in self.bundles)
        object.__setattr__(self, "bundles", plain)
        if not isinstance(self.name, str) or len(self.name) > 256:
            raise ValueError(f"name={self.name!r:.80}: a string of at most 256 characters")


@runtime_checkable
class GroupVerbs(Protocol):
    """What an engine must do for placement groups."""

    def create_group(self, spec: GroupSpec) -> None:
        """Reserve its bundles as soon as there is room; PlacementError at once if no nodes could ever hold them."""

    def remove_group(self, id: str) -> None:
        """Give its bundles back and end who runs inside. A group that is gone is no error."""

    def groups(self) -> list[dict[str, Any]]:
        """A row for each there is (see `row`)."""


def row(group: Group, name: str) -> dict[str, Any]:
    """A placement group as plain data that JSON can carry: what `groups` answers."""
    return {"placement_group_id": group.id, "name": name, "strategy": group.strategy, "state": group.state.value,
            "bundles": {str(j): {k: n / PARTS for k, n in bundle.items()} for j, bundle in enumerate(group.bundles)},
            "bundles_to_node_id": {str(j): node for j, node in sorted(group.nodes.items())}}
