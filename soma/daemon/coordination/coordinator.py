"""What the head told each node to run, and what became of it: orders out, news in, each counted once.

It decides nothing about actors: who calls `launch` and `kill` does, and hears of each process exactly once that it is `Over`.
It holds to these:

- A process is placed on one incarnation of one node. What another node, or another incarnation, says of it is not believed.
- An order is repeated, with a new number, until it is answered. A number is never used twice, also not by a later head.
- A `Record` comes before what it allows: once it is on disk, what follows it may be sent.
- An incarnation that was lost, or left, is refused for ever.

Refuses: placing on a node that is not there, a key that is placed elsewhere. Keys must never be used again.
"""

from __future__ import annotations

from collections.abc import Iterable

from soma.daemon.coordination.decisions import Accept, Began, Confirm, How, Instruction, Kill, Launch, NodeRecord, Over, Placement, Record
from soma.daemon.coordination.journal import Doomed, Entry, HeadStarted, NodeAccepted, NodeGone, Placed, Removed
from soma.daemon.coordination.presence import Fence

PATIENCE = 2.0
"""Seconds after which an order that was not answered is repeated, when its node beats."""

EPOCH_BITS = 32
"""Orders that one head can number, as a power of two."""


class Coordinator:
    """The head's view of all nodes. Every method returns instructions, to be carried out in order."""

    def __init__(self, epoch: int = 1, patience: float = PATIENCE) -> None:
        self.epoch, self.patience = epoch, patience
        self.nodes: dict[str, NodeRecord] = {}
        self.placements: dict[str, Placement] = {}
        self._number = epoch << EPOCH_BITS

    # -- a head's own life ---------------------------------------------------------------------------------------------------

    @classmethod
    def restore(cls, entries: Iterable[Entry], patience: float = PATIENCE, again: frozenset[str] = frozenset()) -> Coordinator:
        """As the journal tells it. The first thing to do with it is `begin`.

        Args:
            again: processes that were ordered and never said to have begun, whose orders are known: if its node has none of one, the
                order did not arrive, and is given again. (A node lists what it has until its end is confirmed, and that comes after
                `Removed`. So the journal must have been written in time: a power cut may take that away, a death of the head not.)
        """
        self = cls(0, patience)
        for entry in entries:
            match entry:
                case HeadStarted(epoch):
                    self.epoch = max(self.epoch, epoch)
                case NodeAccepted(node, incarnation, registration):
                    record = self.nodes.setdefault(node, NodeRecord(node, incarnation))
                    record.incarnation, record.registration, record.gone = incarnation, registration, False
                case NodeGone(node, incarnation):
                    self.nodes.setdefault(node, NodeRecord(node, incarnation)).gone = True
                case Placed(key, node, incarnation):
                    self._place(Placement(key, node, incarnation, restored=key not in again))
                case Doomed(key):
                    self._doom(self.placements[key])
                case Removed(key):
                    self._remove(self.placements[key])
        self.epoch += 1
        self._number = self.epoch << EPOCH_BITS
        return self

    def begin(self) -> list[Instruction]:
        """Before anything else. No later head may number its orders like this one; and what died with an incarnation that the
        journal ends, without coming to its processes, is over."""
        orphans = [p for p in self.placements.values() if self._is_orphan(p)]
        return [Record(HeadStarted(self.epoch)), *(said for p in orphans for said in self._over(p, How.LOST))]

    def entries(self) -> list[Entry]:
        """A journal that says as much as all that was recorded until now."""
        said: list[Entry] = [HeadStarted(self.epoch)]
        for node in self.nodes.values():
            said.append(NodeAccepted(node.name, node.incarnation, node.registration))
            said += [NodeGone(node.name, node.incarnation)] if node.gone else []
        for p in self.placements.values():
            said.append(Placed(p.key, p.node, p.incarnation))
            said += [Doomed(p.key)] if p.doomed else []
        return said

    # -- what is decided -----------------------------------------------------------------------------------------------------

    def launch(self, node: str, key: str, now: float) -> list[Instruction]:
        """Have a process started there."""
        record, known = self.nodes.get(node), self.placements.get(key)
        if record is None or record.gone:
            raise ValueError(f"{key} cannot be placed on node {node}, which is not there")
        if known is not None:
            if (known.node, known.incarnation) != (node, record.incarnation):
                raise ValueError(f"{key} is already placed on node {known.node}")
            return self._order(known, now) if known.open else []
        placement = self._place(Placement(key, node, record.incarnation))
        return [Record(Placed(key, node, record.incarnation)), *self._order(placement, now)]

    def kill(self, key: str, now: float) -> list[Instruction]:
        """Have it ended; `Over` follows. A key that is not placed, or over, is not an error."""
        placement = self.placements.get(key)
        if placement is None:
            return []
        record: list[Instruction] = [] if placement.doomed else [Record(Doomed(key))]
        self._doom(placement)
        return [*record, *self._order(placement, now)]

    # -- what nodes say ------------------------------------------------------------------------------------------------------

    def registered(self, node: str, incarnation: int, registration: int, alive: frozenset[str], now: float) -> list[Instruction]:
        """It says who it is and which processes it answers for: those it has, and those whose end it could not yet tell."""
        record = self.nodes.get(node)
        if record is not None and (incarnation < record.incarnation or (incarnation == record.incarnation and record.gone)):
            return [Fence(node, incarnation, record.incarnation)]
        if record is not None and incarnation == record.incarnation and registration <= record.registration:
            return [self._accept(record)] if registration == record.registration else []
        said: list[Instruction] = []
        if record is None:
            record = self.nodes[node] = NodeRecord(node, incarnation)
        elif incarnation > record.incarnation and not record.gone:
            said += self._over_all(record, How.RESTARTED)
        record.incarnation, record.registration, record.gone, record.compared = incarnation, registration, False, True
        said = [Record(NodeAccepted(node, incarnation, registration)), *said]
        later: list[Instruction] = [self._accept(record)]  # before the orders are numbered: it must not outdate them
        for placement in list(record.placements.values()):
            said_now, said_later = self._compare(placement, placement.key in alive, now)
            said, later = said + said_now, later + said_later
        unwanted = [Kill(node, incarnation, self._next(), key) for key in sorted(alive) if key not in record.placements]
        return [*said, *later, *unwanted]

    def started(self, node: str, incarnation: int, key: str, now: float) -> list[Instruction]:
        record = self.nodes.get(node)
        if record is None or record.gone or record.incarnation != incarnation:
            return []
        placement = record.placements.get(key)
        if placement is None:  # over, or never ordered by this head: if it is there, it must not be
            return [Kill(node, incarnation, self._next(), key)]
        if placement.begun:
            return []
        placement.held = placement.begun = True
        self._settle(placement)
        return [Began(key, node, incarnation)]

    def exited(self, node: str, incarnation: int, key: str, now: float, detail: object = None) -> list[Instruction]:
        record = self.nodes.get(node)
        if record is None or record.gone or record.incarnation != incarnation:
            return []
        placement = record.placements.get(key)
        news = [] if placement is None else self._over(placement, How.EXITED, detail)
        return [*news, Confirm(node, incarnation, self._number, key)]

    def beaten(self, node: str, now: float) -> list[Instruction]:
        """It beat, so what it left unanswered for too long can be asked again."""
        record = self.nodes.get(node)
        if record is None or not record.compared or not record.open:
            return []
        late = [p for p in record.open.values() if now - p.asked >= self.patience]
        return [order for p in late for order in self._order(p, now)]

    def lost(self, node: str, incarnation: int) -> list[Instruction]:
        """It is lost: fenced, and everything on it is over."""
        return self._gone(node, incarnation, How.LOST)

    def left(self, node: str, incarnation: int) -> list[Instruction]:
        """It said goodbye."""
        return self._gone(node, incarnation, How.LEFT)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _compare(self, placement: Placement, there: bool, now: float) -> tuple[list[Instruction], list[Instruction]]:
        """What a new registration means for one process of that node: news, and orders for when it is accepted."""
        if there:
            placement.held = True
            return [], self._order(placement, now) if placement.doomed else []
        if placement.held or placement.doomed or placement.restored:
            return self._over(placement, How.RESTARTED), []
        return [], self._order(placement, now)

    def _is_orphan(self, placement: Placement) -> bool:
        record = self.nodes[placement.node]
        return record.gone or record.incarnation != placement.incarnation

    def _gone(self, node: str, incarnation: int, how: How) -> list[Instruction]:
        record = self.nodes.get(node)
        if record is None or record.gone or record.incarnation != incarnation:
            return []
        record.gone = True
        return [Record(NodeGone(node, incarnation)), *self._over_all(record, how)]

    def _over_all(self, record: NodeRecord, how: How) -> list[Instruction]:
        return [said for p in list(record.placements.values()) for said in self._over(p, how)]

    def _over(self, placement: Placement, how: How, detail: object = None) -> list[Instruction]:
        self._remove(placement)
        return [Record(Removed(placement.key)), Over(placement.key, placement.node, placement.incarnation, how, detail)]

    def _accept(self, record: NodeRecord) -> Accept:
        return Accept(record.name, record.incarnation, record.registration, self.epoch, self._number)

    def _order(self, placement: Placement, now: float) -> list[Instruction]:
        placement.asked = now
        order = Kill if placement.doomed else Launch
        return [order(placement.node, placement.incarnation, self._next(), placement.key)]

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _place(self, placement: Placement) -> Placement:
        self.placements[placement.key] = placement
        record = self.nodes[placement.node]
        record.placements[placement.key] = record.open[placement.key] = placement
        return placement

    def _doom(self, placement: Placement) -> None:
        placement.doomed = True
        self._settle(placement)

    def _settle(self, placement: Placement) -> None:
        record = self.nodes[placement.node]
        if placement.open:
            record.open[placement.key] = placement
        else:
            record.open.pop(placement.key, None)

    def _remove(self, placement: Placement) -> None:
        record = self.nodes[placement.node]
        del self.placements[placement.key], record.placements[placement.key]
        record.open.pop(placement.key, None)
