"""A head that is started after another died: its state from the record, then what that one left undone.

Nodes, actors and drivers are taken to be where they were; each has the usual grace to say so. What they sent meanwhile arrives, for their
sessions go on. News that the dead head may not have told is told again: all of it may be heard twice without harm.
"""

from __future__ import annotations

import functools
import itertools
import logging
from typing import Any

from soma.actors.admission.restoring import take_again
from soma.actors.lifecycle import Phase
from soma.daemon.agent import read_order
from soma.daemon.coordination.presence import Kind
from soma.daemon.fleet import Fleet
from soma.daemon.head import Head
from soma.daemon.recorded import Tables
from soma.daemon.resident import read_resident
from soma.ids import ActorId
from soma.transport import messages as m
from soma.transport.frames import unpack
from soma.transport.lasting import Lasting, Mark

log = logging.getLogger("soma.daemon")

AGAIN = 0.1
"""Seconds after which a restart goes on for whose pause the dead head waited."""
RETURN = 2.0
"""Seconds that nobody is given anything, unless all nodes are back sooner."""


def restore(head: Head, fleet: Fleet, tables: Tables, received: Lasting) -> None:
    """Take over. The loop does not run yet."""
    rows: dict[str, dict[Any, Any]] = {name: dict(table) for name, table in tables.items()}  # what follows changes the tables
    head.event_numbers = itertools.count(fleet.coordinator.epoch << 32)
    for sender, (session, number) in rows.get("session", {}).items():
        received.resume(sender, session, number)
    head.dealt_with = lambda sender: _dealt_with(head, received, sender)
    _machines(head, fleet, rows)
    _peers(head, fleet, rows)
    _actors(head, fleet, rows)
    head.loans.adopt(rows.get("loan", {}), rows.get("asked", {}))
    for actor, header in rows.get("blocked", {}).items():
        r = head.residents.by_id.get(ActorId(str(actor)))
        if r is not None:
            head.stalls.blocked(r, unpack(header))
    fleet.begin()
    _agree(head, fleet)
    _go_on(head)
    _say_again(head, rows)
    head.loop.after(RETURN, lambda: _wait_no_more(head))
    head.admit()
    log.info("took over: %d nodes, %d actors, %d drivers", len(head.machines), len(head.residents.by_id), len(head.drivers))


def _dealt_with(head: Head, received: Lasting, sender: bytes) -> None:
    """A message is on record together with what it led to; no sooner is it acknowledged."""
    if isinstance(sender, Mark):
        head.book.put("session", bytes(sender), (sender.session, sender.number))
        head.settle()
        received.settled(sender)


def _machines(head: Head, fleet: Fleet, rows: dict[str, dict[Any, Any]]) -> None:
    now = head.loop.now()
    head.joined.update(rows.get("joined", {}))
    for header, draining in rows.get("node", {}).values():
        msg: m.Register = unpack(header)
        head.awaited.add(msg.node_id)
        fleet.add(msg)
        fleet.apply(fleet.membership.expected(msg.node_id, msg.incarnation, now))
        head.distrust(msg.node_id)
        if draining:
            fleet.membership.drain(msg.node_id)
            head.pools.drain(msg.node_id)
    for record in list(fleet.coordinator.nodes.values()):
        if not record.gone and record.name not in head.machines:  # lost as the machine it is, and not yet as what is obeyed
            fleet.carry(fleet.coordinator.lost(record.name, record.incarnation))
    for group, told in rows.get("group", {}).items():
        head.groups.adopt(str(group), told)
    for holder, seat in rows.get("seat", {}).items():
        take_again(head.pools, str(holder), seat)


def _peers(head: Head, fleet: Fleet, rows: dict[str, dict[Any, Any]]) -> None:
    for peer, role in rows.get("peer", {}).items():
        head.peers[peer] = role
        if role == "driver":
            head.drivers.add(peer)
            fleet.apply(fleet.membership.expected(peer, 0, head.loop.now(), Kind.DRIVER))
            head.connect(peer + ".s")
    head.listeners.update(rows.get("listener", {}))
    head.gone.extend(rows.get("gone", {}))


def _actors(head: Head, fleet: Fleet, rows: dict[str, dict[Any, Any]]) -> None:
    lives = rows.get("life", {})
    for actor, asked in rows.get("actor", {}).items():
        r, node = read_resident(actor, asked, lives[actor], head.settings)
        r.machine = head.machines.get(node)
        head.residents.adopt(r)
    for key, told in rows.get("order", {}).items():
        fleet.orders[str(key)] = read_order(told)
    for both in rows.get("watch", {}):
        actor, _, peer = str(both).partition(" ")
        if peer in head.peers:
            head.residents.watched(ActorId(actor), peer)
        else:
            head.book.drop("watch", both)


def _agree(head: Head, fleet: Fleet) -> None:
    """Actors and orders are on record as of one moment; what contradicts itself all the same is over."""
    placed = fleet.coordinator.placements
    for r in list(head.residents.by_id.values()):
        if r.has_process and r.peer not in placed:
            head.residents.on_node_lost(r.peer, "the head was restarted, and knows nothing of its process")
    for key in [key for key in placed if head.residents.of_peer(key) is None]:
        fleet.carry(fleet.coordinator.kill(key, head.loop.now()))


def _go_on(head: Head) -> None:
    """Do what an earlier head was about to do with its actors, and say again what it may not have said."""
    residents = head.residents
    for r in [*residents.tombs.values(), *residents.by_id.values()]:
        if r.life.phase in (Phase.READY, Phase.RESTARTING, Phase.DEAD):
            residents.tell(r)
    for r in list(residents.by_id.values()):
        match r.life.phase:
            case Phase.WAITING:
                residents.place(r)
            case Phase.RESTARTING:
                head.loop.after(AGAIN, functools.partial(residents.again, r))
            case Phase.STARTING:
                residents.await_constructor(r)
            case Phase.STOPPING if r.leaving is not None:
                residents.say(r, m.Stop(r.leaving[0]))
            case _:
                continue


def _say_again(head: Head, rows: dict[str, dict[Any, Any]]) -> None:
    for peer in head.peers:
        for dead in rows.get("gone", {}):
            head.send(peer + ".s", m.PeerDied(str(dead)))
        head.send(peer, m.Answer(b"", "", "", {}))  # who waits for an answer asks again


def _wait_no_more(head: Head) -> None:
    if head.awaited:
        log.warning("going on without %s", ", ".join(sorted(head.awaited)))
        head.awaited.clear()
        head.admit()
