"""Where something may run, and where it had better: tags, labels, a node, a bundle of a placement group, spread or packed.

Frozen and hashable: who waits for the same amounts at the same `Where` waits in the same line. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Op = Literal["in", "not in", "exists", "absent"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What one label of a node must be."""

    key: str
    op: Op = "exists"
    values: tuple[str, ...] = ()
    """Of "in" and "not in". A node without the label has none of them."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        there = labels.get(self.key)
        match self.op:
            case "in":
                return there is not None and there in self.values
            case "not in":
                return there is None or there not in self.values
            case "exists":
                return there is not None
            case _:
                return there is None

    def __str__(self) -> str:
        """For people: "zone in ('a', 'b')"."""
        match self.op:
            case "exists":
                return f"any {self.key}"
            case "absent":
                return f"no {self.key}"
            case op if len(self.values) == 1:
                return f"{self.key}={self.values[0]!r}" if op == "in" else f"{self.key} other than {self.values[0]!r}"
            case op:
                return f"{self.key} {op} ({', '.join(map(repr, self.values))})"


@dataclass(frozen=True, slots=True)
class NodeAffinity:
    """On this node. `soft`: elsewhere once it is gone, or could never hold it; a full one is waited for."""

    node: str
    soft: bool = False


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """`hard` must hold; where one has a choice, `soft` too."""

    hard: tuple[Condition, ...] = ()
    soft: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class InGroup:
    """Inside what a placement group has reserved; -1 is any of its bundles."""

    group: str
    bundle: int = -1


Strategy = Literal["DEFAULT", "SPREAD", "PACK"] | NodeAffinity | NodeLabels | InGroup


@dataclass(frozen=True, slots=True)
class Where:
    """What a node must be (`tags`, `labels`), and which of those is taken (`strategy`)."""

    tags: tuple[str, ...] = ()
    labels: tuple[Condition, ...] = ()
    strategy: Strategy = "DEFAULT"
    kind: str = ""
    """Whose holders SPREAD spreads: those of one class, or one function."""

    @property
    def hard(self) -> tuple[Condition, ...]:
        """All conditions that must hold."""
        return self.labels + (self.strategy.hard if isinstance(self.strategy, NodeLabels) else ())

    def permits(self, tags: Collection[str], labels: Mapping[str, str]) -> bool:
        """Whether a node with these marks will do. (Which node it is does not matter here.)"""
        return all(t in tags for t in self.tags) and all(c.holds(labels) for c in self.hard)


ANYWHERE = Where()
