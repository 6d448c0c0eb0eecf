"""What a `Coordinator` decides: orders to nodes, answers to them, news for who asked for the processes, and what to write down."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from soma.daemon.coordination.journal import Entry
from soma.daemon.coordination.presence import Fence


class How(Enum):
    """Why a process is over."""

    EXITED = "it ended"
    """Its node said so, and how."""
    LOST = "its node was lost"
    LEFT = "its node left"
    RESTARTED = "node restarted"
    """The node is there, but the process is not among those it has."""


@dataclass(frozen=True, slots=True)
class Record:
    """To be on disk before any later instruction is carried out."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Accept:
    """Tell the node that it is registered. `number`: orders up to here are older than this acceptance."""

    node: str
    incarnation: int
    registration: int
    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class Launch:
    node: str
    incarnation: int
    """The fencing token: another incarnation of the node does not obey."""
    number: int
    key: str


@dataclass(frozen=True, slots=True)
class Kill:
    node: str
    incarnation: int
    number: int
    key: str


@dataclass(frozen=True, slots=True)
class Confirm:
    """Tell the node that the end of this process is known: it need not be told again."""

    node: str
    incarnation: int
    number: int
    key: str


@dataclass(frozen=True, slots=True)
class Began:
    """News: it has started, as its node says; told once by each head."""

    key: str
    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Over:
    """News: it is over; told once."""

    key: str
    node: str
    incarnation: int
    how: How
    detail: object = None
    """With `How.EXITED`: what the node said."""


Instruction = Record | Accept | Fence | Launch | Kill | Confirm | Began | Over


@dataclass(slots=True)
class Placement:
    """One process, from the order to launch it until it is over."""

    key: str
    node: str
    incarnation: int
    held: bool = False
    """Its node has it: listed it when it registered, or said that it runs."""
    begun: bool = False
    """Its node said that it runs."""
    doomed: bool = False
    restored: bool = False
    """An earlier head ordered it: whether that arrived is not known, and what was ordered may be forgotten."""
    asked: float = float("-inf")
    """When the last order about it was sent."""

    @property
    def open(self) -> bool:
        """An order about it is not answered yet."""
        return self.doomed or not self.begun


@dataclass(slots=True)
class NodeRecord:
    name: str
    incarnation: int
    registration: int = 0
    gone: bool = False
    compared: bool = False
    """It registered with this head: what it has was compared with what it should have."""
    placements: dict[str, Placement] = field(default_factory=dict)
    open: dict[str, Placement] = field(default_factory=dict)
    """Those with an order that is not answered."""
