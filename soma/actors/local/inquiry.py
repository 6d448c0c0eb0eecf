"""What the `local=True` engine says of itself, and how events and words to the caller reach those who listen."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from soma.actors.engine import LOCAL_NODE
from soma.actors.load import load
from soma.actors.local.actor import LocalActor
from soma.actors.local.objects import LocalObjects
from soma.actors.local.run import LocalRun
from soma.errors import DeathCause
from soma.ids import ActorId

log = logging.getLogger("soma")


class LocalInquiry:
    """The verbs of the engine that concern the cluster as a whole."""

    namespace: str
    _capabilities: Mapping[str, Any]
    """Of this machine, as `daemon.capabilities` found them."""
    _totals: dict[str, float]
    _actors: dict[ActorId, LocalActor]
    _names: dict[tuple[str, str], ActorId]
    _objects: LocalObjects
    _runs: LocalRun
    _listeners: list[Callable[[dict[str, Any]], None]]
    _events: int

    def _tidy(self) -> None:
        """Do what finalizers left to do; raise when the engine is shut down."""
        raise NotImplementedError

    def resources(self, *, available: bool) -> dict[str, float]:
        self._tidy()
        left = dict(self._totals)
        for actor in self._living() if available else ():
            for key, amount in actor.needs.items():
                left[key] = max(0.0, left[key] - amount)
        return left

    def _living(self) -> list[LocalActor]:
        return [a for a in self._actors.values() if a.cause is None]

    def machines(self) -> list[dict[str, Any]]:
        self._tidy()
        held: dict[str, dict[str, float]] = {}
        for actor in self._living():
            held[actor.info.name if actor.info.name and actor.info.name not in held else actor.info.actor] = actor.needs
        able = {key: list(value) if isinstance(value, tuple) else value for key, value in self._capabilities.items()}
        return [{"node_id": LOCAL_NODE, "capabilities": able, "totals": dict(self._totals), "reserved": held,
                 "lent": {}, "gpu_shares": {}, "load": load()}]

    def status(self) -> dict[str, Any]:
        self._tidy()
        actors = [{
            "actor_id": a.info.actor, "class_name": a.info.class_name, "name": a.info.name, "namespace": a.key[0] if a.key else None,
            "state": a.state, "pid": os.getpid(), "incarnation": a.life.incarnation, "restarts": a.life.restarts, "resources": a.needs,
        } for a in self._living()]
        return {"node_id": LOCAL_NODE, "pid": os.getpid(), "resources": dict(self._totals), "available": self.resources(available=True),
                "capabilities": dict(self._capabilities), "actors": actors,
                "driver": {"refs": len(self._objects)}}

    def on_event(self, fn: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self._listeners.append(fn)
        return lambda: self._listeners.remove(fn) if fn in self._listeners else None

    def publish(self, fields: dict[str, Any]) -> None:
        for fn in list(self._listeners):
            fn(dict(fields))

    def tell(self, fields: dict[str, Any]) -> None:
        self._tidy()
        if not self._runs.stack.frames:
            raise RuntimeError("soma.tell() outside an actor's call: there is no caller to hear it")
        listener = self._runs.stack.frames[-1].listener
        if listener is None:
            return
        try:
            listener(dict(fields))
        except Exception:
            log.exception("the listener of a call raised; the call goes on")

    def _announce(self, kind: str, actor: LocalActor, cause: DeathCause | None) -> None:
        if actor.cause is not None and actor.key is not None and self._names.get(actor.key) == actor.info.actor:
            del self._names[actor.key]
        self._events += 1
        event: dict[str, Any] = {
            "kind": kind, "actor_id": actor.info.actor, "class_name": actor.info.class_name, "name": actor.info.name,
            "restarts": actor.life.restarts, "pid": os.getpid(), "node_id": LOCAL_NODE,
            "run_id": LOCAL_NODE, "seq": self._events, "time": time.time()}
        if cause is not None:
            event |= {"reason": cause.reason, "signal": cause.signal, "exit_code": cause.exit_code}
        self.publish(event)

    def attend(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        return lambda: None  # there are no messages

    def context(self) -> Mapping[str, Any]:
        frame = self._runs.stack.frames[-1] if self._runs.stack.frames else None
        info = frame.actor.info if frame and frame.actor else None
        return {"actor_id": info.actor if info else None, "actor_name": info.name if info else None, "node_id": LOCAL_NODE,
                "task_id": frame.task_id if frame else None, "attempt": frame.attempt if frame else 0,
                "namespace": self.namespace, "is_driver": frame is None, "handle_info": info}
