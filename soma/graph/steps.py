"""The steps that plans are made of: frozen values without data. A plan is a tree of them over its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soma.graph.plan import Plan


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run one node in its actor."""

    node: str


@dataclass(frozen=True, slots=True)
class Composite:
    """Differentiable nodes in one process, with one autograd graph through all of them; named after the first."""

    nodes: tuple[str, ...]

    @property
    def node(self) -> str:
        return self.nodes[0]


@dataclass(frozen=True, slots=True)
class Loop:
    """Run `body` on its own output until the node `until` of it says so.

    Attributes:
        body: what one pass does.
        carry: the nodes of the body whose outputs the next pass gets: one, or several as a dict.
        until: the node whose output is the signal; None runs all passes.
    """

    node: str
    body: Plan
    carry: tuple[str, ...]
    until: str | None
    max_iterations: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Run the arm whose label the condition gives, on the branch's own input."""

    node: str
    condition: Plan
    arms: tuple[tuple[str, Plan], ...]

    def arm(self, label: str) -> Plan | None:
        """The arm of a label, else the one called "default"."""
        found = dict(self.arms)
        return found.get(label, found.get("default"))


@dataclass(frozen=True, slots=True)
class Cached:
    """The node's output is in the cache: nothing runs, and whatever only it needed is left out."""

    node: str
    tier: str


@dataclass(frozen=True, slots=True)
class Stream:
    """The step runs chunk by chunk; `mode` is that of its node."""

    step: Step
    mode: str


@dataclass(frozen=True, slots=True)
class Remote:
    """The step runs in that process of that machine, and why there."""

    step: Step
    process: str
    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Each step needs all that the one before it made."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that may run at the same time, as soon as their inputs are there."""

    steps: tuple[Step, ...]


Step = Empty | Execute | Composite | Loop | Branch | Cached | Stream | Remote | Sequence | Parallel
Leaf = Execute | Composite | Loop | Branch


def core_of(step: Step) -> Step:
    """The step inside what says where and how it runs."""
    while isinstance(step, (Stream, Remote)):
        step = step.step
    return step


def leaves_of(step: Step) -> Iterator[Step]:
    """The steps that are neither sequences nor parallels, in order, with what stands around them."""
    stack = [step]
    while stack:
        step = stack.pop()
        if isinstance(step, (Sequence, Parallel)):
            stack.extend(reversed(step.steps))
        elif not isinstance(step, Empty):
            yield step


def with_leaves(step: Step, changed: dict[str, Step]) -> Step:
    """The tree with some leaves changed, by node; what becomes empty vanishes."""
    if isinstance(step, (Sequence, Parallel)):
        parts = tuple(s for s in (with_leaves(s, changed) for s in step.steps) if not isinstance(s, Empty))
        return (replace(step, steps=parts) if len(parts) > 1 else parts[0]) if parts else Empty()
    inner = core_of(step)
    return step if isinstance(inner, (Empty, Sequence, Parallel, Stream, Remote)) else changed.get(inner.node, step)
