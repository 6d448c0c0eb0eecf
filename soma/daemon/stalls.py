"""Actors that wait for each other. The thin shell around `actors.waits.WaitGraph`.

A cycle is believed only when it still stands a moment later and every wait in it is for a call that has not ended: the answer
may be on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from soma.actors import blackbox
from soma.actors.calls import fingerprint
from soma.actors.waits import WaitGraph, explain
from soma.ids import ActorId
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.node import Daemon
    from soma.daemon.residents import Resident

CONFIRM = 0.1
"""Seconds a cycle must stand."""


class Stalls:
    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._graph = WaitGraph()
        self._waits: dict[str, m.Blocked] = {}

    def blocked(self, r: Resident, msg: m.Blocked) -> None:
        """`r` waits for the calls in `msg.on`."""
        self._waits[r.actor] = msg
        self._graph.block(r.actor, frozenset(str(actor) for actor, _ in msg.on), msg.epoch, "all" if msg.every else "any")
        if self._graph.cycle_through(r.actor) is not None:
            self._d.after(CONFIRM, lambda: self._confirm(r, msg.epoch))

    def unblocked(self, r: Resident, epoch: int) -> None:
        self._graph.unblock(r.actor, epoch)
        if r.actor in self._waits and self._waits[r.actor].epoch == epoch:
            del self._waits[r.actor]

    def forget(self, peer: str) -> None:
        actor = peer.split(".")[0]
        self._graph.forget(actor)
        self._waits.pop(actor, None)

    def _confirm(self, r: Resident, epoch: int) -> None:
        wait = self._waits.get(r.actor)
        if wait is None or wait.epoch != epoch:
            return
        cycle = self._graph.cycle_through(r.actor)
        if cycle is None:
            return
        if any(self._has_ended(str(actor), bytes(call)) for member in cycle for actor, call in self._waits[member].on):
            self._d.after(CONFIRM, lambda: self._confirm(r, epoch))
            return
        names = {a: res.label for a, res in self._d.residents.by_id.items()}
        self._d.send(r.peer, m.Deadlock(epoch, explain(cycle, names)))

    def _has_ended(self, actor: str, call: bytes) -> bool:
        """Whether a call was begun and runs no more, by the actor's own black box."""
        r = self._d.residents.by_id.get(ActorId(actor))
        if r is None or r.box < 0:
            return True
        mark = fingerprint(call)
        begun = blackbox.begun(r.box)
        return blackbox.running(r.box) != mark and any(begun[i:i + 8] == mark for i in range(0, len(begun), 8))
