"""`Scheduling`: events in, instructions out. Looks at no clock and no machine, so a log of its events replays to the same decisions.

Invariants: of no resource is more placed than a machine has and others leave; a task runs only where its tags are; a request is
placed as a whole, refused, or waits. Who waits is served in turn: what it asks for is kept from all who come later, on the machines
where it could be had, until it can go.

What was placed counts until it is released, or until its actors were seen (`Facts`) and are gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from soma.actors.admission import PARTS
from soma.actors.scheduling.events import (
    Event,
    Facts,
    Instruction,
    Place,
    Process,
    Refuse,
    Release,
    Request,
    Submit,
    Waiting,
    Withdraw,
    as_dict,
    event_of,
    machine_of,
    request_of,
)
from soma.actors.scheduling.planning import Prepared, plan
from soma.actors.scheduling.reasons import impossible, reasons_of, taken, why_shared, why_there
from soma.actors.scheduling.rooms import Fleet, Placed
from soma.actors.scheduling.units import Unit

LONGEST_NAME = 200
"""Characters of a task's id that its process's name keeps."""


class Scheduling:
    """See the module."""

    def __init__(self) -> None:
        self._fleet = Fleet()
        self._waiting: dict[str, Prepared] = {}
        self._made = 0
        """Processes that ever were placed: makes their names differ."""

    def handle(self, event: Event) -> list[Instruction]:
        """What is to be done now, for the event's owner and for those who waited."""
        match event:
            case Facts(machines):
                return self._serve() if self._fleet.update(machines) else []
            case Submit(request):
                return [self._submit(request)]
            case Release(owner):
                gone = [p for p in self._fleet.placed.values() if p.owner == owner]
                self._fleet.release(gone)
                return self._serve() if gone else []
            case Withdraw(owner):
                return self._serve() if self._waiting.pop(owner, None) is not None else []

    def holds(self, name: str) -> bool:
        """Whether a process of this name was placed and counts."""
        return name in self._fleet.placed

    # -- deciding ----------------------------------------------------------------------------------------------------------------

    def _submit(self, request: Request) -> Instruction:
        if request.owner in self._waiting:
            return Refuse(request.owner, f"{request.owner!r} waits already: withdraw that first")
        prepared = Prepared.of(request)
        decided = self._decide(prepared)
        if not isinstance(decided, Unit):
            return decided
        why = taken(request, decided, self._fleet, self._waiting)
        if not request.wait:
            return Refuse(request.owner, why)
        self._waiting[request.owner] = prepared
        self._keep(prepared)
        return Waiting(request.owner, why)

    def _serve(self) -> list[Instruction]:
        """More may be free: those who wait, in turn."""
        for room in self._fleet.rooms:
            room.closed = frozenset()
        said: list[Instruction] = []
        for owner, prepared in list(self._waiting.items()):
            decided = self._decide(prepared)
            if isinstance(decided, Unit):
                self._keep(prepared)
            else:
                del self._waiting[owner]
                said.append(decided)
        return said

    def _keep(self, prepared: Prepared) -> None:
        """Keep what somebody waits for from those who come later."""
        for shape, unit in prepared.shapes.items():
            for i in self._fleet.hosts(shape) if unit.parts else ():
                self._fleet.rooms[i].closed |= unit.parts.keys()

    def _decide(self, prepared: Prepared) -> Place | Refuse | Unit:
        """A unit if there is no room for that one now, but could be; nothing is changed then."""
        request, fleet = prepared.request, self._fleet
        unit = prepared.impossible(fleet)
        if unit is not None:
            return Refuse(request.owner, impossible(request, unit, fleet))
        return prepared.crowded_out(fleet) or self._place(prepared)

    def _place(self, prepared: Prepared) -> Place:
        request, fleet = prepared.request, self._fleet
        attempt = plan(prepared, fleet)
        shared = why_shared(prepared.units, prepared.limit(fleet), fleet) if len(attempt.drafts) < len(prepared.units) else ""
        processes = []
        for draft in attempt.drafts:
            order = sorted(draft.tasks)
            tasks = tuple(request.tasks[i].id for i in order)
            needs = {name: n / PARTS for name, n in draft.parts.items()}
            machine = fleet.rooms[draft.room].machine.id
            process = Process(self._name(request.owner, tasks[0]), tasks, machine, needs,
                              reasons_of(request, order, why_there(draft.why, fleet), shared))
            processes.append(process)
            fleet.placed[process.name] = Placed(process.name, request.owner, machine, tasks, draft.parts, draft.work, draft.gpus)
        fleet.rooms = attempt.rooms
        return Place(request.owner, tuple(processes))

    def _name(self, owner: str, task: str) -> str:
        while True:
            self._made += 1
            mark = blake2b(f"{owner}\0{self._made}".encode(), digest_size=4).hexdigest()
            name = f"{task[:LONGEST_NAME]}-{mark}"
            if not self._fleet.is_taken(name):
                return name

    # -- telling -----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """For people: the machines, what is placed on them for whom, and who waits."""
        placed = [{"name": p.name, "owner": p.owner, "machine": p.machine, "tasks": list(p.tasks),
                   "needs": {name: n / PARTS for name, n in p.parts.items()}} for p in self._fleet.placed.values()]
        machines = [{"id": room.machine.id, "busy": round(room.busy / PARTS, 3),
                     "free": {name: max(0, n) / PARTS for name, n in sorted(room.free.items())}} for room in self._fleet.rooms]
        return {"machines": machines, "placed": placed, "waiting": list(self._waiting)}

    def snapshot(self) -> dict[str, Any]:
        """All that decisions depend on, as JSON has it."""
        return {"machines": [_without_kind(room.machine) for room in self._fleet.rooms],
                "placed": [{**dataclasses.asdict(p), "tasks": list(p.tasks), "gpus": {str(i): n for i, n in p.gpus.items()}}
                           for p in self._fleet.placed.values()],
                "waiting": [_without_kind(prepared.request) for prepared in self._waiting.values()], "made": self._made}

    @staticmethod
    def restore(snapshot: Mapping[str, Any]) -> Scheduling:
        """One that goes on as the one whose snapshot this is."""
        core = Scheduling()
        for fields in snapshot["placed"]:
            p = Placed(**{**fields, "tasks": tuple(fields["tasks"]), "gpus": {int(i): n for i, n in fields["gpus"].items()}})
            core._fleet.placed[p.name] = p
        core._fleet.update(machine_of(m) for m in snapshot["machines"])
        for fields in snapshot["waiting"]:
            prepared = Prepared.of(request_of(fields))
            core._waiting[prepared.request.owner] = prepared
            core._keep(prepared)
        core._made = snapshot["made"]
        return core


def replay(log: Iterable[Mapping[str, Any]]) -> tuple[Scheduling, list[list[dict[str, Any]]]]:
    """A fresh core that went through a log, {"event": …} or {"snapshot": …} each, and what it said to each event."""
    core = Scheduling()
    said: list[list[dict[str, Any]]] = []
    for entry in log:
        if "snapshot" in entry:
            core = Scheduling.restore(entry["snapshot"])
        else:
            said.append([as_dict(i) for i in core.handle(event_of(entry["event"]))])
    return core, said


def _without_kind(what: Any) -> dict[str, Any]:
    fields = as_dict(what)
    del fields["kind"]
    return fields
