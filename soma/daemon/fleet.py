"""The head's side of machines that are elsewhere: the thin shell around `coordination.Membership` and `coordination.Coordinator`.

Letters of the control port come in, answers go out there; orders and news of processes go over the data plane. What the pure parts
decide is carried out here, in their order. Drivers that own no cluster are members as well: one that is silent too long is dead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from soma.daemon.coordination import decisions as c
from soma.daemon.coordination.coordinator import Coordinator
from soma.daemon.coordination.membership import Membership
from soma.daemon.coordination.presence import Change, Fence, Full, Kind, Lost, Recovered, Suspected, Unknown
from soma.daemon.desk import Desk
from soma.daemon.emptying import empty
from soma.daemon.gate import Gate
from soma.daemon.head import Head, tag_of
from soma.daemon.news import News
from soma.daemon.orders import Order
from soma.daemon.recorded import note_node, record
from soma.daemon.remote import RemoteMachine, told_order
from soma.errors import SecurityError, VersionMismatchError
from soma.transport import messages as m
from soma.transport.control import ControlServer
from soma.transport.visitors import Inbox, Letter

log = logging.getLogger("soma.daemon")

WelcomeTo = Callable[[m.Join], m.Welcome]


class Fleet:
    """One per head. Everything but the control port's own thread runs in the head's loop."""

    def __init__(self, head: Head, server: ControlServer, gate: Gate, inbox: Inbox, membership: Membership, welcome: WelcomeTo,
                 coordinator: Coordinator) -> None:
        self._head, self._server, self._gate, self._inbox = head, server, gate, inbox
        self.membership, self.coordinator = membership, coordinator
        self._welcome, self._desk = welcome, Desk(head, server)
        self._clients: dict[str, bytes] = {}
        """Where members of the control plane are answered; by node, or by a driver's peer."""
        self._members: dict[bytes, str] = {}
        self.orders: dict[str, Order] = {}
        self._news = News(self, head)
        self._registers: dict[str, m.Register] = {}
        self._timer = 0
        self._readers: dict[type, Callable[[Letter], None]] = {
            m.Join: self._on_join, m.Register: self._on_register, m.Heartbeat: self._on_heartbeat, m.Leave: self._on_leave,
            m.Query: self._on_query, m.Drain: self._on_drain, m.Shutdown: lambda letter: head.finish()}
        head.handlers.update({
            m.Spawned: self._news.on_spawned, m.Exited: self._news.on_exited, m.Looked: self._news.on_answer,
            m.LogPart: self._news.on_answer, m.Kept: self._news.on_kept,
            m.Halted: lambda x, _: head.residents.on_stopped(x.key, stopped=x.stopped),
            m.LogLines: lambda x, _: head.to_drivers(x), m.Detach: lambda x, _: self._driver_gone(x.peer)})

    def begin(self) -> None:
        """Listen to the control port; an earlier head's nodes and actors are known by now."""
        self._head.loop.watch_fd(self._inbox.fileno(), self._on_letters)
        self.carry(self.coordinator.begin())
        self._schedule()

    def close(self, reason: str) -> None:
        """Tell every member that it is over."""
        for client in self._clients.values():
            self._server.reply(client, m.Shutdown(reason))

    # -- the control port ------------------------------------------------------------------------------------------------------

    def _on_letters(self, fd: int) -> None:
        for letter in self._inbox.take_all():
            if letter.msg is None:
                self._on_closed(letter.client)
            else:
                self._readers[type(letter.msg)](letter)

    def _on_closed(self, client: bytes) -> None:
        member = self._members.pop(client, None)
        if member is not None and self._clients.get(member) == client:
            self.apply(self.membership.link_down(member, self._now()))

    def _know(self, member: str, client: bytes) -> None:
        before = self._clients.get(member)
        if before != client:
            if before is not None:
                self._members.pop(before, None)
            self._clients[member], self._members[client] = client, member

    def _on_join(self, letter: Letter) -> None:
        msg: m.Join = letter.msg
        try:
            assert letter.user is not None
            self._gate.admit(letter.user, msg)
        except (SecurityError, VersionMismatchError) as e:
            self._reply(letter.client, m.Refused(msg.request, type(e).__name__, str(e)))
            return
        self._reply(letter.client, self._welcome(msg))

    def _reply(self, client: bytes, message: Any) -> None:
        self._head.effect(lambda: self._server.reply(client, message))

    def _on_register(self, letter: Letter) -> None:
        msg: m.Register = letter.msg
        if msg.node_id not in self._head.joined:
            self._reply(letter.client, m.Shutdown("the head of another cluster is here now"))
            return
        self._know(msg.node_id, letter.client)
        changes = self.membership.registered(msg.node_id, msg.incarnation, self._now())
        self.apply(changes)
        if changes:
            return  # fenced, or no room
        alive = frozenset(key for key, _ in msg.actors)
        said = self.coordinator.registered(msg.node_id, msg.incarnation, msg.registration, alive, self._now())
        at = next((i for i, x in enumerate(said) if isinstance(x, c.Accept)), None)
        machine = self._head.machines.get(msg.node_id)
        if at is None:
            self.carry(said)
            return
        if isinstance(machine, RemoteMachine) and machine.incarnation != msg.incarnation:
            self._without(msg.node_id, "it started anew")
        self.carry(said[:at + 1])
        if msg.node_id not in self._head.machines:
            self.add(msg)
            note_node(self._head.book, msg, draining=False)
            log.info("node %s joined with %s", msg.node_id, msg.totals)
        self.carry(said[at + 1:])
        self._head.returned(msg.node_id)

    def add(self, msg: m.Register) -> None:
        """A machine, as it told of itself."""
        self._registers[msg.node_id] = msg
        self._head.near[tag_of(msg.peer)] = msg.node_id
        self._head.add(RemoteMachine(self, msg))

    def _on_heartbeat(self, letter: Letter) -> None:
        msg: m.Heartbeat = letter.msg
        self._know(msg.node_id, letter.client)
        now = self._now()
        changes = self.membership.beat(msg.node_id, msg.incarnation, now, msg.load)
        self.apply(changes)
        if any(isinstance(x, Fence) for x in changes):
            return
        machine = self._head.machines.get(msg.node_id)
        if isinstance(machine, RemoteMachine) and machine.incarnation == msg.incarnation:
            machine.load = msg.load
            if msg.draining and not self._head.leaving(machine):
                empty(self._head, self.membership, self._registers[msg.node_id])
        unknown = any(isinstance(x, Unknown) for x in changes)  # then an epoch that no head has: it registers anew
        self._reply(letter.client, m.Beat(msg.seq, 0 if unknown else self.coordinator.epoch))
        self.carry(self.coordinator.beaten(msg.node_id, now))

    def _on_leave(self, letter: Letter) -> None:
        msg: m.Leave = letter.msg
        machine = self._head.machines.get(msg.node_id)
        if not isinstance(machine, RemoteMachine) or machine.incarnation != msg.incarnation:
            return
        self.membership.left(msg.node_id)
        self._without(msg.node_id, msg.reason or "it left")
        self._head.disconnect(machine.peer)
        self._head.book.drop("session", machine.peer.encode())
        self.carry(self.coordinator.left(msg.node_id, msg.incarnation), msg.reason)

    def _on_drain(self, letter: Letter) -> None:
        msg: m.Drain = letter.msg
        client = self._clients.get(msg.node_id)
        if client is None or msg.node_id not in self._head.machines:
            there = ", ".join(sorted(self._head.machines)) or "none"
            self._reply(letter.client, m.Report(msg.request, "ValueError", f"there is no node {msg.node_id!r}; there are: {there}"))
            return
        self._reply(client, m.Drain(b"", msg.node_id, msg.grace, msg.reason))
        empty(self._head, self.membership, self._registers[msg.node_id])
        self._desk.report(letter.client, msg.request, {"node_id": msg.node_id, "state": "draining"})

    def _on_query(self, letter: Letter) -> None:
        peer = letter.msg.args.get("peer")
        if letter.msg.what == "attach" and isinstance(peer, str):
            self._on_attach(letter, peer)
        else:
            self._desk.on_query(letter)

    def _on_attach(self, letter: Letter, peer: str) -> None:
        """A driver that owns no cluster is there, or still is."""
        self._know(peer, letter.client)
        if peer not in self.membership.members:
            self.apply(self.membership.registered(peer, 0, self._now(), Kind.DRIVER))
        changes = self.membership.beat(peer, 0, self._now())
        if any(isinstance(x, Fence) for x in changes):
            gone = m.Refused(letter.msg.request, "ClusterLostError", f"the driver {peer} was given up: it was silent for too long")
            self._reply(letter.client, gone)
        else:
            self._desk.report(letter.client, letter.msg.request, {})

    # -- orders (`remote.Orders`) ------------------------------------------------------------------------------------------------

    def launch(self, machine: RemoteMachine, order: Order) -> None:
        self.orders[order.peer] = order
        if self._head.book.lasting:
            self._head.book.put("order", order.peer, told_order(order))
        self.carry(self.coordinator.launch(machine.node, order.peer, self._now()))

    def end(self, machine: RemoteMachine, key: str) -> None:
        self.carry(self.coordinator.kill(key, self._now()))

    def send(self, peer: str, message: Any) -> None:
        self._head.send(peer, message)

    # -- members -----------------------------------------------------------------------------------------------------------------

    def _tick(self, number: int) -> None:
        if number == self._timer:
            self.apply(self.membership.tick(self._now()))

    def _schedule(self) -> None:
        due = self.membership.next_deadline()
        if due is not None:
            self._timer += 1
            self._head.loop.after(max(0.0, due - self._now()), lambda number=self._timer: self._tick(number))  # type: ignore[misc]

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case Suspected(member, incarnation, reason):
                    log.warning("%s is suspected: %s", member, reason)
                    self._head.event({"kind": "NodeSuspected", "node_id": member, "why": reason})
                    self._head.distrust(member)
                case Recovered(member, _):
                    log.info("%s is back", member)
                    self._head.trust(member)
                case Lost(member, incarnation, reason):
                    self._lost(member, incarnation, reason)
                case Fence(member, incarnation, seen):
                    self._fence(member, incarnation, seen)
                case Full(member, reason):
                    self._fence(member, 0, 0, reason)
        self._schedule()

    def _lost(self, member: str, incarnation: int, reason: str) -> None:
        log.warning("%s is lost: %s", member, reason)
        if self.membership.members[member].kind is Kind.DRIVER:
            self._driver_gone(member)
            return
        if member in self._head.machines:
            self._without(member, reason)
        self.carry(self.coordinator.lost(member, incarnation), reason)

    def _without(self, node: str, why: str) -> None:
        """The machine is none of ours any more; what ran there is told as over by whoever calls this."""
        machine = self._head.machines[node]
        self._head.remove(node, why)
        if isinstance(machine, RemoteMachine):
            machine.lost()  # its name stays connected: it may come back under it, as another incarnation

    def _driver_gone(self, peer: str) -> None:
        self.membership.left(peer)
        client = self._clients.pop(peer, None)
        if client is not None:
            self._members.pop(client, None)
        self._head.drivers.discard(peer)
        self._head.peer_died(peer)
        if not self._head.drivers:
            self._head.loans.end_idle()

    def _fence(self, node: str, incarnation: int, seen: int, reason: str = "it was given up, and its actors with it") -> None:
        client = self._clients.get(node)
        if client is not None:
            self._reply(client, m.Fenced(b"", node, reason, incarnation, seen))

    # -- carrying out ------------------------------------------------------------------------------------------------------------

    def carry(self, said: Iterable[c.Instruction], why: str = "") -> None:
        for x in said:
            match x:
                case c.Accept(node, incarnation, registration, epoch, number):
                    self._reply(self._clients[node], m.Registered(b"", node, incarnation, registration, epoch, number))
                case Fence(node, incarnation, seen):
                    self._fence(node, incarnation, seen)
                case c.Launch(node, incarnation, number, key):
                    self._tell(node, m.Launch(incarnation, number, key, told_order(self.orders[key])))
                case c.Kill(node, incarnation, number, key):
                    self._tell(node, m.EndProcess(incarnation, number, key))
                case c.Confirm(node, incarnation, number, key):
                    self._tell(node, m.ConfirmEnd(incarnation, number, key))
                case c.Over():
                    self._news.over(x, why)
                case c.Record(entry):
                    record(self._head.book, entry)

    def _tell(self, node: str, message: Any) -> None:
        machine = self._head.machines.get(node)
        if isinstance(machine, RemoteMachine):
            self._head.send(machine.peer, message)

    def _now(self) -> float:
        return self._head.loop.now()
