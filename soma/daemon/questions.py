"""What the daemon answers about itself and its machine."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from soma.actors.side import LAST
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.node import Daemon


class Questions:
    """Answers `Ask`, from peers of the cluster and from outside (`soma status`)."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon

    def on_ask(self, msg: m.Ask, frames: list[bytes]) -> None:
        d = self._d
        match msg.what:
            case "status":
                d.answer(msg.peer, msg.request, body=json.dumps(self.status()).encode())
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

    def status(self) -> dict[str, Any]:
        """What `soma status --json` prints."""
        d = self._d
        holders = d.pool.holders()
        actors = [{
            "actor_id": r.actor, "class_name": r.class_name, "name": r.options.get("name"), "namespace": r.options.get("namespace"),
            "state": "stopped" if r.stopped else r.life.phase.value, "pid": r.pid, "incarnation": r.life.incarnation,
            "restarts": r.life.restarts, "memory_bytes": d.memory.rss(r),
            "resources": holders.get(r.holder, {}), "task_worker": r.is_worker,
        } for r in d.residents.by_id.values()]
        return {"node_id": d.node, "pid": os.getpid(), "forkserver_pid": d.spawner.pid, "directory": str(d.directory),
                "resources": d.totals, "available": dict(d.pool.available()), "capabilities": d.capabilities.as_dict(),
                "actors": actors, "drivers": sorted(d.drivers), "refused_messages": d.refused}
