"""What one run of a plan will do with each node, worked out once for each kind of run and kept with the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from soma.graph.plan import Plan

Mode = Literal["fit", "forward"]
Op = Literal["fit", "fit_forward", "forward"]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """For each unit (a node, or a group that runs as one, by its first): what is done, and in which order.

    Attributes:
        ops: units that are run at all.
        used: the nodes of a unit whose outputs somebody outside of it takes, or the caller wants.
        inputs: what a unit takes from outside, each once; "" is the plan's own input.
        waits: how many other units it waits for.
        followers: who waits for it.
    """

    ops: Mapping[str, Op]
    used: Mapping[str, tuple[str, ...]]
    inputs: Mapping[str, tuple[str, ...]]
    waits: Mapping[str, int]
    followers: Mapping[str, tuple[str, ...]]


def program_for(plan: Plan, mode: Mode, wanted: tuple[str, ...]) -> Program:
    """Everything that is wanted, or (in "fit") learns, and what those need."""
    found = plan.programs.get((mode, wanted))
    if found is None:
        found = plan.programs[mode, wanted] = _program(plan, mode, wanted)
    return found


def _program(plan: Plan, mode: Mode, wanted: tuple[str, ...]) -> Program:
    needed = set(wanted)
    ops: dict[str, Op] = {}
    used: dict[str, tuple[str, ...]] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    for first in reversed(plan.units):
        members = plan.group(first)
        learns = mode == "fit" and any(plan.node(id).learns for id in members)
        gives = tuple(id for id in members if id in needed)
        if not gives and not learns:
            continue
        ops[first] = ("fit_forward" if gives else "fit") if learns else "forward"
        used[first], inputs[first] = gives, taken(plan, members)
        needed.update(inputs[first])
    waits: dict[str, int] = {}
    followers: dict[str, list[str]] = {}
    for first in (f for f in plan.units if f in ops):
        makers = dict.fromkeys(plan.group(i)[0] for i in inputs[first] if i)
        waits[first] = len(makers)
        for maker in makers:
            followers.setdefault(maker, []).append(first)
    return Program(ops, used, inputs, waits, {k: tuple(v) for k, v in followers.items()})


def calls_in(plan: Plan, mode: Mode, wanted: tuple[str, ...]) -> int:
    """How many units will run, those inside loops and branches counted once each: what a progress bar goes up to."""
    units = program_for(plan, mode, wanted).ops
    return sum(sum(calls_in(p, "forward", p.leaves) for p in plan.node(first).parts) or 1 for first in units)


def taken(plan: Plan, members: Iterable[str]) -> tuple[str, ...]:
    """What these nodes take from outside of them, each once, in the order in which it is used."""
    inside = set(members)
    return tuple(dict.fromkeys(i for id in members for i in (plan.node(id).inputs or ("",)) if i not in inside))
