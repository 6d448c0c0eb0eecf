"""The head of a cluster: every decision about actors, task workers and resources. One thread, and nothing that blocks.

It routes what arrives to those who own the matter: `residents` (actors), `loans` (task workers), `stalls` (blocked actors), `questions`.
What is done on a machine is done by a `Machine`: this process's own in a local cluster. It never unpickles anything.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from soma.actors.admission.infeasible import why_never
from soma.actors.placing import amounts, check_options, where_of
from soma.config import Settings
from soma.daemon.groups import Groups
from soma.daemon.ledger import UNWRITTEN, Book
from soma.daemon.loans import Loans
from soma.daemon.loop import Loop, PollableWire
from soma.daemon.orders import Machine
from soma.daemon.questions import Questions
from soma.daemon.reserving import Reserving
from soma.daemon.resident import Resident
from soma.daemon.residents import Residents
from soma.daemon.speaking import Speaking
from soma.daemon.stalls import Stalls
from soma.errors import DeathCause, ProtocolError
from soma.ids import ActorId
from soma.transport import messages as m
from soma.transport.frames import read
from soma.transport.naming import parse

log = logging.getLogger("soma.daemon")


GONE = 64
"""Deaths that a head started again tells once more."""


class Head(Speaking, Reserving):
    """`loop.run` returns when the cluster is over; `close` when nothing of it is left."""

    def __init__(self, wire: PollableWire, name: str, cluster: str, settings: Settings, book: Book = UNWRITTEN) -> None:
        Speaking.__init__(self, wire.outlet(name), cluster, book)
        Reserving.__init__(self, book)
        self.settings = settings
        self.near: dict[str, str] = {}
        """Node by the tag that names of processes there carry."""
        self._wire = wire
        self._mailbox = wire.mailbox(name)
        self.loop = Loop(self._mailbox, self._on_message)
        self.peers: dict[str, str] = {}
        self._complained: set[bytes] = set()
        self.refused = 0
        self.dealt_with: Callable[[bytes], None] = lambda sender: None
        """Called after each message with its sender."""
        self.joined: set[str] = set()
        """Machines that were told the members' keys: others belong to a cluster whose head was here before."""
        self.gone: deque[str] = deque()
        """Peers that died lately."""
        if book.lasting:
            self.loop.before_waiting(self.settle)
        self.residents = Residents(self)
        self.loans = Loans(self)
        self.groups = Groups(self)
        self.stalls = Stalls(self)
        self.residents.on_gone = self._on_gone
        self.questions = Questions(self)
        self.handlers: dict[type, Callable[[Any, list[bytes]], None]] = {
            m.Hello: self._on_hello, m.CreateActor: self._on_create, m.Watch: lambda x, _: self.residents.watch(ActorId(x.actor), x.peer),
            m.Kill: self._on_kill, m.FindActor: self._on_find, m.ActorReady: self.residents.on_ready, m.Leaving: self._on_leaving,
            m.Blocked: self._on_blocked, m.Unblocked: self._on_unblocked, m.LeaseWorker: lambda x, _: self.loans.ask(x),
            m.ReturnWorker: lambda x, _: self.loans.give_back(x), m.Ask: self.questions.on_ask, m.Answer: self.questions.on_answer,
            m.Event: lambda x, _: self.to_listeners(x), m.CheckPlacing: self._on_check,
            m.CreateGroup: self.groups.on_create, m.RemoveGroup: self.groups.on_remove,
        }

    def add(self, machine: Machine) -> None:
        """A machine whose resources are to be used from now on."""
        self.pools.add_node(machine.node, machine.totals, machine.tags, machine.labels, machine.max_concurrent)
        self.machines[machine.node] = machine
        self.event({"kind": "NodeJoined", "node_id": machine.node})
        self.admit()

    def remove(self, node: str, why: str) -> None:
        """A machine is gone, with all that was reserved on it."""
        del self.machines[node]
        self.awaited.discard(node)
        gone = self.pools.remove_node(node)
        self.book.drop("node", node)
        for holder in gone.holders:
            self.book.drop("seat", holder)
        self.event({"kind": "NodeLost", "node_id": node, "why": why})
        for holder in self.queue.waiting_for_node(node):
            self._refuse(holder)
        for group in gone.groups:
            self.groups.note(group)
            if group not in self.queue:
                self.queue.add_group(group)
        self.admit()

    def _refuse(self, holder: str) -> None:
        """It waits for what will not come."""
        r = self.residents.by_id.get(ActorId(holder))
        if r is None:
            self.loans.refuse(holder)
        else:
            self.residents.refuse(r, why_never(self.pools, r.amounts, where_of(r.options)))

    @property
    def totals(self) -> dict[str, float]:
        """What all machines have together."""
        return self.pools.total()

    def close(self) -> None:
        """Stop listening; what was said leaves. (A turn that failed was not said, and is on no record.)"""
        self._mailbox.close()
        self.loop.close()
        self.outlet.close(0.2)
        self._wire.close()

    # -- messages ------------------------------------------------------------------------------------------------------------

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            msg = read(frames, self.handlers, "the daemon")
            self.handlers[type(msg)](msg, frames[2:])
        except ProtocolError as e:
            self.refused += 1
            if frames[0] not in self._complained and len(self._complained) < 256:
                self._complained.add(frames[0])
                log.warning("refused a message from %r: %s (further ones from it are only counted)", frames[0][:32], e)
        self.dealt_with(frames[0])

    def _on_hello(self, msg: m.Hello, frames: list[bytes]) -> None:
        self.peers[msg.peer] = msg.role
        self.book.put("peer", msg.peer, msg.role)
        self.residents.on_hello(msg.peer)
        if msg.role == "driver":
            self.drivers.add(msg.peer)
            self.connect(msg.peer + ".s")  # now: at the end there may be no time left for it

    def peer_died(self, peer: str) -> None:
        """A process is gone: tell all others, and end what it had created."""
        self.peers.pop(peer, None)
        self.listeners.discard(peer)
        for table, key in (("peer", peer), ("listener", peer), ("session", peer.encode())):
            self.book.drop(table, key)
        self._note_gone(peer)
        for other in self.peers:
            self.send(other + ".s", m.PeerDied(peer))
        self.disconnect(peer)
        self.disconnect(peer + ".s")
        self.stalls.forget(peer)
        self.loans.peer_died(peer)
        self.groups.peer_died(peer)
        for r in list(self.residents.by_id.values()):
            if r.creator == peer and not r.options.get("detached"):
                self.stop(r, "owner", graceful=False)

    def _note_gone(self, peer: str) -> None:
        self.book.put("gone", peer, True)
        self.gone.append(peer)
        if len(self.gone) > GONE:
            self.book.drop("gone", self.gone.popleft())

    # -- actors --------------------------------------------------------------------------------------------------------------

    def _on_create(self, msg: m.CreateActor, frames: list[bytes]) -> None:
        check_options(msg.options, actor=True)
        known = self.residents.by_id.get(ActorId(msg.actor))
        if known is not None and known.creator == msg.creator and msg.request:
            self.answer(msg.creator, msg.request)  # it asks again, for the head that was asked first died
            return
        if known is not None:
            raise ProtocolError(f"actor {msg.actor} exists")
        name, namespace = msg.options.get("name"), msg.options.get("namespace")
        if name and self.residents.find(str(namespace), name) is not None:
            self.answer(msg.creator, msg.request, error="ValueError",
                        text=f"an actor named {name!r} exists in namespace {namespace!r}; use get_if_exists=True, or soma.get_actor")
            return
        r = self.residents.create(msg)
        if msg.request:
            self.answer(msg.creator, msg.request)
        self.residents.place(r)

    def node_of(self, peer: str) -> str | None:
        """On which machine a process is, if that is one of ours."""
        r = self.residents.of_peer(peer)
        if r is not None and r.machine is not None:
            return r.machine.node
        return self.near.get(tag_of(peer)) if len(self.machines) > 1 else next(iter(self.machines), None)

    def _on_check(self, msg: m.CheckPlacing, frames: list[bytes]) -> None:
        check_options(msg.options, actor=False)
        where, wanted = where_of(msg.options), amounts(msg.options)
        why = why_never(self.pools, wanted, where)
        self.answer(msg.peer, msg.request, error="PlacementError" if why else "", text=f"{msg.who} {why}" if why else "")

    def stop(self, r: Resident, reason: str, *, graceful: bool) -> None:
        self.residents.stop(r, reason, graceful=graceful)

    def _on_gone(self, r: Resident) -> None:
        self.not_admitted(r.holder)
        self.release(r.holder)
        self.loans.on_gone(r)
        self.admit()

    def _on_kill(self, msg: m.Kill, frames: list[bytes]) -> None:
        r = self.residents.by_id.get(ActorId(msg.actor))
        if r is None:
            return
        if msg.no_restart:
            self.stop(r, msg.reason, graceful=msg.graceful)
        else:
            self.residents.end(r, DeathCause("cancelled" if msg.reason == "cancelled" else "signal", pid=r.pid))

    def _on_find(self, msg: m.FindActor, frames: list[bytes]) -> None:
        r = self.residents.find(msg.namespace, msg.name)
        if r is None:
            self.answer(msg.peer, msg.request, error="ValueError", text=f"no actor named {msg.name!r} in namespace {msg.namespace!r}")
        else:
            self.answer(msg.peer, msg.request, body=r.info)

    def _on_leaving(self, msg: m.Leaving, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            r.leaving = r.leaving or (msg.reason, msg.exit_code)
            self.residents.note(r)
            self.send(msg.peer, m.Stop("heard"))

    def _on_blocked(self, msg: m.Blocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pools.suspend(r.holder)
            self.note_seat(r.holder)
            self.stalls.blocked(r, msg)
            self.admit()

    def _on_unblocked(self, msg: m.Unblocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pools.resume(r.holder)
            self.note_seat(r.holder)
            self.stalls.unblocked(r, msg.epoch)

    def finish(self) -> None:
        """End the cluster: the driver said so, or is gone."""
        self.loop.stop()


def tag_of(peer: str) -> str:
    """Of the directory where a peer's sockets are; "" for a name that is good on one machine only."""
    place = parse(peer)
    return place.tag if place is not None else ""
