"""From a request to processes: one for each unit of it if they fit together, fewer if they do not.

All processes of a plan live at the same time, so what they reserve adds up. If that is too much, or they are too many, neighbours in
sequence share processes first, which costs no parallelism; then parallel work does. Whatever fits one by one can be placed: in the
last resort there is one process on each machine, and that needs no more than the largest of its tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from soma.actors.scheduling.attempt import Attempt
from soma.actors.scheduling.events import Request
from soma.actors.scheduling.rooms import Fleet, Shape
from soma.actors.scheduling.units import Condensing, Unit, sequences, units_of

FEWEST, FOR_EACH_CORE = 64, 16
"""`max_processes` by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request and what is known of it whatever machines there are."""

    request: Request
    units: tuple[Unit, ...]
    shapes: dict[Shape, Unit]
    """Each shape with the first unit that has it."""

    @staticmethod
    def of(request: Request) -> Prepared:
        units = tuple(units_of(request))
        shapes: dict[Shape, Unit] = {}
        for unit in units:
            shapes.setdefault(unit.shape, unit)
        return Prepared(request, units, shapes)

    def limit(self, fleet: Fleet) -> int:
        """How many processes there may be."""
        cores = sum(room.machine.cores for room in fleet.rooms)
        return self.request.max_processes or max(FEWEST, FOR_EACH_CORE * cores)

    def impossible(self, fleet: Fleet) -> Unit | None:
        """A unit that no machine could have if nobody else were there."""
        return next((unit for shape, unit in self.shapes.items() if not fleet.hosts(shape)), None)

    def crowded_out(self, fleet: Fleet) -> Unit | None:
        """A unit that no machine has room for now."""
        return next((unit for shape, unit in self.shapes.items() if not fleet.has_room(shape)), None)


def plan(prepared: Prepared, fleet: Fleet) -> Attempt:
    """The first attempt that succeeds. Every unit fits by itself (nothing is `crowded_out`), so one does."""
    for units, most_processes in _choices(prepared, fleet):
        attempt = Attempt(fleet, prepared.request, most_processes)
        if attempt.run(units):
            return attempt
    raise AssertionError("units that fit one by one do not fit in one process for each machine")


def _choices(prepared: Prepared, fleet: Fleet) -> Iterator[tuple[list[Unit], int | None]]:
    """What may share processes, the least first; and how many processes there may be (None: one for each unit)."""
    limit, free = prepared.limit(fleet), fleet.free()
    condensing = Condensing(prepared.units, fleet.has_room)
    if condensing.fits(limit, free):
        yield list(prepared.units), None
    edges = sequences(prepared.request, prepared.units)
    condensing.join(edges, limit, free)
    if condensing.fits(limit, free) and condensing.count < len(prepared.units):
        yield condensing.units(), None
    if condensing.count < len(prepared.units) or not condensing.fits(limit, {}):
        condensing.join(edges, limit, {})  # as if nothing were left: whoever may share does
        if condensing.fits(limit, free):
            yield condensing.units(), None
    units, most_processes = condensing.units(), min(limit, condensing.count)
    while most_processes >= 1:
        yield units, most_processes
        most_processes //= 2
