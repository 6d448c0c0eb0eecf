"""What the daemon answers about itself and its machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.actors.side import LAST
from soma.daemon.facts import facts
from soma.ids import DAEMON, CallIds
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.node import Daemon


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

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
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
        self._d.after(PATIENCE, lambda: self._finish(gathering))
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
                d.answer(msg.peer, msg.request, body=json.dumps([facts(d)]).encode())
            case "available":
                d.answer(msg.peer, msg.request, dict(d.pool.available()))
            case "events":
                d.listeners.add(msg.peer)
                d.answer(msg.peer, msg.request)
            case "shutdown":
                for r in d.residents.by_id.values():
                    if r.output is not None:
                        r.output.flush()
                d.send(msg.peer + ".s", m.Event({"kind": LAST}))  # behind the lines, on their way
                d.answer(msg.peer, msg.request)
                d.finish()
            case other:
                d.answer(msg.peer, msg.request, error="ValueError", text=f"unknown question {other!r}")
        if msg.peer not in d.peers:
            d.after(1.0, lambda: d.disconnect(msg.peer))  # somebody from outside, who asked once

    def status(self, held: Holdings) -> dict[str, Any]:
        """What `soma status --json` prints."""
        d = self._d
        holders = d.pool.holders()
        actors = [{
            "actor_id": r.actor, "class_name": r.class_name, "name": r.options.get("name"), "namespace": r.options.get("namespace"),
            "state": "stopped" if r.stopped else r.life.phase.value, "pid": r.pid, "incarnation": r.life.incarnation,
            "restarts": r.life.restarts, "memory_bytes": d.memory.rss(r), "holdings": held.get(r.peer),
            "resources": holders.get(r.holder, {}), "task_worker": r.is_worker,
            "cores": d.cores.of(r.actor),
        } for r in d.residents.by_id.values()]
        return {"node_id": d.node, "pid": os.getpid(), "forkserver_pid": d.spawner.pid, "directory": str(d.directory),
                "resources": d.totals, "available": dict(d.pool.available()), "capabilities": d.capabilities.as_dict(),
                "actors": actors, "drivers": sorted(d.drivers), "holdings": {name: held.get(name) for name in sorted(d.drivers)},
                "refused_messages": d.refused}
