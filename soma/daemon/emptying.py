"""A machine that is to leave: nothing new comes to it, and what may go on elsewhere does so.

An actor with restarts left ends when its queue is done and is made anew where there is room; what it kept only in its process is lost, as
with every restart. Others stay until they end, or until the machine's grace is over. Idle task workers end at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from soma.actors.lifecycle import Phase
from soma.actors.placing import where_of
from soma.daemon.recorded import note_node
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.coordination.membership import Membership
    from soma.daemon.head import Head
    from soma.daemon.orders import Machine
    from soma.daemon.resident import Resident

WHY = "node"
"""As what its actors' deaths count."""


def empty(head: Head, membership: Membership, registered: m.Register) -> None:
    """Begin with it. Also for a machine that is being emptied already."""
    node = registered.node_id
    machine = head.machines[node]
    membership.drain(node)
    head.pools.drain(node)
    note_node(head.book, registered, draining=True)
    head.loans.end_idle(machine)
    for r in list(head.residents.by_id.values()):
        if _may_move(head, r, machine):
            r.leaving = (WHY, 0)
            head.residents.note(r)
            head.residents.say(r, m.Stop(WHY))


def _may_move(head: Head, r: Resident, machine: Machine) -> bool:
    allowed = r.life.max_restarts < 0 or r.life.restarts < r.life.max_restarts
    return (r.machine is machine and not r.is_worker and allowed and r.life.phase is Phase.READY and r.leaving is None and r.ending is None
            and head.pools.feasible(r.amounts, where_of(r.options)))
