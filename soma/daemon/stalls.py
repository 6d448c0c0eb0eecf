"""Actors that wait for each other. The thin shell around `actors.waits.WaitGraph`.

A cycle is believed only when it still stands a moment later and every wait in it is for a call that has not ended: the answer
may be on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from soma.actors.calls import fingerprint
from soma.actors.waits import WaitGraph, explain
from soma.daemon.orders import Box
from soma.ids import ActorId
from soma.transport import messages as m
from soma.transport.frames import pack

if TYPE_CHECKING:
    from soma.daemon.head import Head
    from soma.daemon.resident import Resident

CONFIRM = 0.1
"""Seconds a cycle must stand."""


class Stalls:
    def __init__(self, head: Head) -> None:
        self._d = head
        self._graph = WaitGraph()
        self._waits: dict[str, m.Blocked] = {}

    def blocked(self, r: Resident, msg: m.Blocked) -> None:
        """`r` waits for the calls in `msg.on`."""
        self._waits[r.actor] = msg
        if self._d.book.lasting:
            self._d.book.put("blocked", r.actor, pack(msg))
        self._graph.block(r.actor, frozenset(str(actor) for actor, _ in msg.on), msg.epoch, "all" if msg.every else "any")
        if self._graph.cycle_through(r.actor) is not None:
            self._d.loop.after(CONFIRM, lambda: self._confirm(r, msg.epoch))

    def unblocked(self, r: Resident, epoch: int) -> None:
        self._graph.unblock(r.actor, epoch)
        if r.actor in self._waits and self._waits[r.actor].epoch == epoch:
            del self._waits[r.actor]
            self._d.book.drop("blocked", r.actor)

    def forget(self, peer: str) -> None:
        actor = peer.split(".")[0]
        self._graph.forget(actor)
        self._waits.pop(actor, None)
        self._d.book.drop("blocked", actor)

    def _confirm(self, r: Resident, epoch: int) -> None:
        cycle = self._stands(r, epoch)
        if cycle is None:
            return
        asked = [(str(actor), bytes(call)) for member in cycle for actor, call in self._waits[member].on]
        left, ended = [len(asked)], [False]

        def judged(has_ended: bool) -> None:
            left[0] -= 1
            ended[0] |= has_ended
            if left[0]:
                return
            if ended[0]:
                self._d.loop.after(CONFIRM, lambda: self._confirm(r, epoch))
            elif (cycle := self._stands(r, epoch)) is not None:
                names = {a: res.label for a, res in self._d.residents.by_id.items()}
                self._d.send(r.address, m.Deadlock(epoch, explain(cycle, names)))

        for actor, call in asked:
            self._judge(actor, call, judged)

    def _stands(self, r: Resident, epoch: int) -> tuple[str, ...] | None:
        """The cycle that this wait is part of, if there is still one."""
        wait = self._waits.get(r.actor)
        return None if wait is None or wait.epoch != epoch else self._graph.cycle_through(r.actor)

    def _judge(self, actor: str, call: bytes, then: Callable[[bool], None]) -> None:
        """Whether a call was begun and runs no more, by the actor's own black box."""
        r = self._d.residents.by_id.get(ActorId(actor))
        if r is None or r.machine is None:
            then(True)
            return
        mark = fingerprint(call)

        def read(box: Box | None) -> None:
            then(box is None or box[1] != mark and any(box[0][i:i + 8] == mark for i in range(0, len(box[0]), 8)))

        r.machine.look(r.peer, read)
