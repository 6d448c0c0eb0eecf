"""One try to place units: a machine for each, in order, load counted while it goes. Takes on copies; nothing changes if it fails.

What goes on with one input's data stays where that is; the second that takes the same data is parallel to the first, and goes where
least is going on. In time about units × log machines: the idlest machine is the top of a heap, whose entries are corrected when they
come up, for load only grows while an attempt lasts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from soma.actors.admission import Parts
from soma.actors.scheduling.events import Request
from soma.actors.scheduling.reasons import Spread, Stay, Why
from soma.actors.scheduling.rooms import Fleet, Room, Shape, work_of
from soma.actors.scheduling.units import Unit, most


@dataclass(slots=True, eq=False)
class Draft:
    """A process that may come to be."""

    room: int
    parts: Parts
    gpus: dict[int, int]
    weight: int
    why: Why
    tasks: list[int] = field(default_factory=list)

    @property
    def work(self) -> int:
        return work_of(self.parts, self.weight)


class Attempt:
    """See the module. `rooms` and `drafts` hold the result, if there is one."""

    def __init__(self, fleet: Fleet, request: Request, most_processes: int | None) -> None:
        self._fleet, self._request = fleet, request
        self._most_processes = most_processes
        """From this many on, units share processes if they can; None: none is shared."""
        self.rooms: list[Room] = list(fleet.rooms)
        self._copied: set[int] = set()
        self.drafts: list[Draft] = []
        self._positions = {task.id: i for i, task in enumerate(request.tasks)}
        self._room_of = [-1] * len(request.tasks)
        self._continued: set[str] = set()
        """Inputs that somebody went on with where they are."""
        self._idlest: dict[Shape, list[tuple[float, int]]] = {}
        self._lightest: list[tuple[int, int]] = []

    def run(self, units: list[Unit]) -> bool:
        return all(map(self._place, units))

    def _place(self, unit: Unit) -> bool:
        full = self._most_processes is not None and len(self.drafts) >= self._most_processes
        if full and self._share(unit):
            return True
        room, why = self._choose(unit)
        if room >= 0:
            self._open(unit, room, why)
            return True
        return self._most_processes is not None and not full and self._share(unit)

    # -- which machine -----------------------------------------------------------------------------------------------------------

    def _choose(self, unit: Unit) -> tuple[int, Why]:
        """A machine with room for it, or -1."""
        stay = self._data(unit) if len(self.rooms) > 1 else None
        crowded = ""
        if stay is not None:
            room = self.rooms[stay.room]
            if unit.tags <= room.tags and room.fits(unit.parts):
                self._continued.add(stay.source)
                return stay.room, stay
            crowded = room.machine.id
        return self._least_busy(unit), Spread(unit.shape, crowded)

    def _data(self, unit: Unit) -> Stay | None:
        """The machine with most of what the unit takes, if nobody went on with that yet."""
        sizes: dict[int, dict[str, int]] = {}
        total = 0
        for i in unit.tasks:
            for name, size in self._request.tasks[i].inputs:
                position = self._positions.get(name)
                room = self._fleet.position.get(self._request.data_on.get(name, ""), -1) if position is None else self._room_of[position]
                total += size
                if room >= 0:
                    here = sizes.setdefault(room, {})
                    here[name] = max(here.get(name, 0), size)
        if not sizes:
            return None
        best = min(sizes, key=lambda r: (-sum(max(n, 1) for n in sizes[r].values()), self.rooms[r].busy, r))
        for name, _ in sorted(sizes[best].items(), key=lambda item: -item[1]):
            if name not in self._continued:
                return Stay(best, name, sum(sizes[best].values()), total)
        return None

    def _least_busy(self, unit: Unit) -> int:
        heap = self._idlest.get(unit.shape)
        if heap is None:
            heap = self._idlest[unit.shape] = [(self.rooms[i].busy, i) for i in self._fleet.hosts(unit.shape)]
            heapq.heapify(heap)
        while heap:
            busy, i = heap[0]
            room = self.rooms[i]
            if not room.fits(unit.parts):
                heapq.heappop(heap)  # nor will it later: room only shrinks
            elif room.busy != busy:
                heapq.heapreplace(heap, (room.busy, i))
            else:
                return i
        return -1

    # -- which process -----------------------------------------------------------------------------------------------------------

    def _open(self, unit: Unit, i: int, why: Why) -> None:
        """A process of its own."""
        room = self._mine(i)
        draft = Draft(i, unit.parts, room.take(unit.parts), unit.weight, why)
        room.work += draft.work
        heapq.heappush(self._lightest, (draft.weight, len(self.drafts)))
        self.drafts.append(draft)
        self._enter(unit, draft)

    def _share(self, unit: Unit) -> bool:
        """In the process with least to do that can take it."""
        refused = []
        found = False
        while self._lightest and not found:
            _, d = entry = heapq.heappop(self._lightest)
            found = self._grow(self.drafts[d], unit)
            refused.append((self.drafts[d].weight, d) if found else entry)
        for entry in refused:
            heapq.heappush(self._lightest, entry)
        return found

    def _grow(self, draft: Draft, unit: Unit) -> bool:
        """Make a process large enough for the unit as well, if its machine has as much."""
        if not unit.tags <= self.rooms[draft.room].tags:
            return False
        room = self._mine(draft.room)
        parts = most(draft.parts, unit.parts)
        room.give(draft.parts, draft.gpus)
        room.work -= draft.work
        fits = parts == draft.parts or room.fits(parts)
        if fits:
            draft.parts, draft.weight = parts, draft.weight + unit.weight
            if parts:
                draft.gpus = room.take(parts)
            self._enter(unit, draft)
        else:
            room.take(draft.parts, draft.gpus)
        room.work += draft.work
        return fits

    def _enter(self, unit: Unit, draft: Draft) -> None:
        draft.tasks += unit.tasks
        for i in unit.tasks:
            self._room_of[i] = draft.room

    def _mine(self, i: int) -> Room:
        if i not in self._copied:
            self._copied.add(i)
            self.rooms[i] = self.rooms[i].copy()
        return self.rooms[i]
