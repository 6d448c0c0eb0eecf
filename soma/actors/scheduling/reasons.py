"""Why something is where it is, or is nowhere: for people, in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from soma.actors.admission import GPU, PARTS, Parts, amount_of, quantity
from soma.actors.placing import quoted
from soma.actors.scheduling.events import DRIVER, Request
from soma.actors.scheduling.rooms import Fleet, Room, Shape
from soma.actors.scheduling.units import Unit

T = TypeVar("T")

SHOWN = 5
"""Machines, or holders, that a message names; the rest it counts."""


@dataclass(frozen=True, slots=True)
class Stay:
    """It is where most of its data is."""

    room: int
    source: str
    here: int
    total: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Spread:
    """It is where least is going on, of the machines that could have it."""

    shape: Shape
    crowded: str
    """The machine with its data, which has no room for it."""


Why = Stay | Spread


def why_there(why: Why, fleet: Fleet) -> str:
    if isinstance(why, Stay):
        whose = "the driver's data" if why.source == DRIVER else f"its input from {why.source!r}"
        return f"{whose} is there" + (f" ({size(why.here)} of {size(why.total)})" if why.total else "")
    hosts = len(fleet.hosts(why.shape))
    if len(fleet.rooms) == 1:
        return "the only machine"
    if hosts == 1:
        return f"the only machine {_distinction(why.shape, fleet)}"
    return f"the least loaded of {hosts} machines" + (f"; {why.crowded}, where its data is, has no room" if why.crowded else "")


def _distinction(shape: Shape, fleet: Fleet) -> str:
    tags, parts = shape
    if sum(tags <= room.tags for room in fleet.rooms) == 1:
        return f"with the tags {quoted(sorted(tags))}"
    return f"that has {in_words(dict(parts))}"


def why_shared(units: Sequence[Unit], limit: int, fleet: Fleet) -> str:
    """Why not every unit has a process of its own."""
    asked: Parts = {}
    for unit in units:
        for name, n in unit.parts.items():
            asked[name] = asked.get(name, 0) + n
    free = fleet.free()
    scarce = next((name for name in sorted(asked) if asked[name] > free.get(name, 0)), None)
    if scarce is not None:
        left, total = free.get(scarce, 0), sum(room.total.get(scarce, 0) for room in fleet.rooms)
        have = quantity(scarce, left / PARTS) + (f" of {quantity(scarce, total / PARTS)} left" if left < total else "")
        who = "the machine has" if len(fleet.rooms) == 1 else f"the {len(fleet.rooms)} machines have"
        return f"{amount_of(scarce, asked[scarce] / PARTS)} were asked for together and {who} {have}"
    if len(units) > limit:
        return f"{len(units):,} processes would be more than {limit:,}"
    return "no machine had room for it by itself"


def reasons_of(request: Request, tasks: Sequence[int], there: str, shared: str) -> dict[str, str]:
    """For each task of one process: the first says why it is there, the others why they are with it."""
    first_of: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for i in tasks:
        task = request.tasks[i]
        first = None if task.together is None else first_of.setdefault(task.together, task.id)
        if not reasons:
            reasons[task.id] = there
        elif first is not None and first != task.id:
            reasons[task.id] = f"shares a process with {first!r}: one autograd graph"
        else:
            reasons[task.id] = f"shares a process with {request.tasks[tasks[0]].id!r}: {shared}"
    return reasons


# -- refusals ----------------------------------------------------------------------------------------------------------------


def _asked(request: Request, unit: Unit) -> str:
    names = [request.tasks[i].id for i in unit.tasks]
    who = f"task {names[0]!r}" if len(names) == 1 else f"tasks {_listed(names)} in one process"
    what = [in_words(unit.parts)] if unit.parts else []
    if unit.tags:
        what.append(f"the tags {quoted(sorted(unit.tags))}")
    return f"{who} asked for {' and '.join(what)}"


def impossible(request: Request, unit: Unit, fleet: Fleet) -> str:
    """What was asked, and what each machine has."""
    if not fleet.rooms:
        return f"{_asked(request, unit) if unit.parts or unit.tags else 'there is work to do'}; there is no machine"
    return f"{_asked(request, unit)}; {_listed(fleet.rooms, lambda room: _lacking(unit, room, len(fleet.rooms)), '; ')}"


def _lacking(unit: Unit, room: Room, machines: int) -> str:
    who = "the machine" if machines == 1 else room.machine.id
    if not unit.tags <= room.tags:
        return f"{who} has {f'the tags {quoted(sorted(room.tags))}' if room.tags else 'no tags'}"
    short = [name for name, n in unit.parts.items() if n > room.total.get(name, 0)] or [GPU]
    return f"{who} has {' and '.join(amount_of(name, room.total.get(name, 0) / PARTS) for name in short)}"


def taken(request: Request, unit: Unit, fleet: Fleet, waiting: Iterable[str]) -> str:
    """What was asked, and who holds it."""
    hosts = [fleet.rooms[i] for i in fleet.hosts(unit.shape)]
    said = _listed(hosts, lambda room: _held(unit, room, fleet), "; ")
    queue = _listed(waiting) if any(room.closed & unit.parts.keys() for room in hosts) else ""
    return f"{_asked(request, unit)}; {said}" + (f"; {queue} waited for it earlier" if queue else "")


def _held(unit: Unit, room: Room, fleet: Fleet) -> str:
    where = "the machine" if len(fleet.rooms) == 1 else room.machine.id
    short = next((name for name, n in unit.parts.items() if n > room.free.get(name, 0)), None)
    if short is None and not room.closed & unit.parts.keys():
        short = GPU  # there is enough of it, in pieces
    if short is None:
        return f"{where} keeps it for somebody else"
    holders = [(p.parts[short] / PARTS, f"{p.name!r} of {p.owner!r}") for p in fleet.placed.values()
               if p.machine == room.machine.id and short in p.parts]
    holders += [(held[short], repr(name)) for name, held in room.machine.reserved.items() if name not in fleet.placed and held.get(short)]
    named = _listed(sorted(holders, key=lambda h: (-h[0], h[1])), lambda h: f"{h[1]} holds {quantity(short, h[0])}")
    return f"{where} has {amount_of(short, room.total.get(short, 0) / PARTS)}, of which {named}"


def in_words(parts: Parts) -> str:
    """"2 CPU and 1 GPU"."""
    return " and ".join(amount_of(name, n / PARTS) for name, n in sorted(parts.items()))


def _listed(items: Iterable[T], text: Callable[[T], str] = repr, between: str = ", ") -> str:
    every = list(items)
    return between.join(map(text, every[:SHOWN])) + (f"{between}and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def size(n: float) -> str:
    """"8.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} bytes" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
