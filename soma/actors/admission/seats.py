"""What `Pools` tells of nodes and holders: plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soma.actors.admission.groups import Group
from soma.actors.admission.places import Places


@dataclass(frozen=True, slots=True)
class Node:
    """One node, to look at."""

    id: str
    totals: dict[str, float]
    tags: tuple[str, ...]
    labels: dict[str, str]
    state: Literal["open", "suspected", "draining"]


@dataclass(frozen=True, slots=True)
class Gone:
    """Who lost what they had."""

    holders: tuple[str, ...]
    """They hold nothing any more."""
    groups: tuple[str, ...] = ()
    """Placement groups that miss bundles: RESCHEDULING, to be put in the queue again."""


@dataclass(slots=True)
class Seat:
    """Where a holder is."""

    places: Places
    name: str
    kind: str | None
    lasting: bool
    group: Group | None = None
