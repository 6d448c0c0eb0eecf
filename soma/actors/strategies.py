"""`scheduling_strategy=`: Ray's public names, with Ray's meanings, checked where they are written.

"DEFAULT": near who asks while that node is less than half used, else on the least used. "SPREAD": where the fewest of the same class or
function are. "PACK": on the fullest node with room. The classes below say more; `where_of` makes of any of them what is placed by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from soma.actors.admission.where import Condition, InGroup, NodeAffinity, NodeLabels, Op, Strategy


class _Values:
    """One or more values of a label."""

    op: Op

    def __init__(self, *values: str) -> None:
        if not values or not all(isinstance(v, str) for v in values):
            raise ValueError(f"{type(self).__name__}{values!r}: at least one string")
        self.values = values

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Values) and other.values == self.values

    def __hash__(self) -> int:
        return hash((type(self), self.values))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Values):
    """The label is one of these."""

    op: Op = "in"


class NotIn(_Values):
    """The label is none of these; a node without it will do."""

    op: Op = "not in"


@dataclass(frozen=True, slots=True)
class Exists:
    """The label is there, whatever it is."""


@dataclass(frozen=True, slots=True)
class DoesNotExist:
    """The node has no such label."""


LabelMatch = str | In | NotIn | Exists | DoesNotExist
"""A string is `In` with that one value."""


@runtime_checkable
class Grouped(Protocol):
    """A placement group, as far as a strategy has to know it."""

    @property
    def id(self) -> str: ...

    @property
    def bundle_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class NodeAffinitySchedulingStrategy:
    """On the node of this id (`soma.nodes()`, `get_runtime_context().get_node_id()`).

    `soft`: on another one if that node is gone, or could never hold it. A node that is only full is waited for.
    """

    node_id: str
    soft: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.node_id, str) or not self.node_id:
            raise ValueError(f"node_id={self.node_id!r}: the id of a node, a string")
        if not isinstance(self.soft, bool):
            raise ValueError(f"soft={self.soft!r}: True or False")


@dataclass(frozen=True, slots=True)
class PlacementGroupSchedulingStrategy:
    """Inside a placement group: in the bundle of this index, or in any (-1)."""

    placement_group: Grouped
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: Literal[False] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.placement_group, Grouped):
            raise ValueError(f"placement_group={self.placement_group!r:.80}: what soma.placement_group(…) returned")
        index, count = self.placement_group_bundle_index, self.placement_group.bundle_count
        if isinstance(index, bool) or not isinstance(index, int) or not -1 <= index < count:
            raise ValueError(f"placement_group_bundle_index={index!r}: from 0 to {count - 1}, or -1 for any bundle")
        if self.placement_group_capture_child_tasks:
            raise ValueError("placement_group_capture_child_tasks=True: not done here; give the tasks inside their own strategy")


@dataclass(frozen=True, slots=True)
class NodeLabelSchedulingStrategy:
    """On a node whose labels match: `hard` all, `soft` if there is room on such a one.

    `NodeLabelSchedulingStrategy({"zone": In("a", "b"), "spot": DoesNotExist()}, soft={"disk": "ssd"})`
    """

    hard: Mapping[str, LabelMatch] = field(default_factory=dict)
    soft: Mapping[str, LabelMatch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("hard", "soft"):
            conditions(name, getattr(self, name))


SchedulingStrategy = (Literal["DEFAULT", "SPREAD", "PACK"] | NodeAffinitySchedulingStrategy | PlacementGroupSchedulingStrategy
                      | NodeLabelSchedulingStrategy)


def conditions(name: str, matches: Mapping[str, LabelMatch]) -> tuple[Condition, ...]:
    """`{"zone": In("a")}` as what is placed by, sorted by label.

    Raises:
        ValueError: what nothing could mean; names it.
    """
    if not isinstance(matches, Mapping):
        raise ValueError(f"{name}={matches!r:.80}: a mapping of labels to strings, In, NotIn, Exists or DoesNotExist")
    made = []
    for key, match in matches.items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"{name}={{{key!r}: …}}: the name of a label, a string")
        if isinstance(match, str):
            made.append(Condition(key, "in", (match,)))
        elif isinstance(match, _Values):
            made.append(Condition(key, match.op, match.values))
        elif isinstance(match, Exists | DoesNotExist):
            made.append(Condition(key, "exists" if isinstance(match, Exists) else "absent"))
        else:
            raise ValueError(f"{name}={{{key!r}: {match!r:.80}}}: a string, In, NotIn, Exists() or DoesNotExist()")
    return tuple(sorted(made, key=lambda c: c.key))


def strategy_of(strategy: Any) -> Strategy:
    """What is placed by, of what the user wrote.

    Raises:
        ValueError: no strategy; names what would be one.
    """
    match strategy:
        case None:
            return "DEFAULT"
        case "DEFAULT" | "SPREAD" | "PACK":
            found: Strategy = strategy
            return found
        case NodeAffinitySchedulingStrategy():
            return NodeAffinity(strategy.node_id, strategy.soft)
        case PlacementGroupSchedulingStrategy():
            return InGroup(strategy.placement_group.id, strategy.placement_group_bundle_index)
        case NodeLabelSchedulingStrategy():
            return NodeLabels(conditions("hard", strategy.hard), conditions("soft", strategy.soft))
    raise ValueError(f"scheduling_strategy={strategy!r:.80}: 'DEFAULT', 'SPREAD', 'PACK', NodeAffinitySchedulingStrategy(…), "
                     "PlacementGroupSchedulingStrategy(…) or NodeLabelSchedulingStrategy(…)")
