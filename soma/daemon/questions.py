"""What the daemon answers about itself and its machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.actors.side import LAST
from soma.daemon.facts import facts
from soma.ids import DAEMON, CallIds
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.head import Head
    from soma.daemon.orders import LogPiece, Machine


PATIENCE = 0.25
"""Seconds for a process to say what it holds; a stopped one says nothing."""
Holdings = dict[str, dict[str, Any]]


@dataclass(slots=True, eq=False)
class Gathering:
    """Answers of all processes, being collected."""

    then: Callable[[Holdings], None]
    open: dict[bytes, str] = field(default_factory=dict)
    found: Holdings = field(default_factory=dict)


class Questions:
    """Answers `Ask`, from peers of the cluster and from outside (`soma status`)."""

    def __init__(self, head: Head) -> None:
        self._d = head
        self._ids = CallIds()
        self._gatherings: dict[bytes, Gathering] = {}

    def gather(self, then: Callable[[Holdings], None]) -> None:
        """Ask every process what it holds; `then` gets what was answered in time."""
        gathering = Gathering(then)
        for peer in self._d.peers:
            request = bytes(self._ids())
            gathering.open[request] = peer
            self._gatherings[request] = gathering
            self._d.send(peer + ".s", m.Ask(request, DAEMON, "holdings"))
        self._d.loop.after(PATIENCE, lambda: self._finish(gathering))
        self._finish_if_complete(gathering)

    def on_answer(self, msg: m.Answer, frames: list[bytes]) -> None:
        gathering = self._gatherings.pop(msg.request, None)
        if gathering is not None:
            gathering.found[gathering.open.pop(msg.request)] = msg.fields
            self._finish_if_complete(gathering)

    def _finish_if_complete(self, gathering: Gathering) -> None:
        if not gathering.open:
            self._finish(gathering)

    def _finish(self, gathering: Gathering) -> None:
        for request in gathering.open:
            del self._gatherings[request]
        gathering.open.clear()
        then, gathering.then = gathering.then, lambda found: None
        then(gathering.found)

    def on_ask(self, msg: m.Ask, frames: list[bytes]) -> None:
        d = self._d
        match msg.what:
            case "status":
                self.gather(lambda held: d.answer(msg.peer, msg.request, body=json.dumps(self.status(held)).encode()))
            case "machines":
                d.answer(msg.peer, msg.request, body=json.dumps(self.machines()).encode())
            case "available":
                d.answer(msg.peer, msg.request, dict(d.pools.available()))
            case "groups":
                d.answer(msg.peer, msg.request, body=json.dumps(d.groups.rows()).encode())
            case "events":
                d.listeners.add(msg.peer)
                d.book.put("listener", msg.peer, True)
                d.answer(msg.peer, msg.request)
            case "shutdown":
                for machine in d.machines.values():
                    machine.flush()
                d.send(msg.peer + ".s", m.Event({"kind": LAST}))  # behind the lines, on their way
                d.answer(msg.peer, msg.request)
                d.finish()
            case what if what.startswith("log:"):
                self._log(msg)
            case other:
                d.answer(msg.peer, msg.request, error="ValueError", text=f"unknown question {other!r}")
        if msg.peer not in d.peers:
            d.loop.after(1.0, lambda: d.disconnect(msg.peer))  # somebody from outside, who asked once

    def _log(self, msg: m.Ask) -> None:
        """`log:<actor's name or id>:<offset>`."""
        d = self._d
        actor, _, offset = msg.what[4:].rpartition(":")
        r = d.residents.called(actor)
        if r is None or r.machine is None or not offset.lstrip("-").isdecimal():
            d.answer(msg.peer, msg.request, error="ValueError", text=f"there is no actor {actor!r}")
            return

        def then(piece: LogPiece | None) -> None:
            if piece is None:
                d.answer(msg.peer, msg.request, error="ValueError", text=f"{actor!r} has printed nothing")
            else:
                d.answer(msg.peer, msg.request, {"end": piece[1]}, body=piece[0])

        r.machine.read_log(r.peer, int(offset), then)

    def machines(self) -> list[dict[str, Any]]:
        """What `Engine.machines` gives."""
        return facts(self._d)

    def status(self, held: Holdings) -> dict[str, Any]:
        """What `soma status --json` prints."""
        d = self._d
        holders = d.pools.holders()
        actors = [{
            "actor_id": r.actor, "class_name": r.class_name, "name": r.options.get("name"), "namespace": r.options.get("namespace"),
            "state": "stopped" if r.stopped else r.life.phase.value, "pid": r.pid, "incarnation": r.life.incarnation,
            "restarts": r.life.restarts, "memory_bytes": r.machine.rss(r.peer) if r.machine else 0,
            "holdings": held.get(r.address), "resources": holders.get(r.holder, {}), "task_worker": r.is_worker,
            "cores": r.cores, "node_id": r.node,
        } for r in d.residents.by_id.values()]
        nodes = [self._node(machine) for machine in d.machines.values()]
        only = nodes[0] if len(nodes) == 1 else {}
        return {"cluster": d.cluster, **only, "nodes": nodes, "resources": d.totals, "available": dict(d.pools.available()),
                "actors": actors, "drivers": sorted(d.drivers),
                "holdings": {name: held.get(name) for name in sorted(d.drivers)}, "refused_messages": d.refused}

    def _node(self, machine: Machine) -> dict[str, Any]:
        known, count = machine.facts(), self._d.pools.limit(machine.node)
        limit = {} if count is None else {"max_concurrent": count.most, "running": count.running}
        return {"node_id": machine.node, **machine.about(), "state": self._d.pools.state(machine.node), **limit,
                "resources": machine.totals, "labels": machine.labels, "available": self._d.pools.available(machine.node),
                "capabilities": known["capabilities"], "load": known["load"]}
