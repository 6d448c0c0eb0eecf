"""What nodes tell the head of processes: each beginning and end reaches the `Residents` once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soma.daemon.coordination import decisions as c
from soma.daemon.coordination.nodestates import NeverRan
from soma.daemon.head import Head
from soma.daemon.orders import read_exit
from soma.daemon.remote import RemoteMachine
from soma.ids import ActorId
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.fleet import Fleet


class News:
    def __init__(self, fleet: Fleet, head: Head) -> None:
        self._fleet, self._head = fleet, head

    def on_spawned(self, msg: m.Spawned, frames: list[bytes]) -> None:
        said = self._fleet.coordinator.started(msg.node, msg.incarnation, msg.key, self._head.loop.now())
        self._fleet.carry(x for x in said if not isinstance(x, c.Began))
        if any(isinstance(x, c.Began) for x in said):
            self._head.residents.on_spawned(msg.key, msg.pid, msg.cores)

    def on_exited(self, msg: m.Exited, frames: list[bytes]) -> None:
        known = msg.key in self._fleet.coordinator.placements
        self._fleet.carry(self._fleet.coordinator.exited(msg.node, msg.incarnation, msg.key, self._head.loop.now(), msg.detail))
        if not known:
            self._forget(msg.node, ActorId(msg.key.partition(".")[0]))

    def on_answer(self, msg: m.Looked | m.LogPart, frames: list[bytes]) -> None:
        """To a question of one of the machines; the others do not know its number."""
        for machine in self._head.machines.values():
            if isinstance(machine, RemoteMachine):
                if isinstance(msg, m.Looked):
                    machine.on_looked(msg)
                else:
                    machine.on_log(msg, frames)

    def on_kept(self, msg: m.Kept, frames: list[bytes]) -> None:
        """It may have missed that some of them are gone, or began elsewhere."""
        for actor in msg.actors:
            self._forget(msg.node, ActorId(actor))

    def _forget(self, node: str, actor: ActorId) -> None:
        """Unless the actor is to go on there."""
        machine, r = self._head.machines.get(node), self._head.residents.by_id.get(actor)
        if machine is not None and (r is None or r.node != node):
            machine.forget(actor)

    def over(self, said: c.Over, why: str) -> None:
        self._fleet.orders.pop(said.key, None)
        residents = self._head.residents
        if residents.of_peer(said.key) is None:
            self._forget(said.node, ActorId(said.key.partition(".")[0]))
            return  # ordered by an earlier head, and not on its record
        detail = said.detail if isinstance(said.detail, dict) else {}
        if said.how is c.How.LEFT:
            residents.on_node_lost(said.key, f"node {said.node} was shut down: {why or said.how.value}")
        elif said.how is not c.How.EXITED:
            residents.on_node_lost(said.key, f"node {said.node}: {why or said.how.value}")
        elif detail.get("never") == NeverRan.DRAINING.value:  # ordered before the node said that it leaves
            residents.on_node_lost(said.key, f"node {said.node} takes nothing new")
        elif "never" in detail:
            residents.on_failed(said.key, str(detail["never"]))
        else:
            residents.on_exited(said.key, read_exit(detail))
