"""The head of a cluster: every decision about actors, task workers and resources. One thread, and nothing that blocks.

It routes what arrives to those who own the matter: `residents` (actors), `loans` (task workers), `stalls` (blocked actors), `questions`.
What is done on a machine is done by a `Machine`: this process's own in a local cluster. It never unpickles anything.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

from soma.actors.admission import ClusterQueue, Pools
from soma.actors.admission.infeasible import why_never
from soma.actors.placing import amounts, check_options, where_of
from soma.config import Settings
from soma.daemon.groups import Groups
from soma.daemon.loans import Loans
from soma.daemon.loop import Loop, PollableWire
from soma.daemon.orders import Machine, Wanted
from soma.daemon.questions import Questions
from soma.daemon.resident import Resident
from soma.daemon.residents import Residents
from soma.daemon.stalls import Stalls
from soma.errors import DeathCause, ProtocolError
from soma.ids import ActorId
from soma.transport import messages as m
from soma.transport.frames import pack, read
from soma.transport.naming import parse

log = logging.getLogger("soma.daemon")


class Head:
    """`loop.run` returns when the cluster is over; `close` when nothing of it is left."""

    def __init__(self, wire: PollableWire, name: str, cluster: str, settings: Settings) -> None:
        self.cluster, self.settings = cluster, settings
        self.machines: dict[str, Machine] = {}
        self.near: dict[str, str] = {}
        """Node by the tag that names of processes there carry."""
        self.pools = Pools()
        self._wire = wire
        self._outlet = wire.outlet(name)
        self._mailbox = wire.mailbox(name)
        self.loop = Loop(self._mailbox, self._on_message)
        self.peers: dict[str, str] = {}
        self.drivers: set[str] = set()
        self.listeners: set[str] = set()
        self._event_number = itertools.count()
        self._complained: set[bytes] = set()
        self.refused = 0
        self.residents = Residents(self)
        self.loans = Loans(self)
        self.groups = Groups(self)
        self.stalls = Stalls(self)
        self.residents.on_gone = self._on_gone
        self.queue = ClusterQueue()
        self._admitted: dict[str, Callable[[Machine], None]] = {}
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
        self.pools.add_node(machine.node, machine.totals, machine.tags, machine.labels)
        self.machines[machine.node] = machine
        self.event({"kind": "NodeJoined", "node_id": machine.node})
        self.admit()

    def remove(self, node: str, why: str) -> None:
        """A machine is gone, with all that was reserved on it."""
        del self.machines[node]
        gone = self.pools.remove_node(node)
        self.event({"kind": "NodeLost", "node_id": node, "why": why})
        for holder in self.queue.waiting_for_node(node):
            self._refuse(holder)
        for group in gone.groups:
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
        """Stop listening; what was said leaves."""
        self._mailbox.close()
        self.loop.close()
        self._outlet.close(0.2)
        self._wire.close()

    # -- messages ------------------------------------------------------------------------------------------------------------

    def send(self, peer: str, msg: Any, frames: list[bytes] | None = None) -> None:
        self._outlet.send(peer, [pack(msg), *(frames or ())])

    def send_packed(self, peer: str, header: bytes) -> None:
        self._outlet.send(peer, [header])

    def disconnect(self, peer: str) -> None:
        """Drop the connection to a peer that will not come back."""
        self._outlet.disconnect(peer)

    def answer(self, peer: str, request: bytes, fields: dict[str, Any] | None = None, *, error: str = "", text: str = "",
               body: bytes | None = None) -> None:
        self.send(peer, m.Answer(request, error, text, fields or {}), None if body is None else [body])

    def to_drivers(self, msg: Any) -> None:
        for driver in self.drivers:
            self.send(driver + ".s", msg)

    def event(self, fields: dict[str, Any]) -> None:
        if self.listeners:
            self.to_listeners(m.Event({**fields, "run_id": self.cluster, "seq": next(self._event_number), "time": time.time()}))

    def to_listeners(self, event: m.Event) -> None:
        """An event of ours, or one that a process published."""
        for peer in self.listeners:
            self.send(peer + ".s", event)

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            msg = read(frames, self.handlers, "the daemon")
            self.handlers[type(msg)](msg, frames[2:])
        except ProtocolError as e:
            self.refused += 1
            if frames[0] not in self._complained and len(self._complained) < 256:
                self._complained.add(frames[0])
                log.warning("refused a message from %r: %s (further ones from it are only counted)", frames[0][:32], e)

    def _on_hello(self, msg: m.Hello, frames: list[bytes]) -> None:
        self.peers[msg.peer] = msg.role
        self.residents.on_hello(msg.peer)
        if msg.role == "driver":
            self.drivers.add(msg.peer)
            self._outlet.connect(msg.peer + ".s")  # now: at the end there may be no time left for it

    def peer_died(self, peer: str) -> None:
        """A process is gone: tell all others, and end what it had created."""
        self.peers.pop(peer, None)
        self.listeners.discard(peer)
        for other in self.peers:
            self.send(other + ".s", m.PeerDied(peer))
        self._outlet.disconnect(peer)
        self._outlet.disconnect(peer + ".s")
        self.stalls.forget(peer)
        self.loans.peer_died(peer)
        self.groups.peer_died(peer)
        for r in list(self.residents.by_id.values()):
            if r.creator == peer and not r.options.get("detached"):
                self.stop(r, "owner", graceful=False)

    # -- actors --------------------------------------------------------------------------------------------------------------

    def _on_create(self, msg: m.CreateActor, frames: list[bytes]) -> None:
        check_options(msg.options, actor=True)
        if ActorId(msg.actor) in self.residents.by_id:
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
        for holder, node in self.queue.admit(self.pools):
            if node:  # a placement group has no one machine
                self._admitted.pop(holder)(self.machines[node])

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
        self.pools.release(r.holder)
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
            self.send(msg.peer, m.Stop("heard"))

    def _on_blocked(self, msg: m.Blocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pools.suspend(r.holder)
            self.stalls.blocked(r, msg)
            self.admit()

    def _on_unblocked(self, msg: m.Unblocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pools.resume(r.holder)
            self.stalls.unblocked(r, msg.epoch)

    def finish(self) -> None:
        """End the cluster: the driver said so, or is gone."""
        self.loop.stop()


def tag_of(peer: str) -> str:
    """Of the directory where a peer's sockets are; "" for a name that is good on one machine only."""
    place = parse(peer)
    return place.tag if place is not None else ""
