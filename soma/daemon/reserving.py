"""Who gets what of the machines: the thin shell around `admission.Pools` and `admission.ClusterQueue`."""

from __future__ import annotations

from collections.abc import Callable

from soma.actors.admission import ClusterQueue, Pools
from soma.actors.admission.infeasible import why_never
from soma.actors.admission.restoring import told_seat
from soma.daemon.groups import Groups
from soma.daemon.ledger import Book
from soma.daemon.orders import Machine, Wanted


class Reserving:
    """A part of the head."""

    groups: Groups

    def __init__(self, book: Book) -> None:
        self.book = book
        self.machines: dict[str, Machine] = {}
        self.pools, self.queue = Pools(), ClusterQueue()
        self._admitted: dict[str, Callable[[Machine], None]] = {}
        self.awaited: set[str] = set()
        """Nodes that a head started again expects to come back: until then nobody is given anything."""

    def when_admitted(self, holder: str, wanted: Wanted, then: Callable[[Machine], None]) -> None:
        """Reserve, then call `then` with the machine; at once if there is room. ValueError if that could never be."""
        if self.pools.places(wanted.where) is None:
            raise ValueError(why_never(self.pools, wanted.amounts, wanted.where))
        self.queue.add(holder, wanted.amounts, wanted.where, lasting=wanted.lasting, near=wanted.near)
        self._admitted[holder] = then
        self.admit()

    def not_admitted(self, holder: str) -> None:
        """It waits no more."""
        self.queue.remove(holder)
        self._admitted.pop(holder, None)

    def admit(self) -> None:
        """Resources came free, or somebody new wants some."""
        if self.awaited:
            return
        for holder, node in self.queue.admit(self.pools):
            if node:
                self.note_seat(holder)
                self._admitted.pop(holder)(self.machines[node])
            else:  # a placement group has no one machine
                self.groups.note(holder)

    def distrust(self, node: str) -> None:
        """It is not heard: nothing new goes there for now."""
        if node in self.machines:
            self.pools.distrust(node)

    def trust(self, node: str) -> None:
        """It is heard again."""
        if node in self.machines:
            self.pools.trust(node)
            self.admit()

    def takes(self, machine: Machine | None) -> bool:
        """Whether something new may go there now."""
        return machine is not None and self.machines.get(machine.node) is machine and self.pools.state(machine.node) == "open"

    def leaving(self, machine: Machine | None) -> bool:
        """Whether it is gone, or to be emptied."""
        return machine is None or self.machines.get(machine.node) is not machine or self.pools.state(machine.node) == "draining"

    def returned(self, node: str) -> None:
        """A node that was expected is there."""
        if node in self.awaited:
            self.awaited.discard(node)
            self.admit()

    def release(self, holder: str) -> None:
        """It holds nothing any more."""
        self.pools.release(holder)
        self.book.drop("seat", holder)

    def note_seat(self, holder: str) -> None:
        """What somebody holds has changed."""
        if self.book.lasting:
            seat = told_seat(self.pools, holder)
            if seat is None:
                self.book.drop("seat", holder)
            else:
                self.book.put("seat", holder, seat)
