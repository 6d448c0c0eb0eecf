"""What a head writes down before it acts on it, so that the next one knows. Plain data: text, numbers.

A journal is these in the order in which they were decided. The last ones may be missing, if nothing they allow was done yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeadStarted:
    epoch: int
    """1 for the first head, one more for each after it."""


@dataclass(frozen=True, slots=True)
class NodeAccepted:
    node: str
    incarnation: int
    registration: int


@dataclass(frozen=True, slots=True)
class NodeGone:
    """Lost, or left: this incarnation is never accepted again."""

    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Placed:
    key: str
    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Doomed:
    """It is to be killed."""

    key: str


@dataclass(frozen=True, slots=True)
class Removed:
    """Its end was told."""

    key: str


Entry = HeadStarted | NodeAccepted | NodeGone | Placed | Doomed | Removed
