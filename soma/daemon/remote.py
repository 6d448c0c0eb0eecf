"""A machine elsewhere, as the head sees it: orders leave through the fleet, and what is known of it came with its last words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from soma.daemon.orders import Box, LogPiece, Order
from soma.ids import ActorId, CallIds
from soma.transport import messages as m


class Orders(Protocol):
    """How orders get to a machine."""

    def launch(self, machine: RemoteMachine, order: Order) -> None: ...
    def end(self, machine: RemoteMachine, key: str) -> None: ...
    def send(self, peer: str, message: Any) -> None: ...


class RemoteMachine:
    """One incarnation of a node."""

    def __init__(self, orders: Orders, msg: m.Register) -> None:
        self.node, self.incarnation, self.peer = msg.node_id, msg.incarnation, msg.peer
        about = dict(msg.capabilities)
        self._about = dict(about.pop("about", {}))
        most = self._about.pop("max_concurrent", None)
        self.max_concurrent = most if type(most) is int and most >= 1 else None
        self.capabilities: dict[str, Any] = about
        self.totals = {name: float(n) for name, n in msg.totals.items()}
        self.tags = tuple(map(str, about.get("tags", ())))
        self.labels = {name: str(value) for name, value in msg.labels.items()}
        self.load: Mapping[str, Any] = {}
        self._orders = orders
        self._ids = CallIds()
        self._looks: dict[bytes, Callable[[Box | None], None]] = {}
        self._reads: dict[bytes, Callable[[LogPiece | None], None]] = {}

    def launch(self, order: Order) -> None:
        self._orders.launch(self, order)

    def kill(self, peer: str) -> None:
        self._orders.end(self, peer)

    def forget(self, actor: ActorId) -> None:
        self._orders.send(self.peer, m.ForgetActor(actor))

    def look(self, peer: str, then: Callable[[Box | None], None]) -> None:
        request = bytes(self._ids())
        self._looks[request] = then
        self._orders.send(self.peer, m.Look(request, peer))

    def on_looked(self, msg: m.Looked) -> None:
        then = self._looks.pop(msg.request, None)
        if then is not None:
            then((msg.begun, msg.running) if msg.there else None)

    def read_log(self, peer: str, offset: int, then: Callable[[LogPiece | None], None]) -> None:
        request = bytes(self._ids())
        self._reads[request] = then
        self._orders.send(self.peer, m.ReadLog(request, peer, offset))

    def on_log(self, msg: m.LogPart, frames: list[bytes]) -> None:
        then = self._reads.pop(msg.request, None)
        if then is not None:
            then((frames[0], msg.end) if msg.there and frames else None)

    def lost(self) -> None:
        """It answers nothing any more."""
        looks, self._looks = self._looks, {}
        for then in looks.values():
            then(None)
        reads, self._reads = self._reads, {}
        for done in reads.values():
            done(None)

    def rss(self, peer: str) -> int:
        found = self.load.get("rss", {})
        return int(found.get(peer, 0)) if isinstance(found, Mapping) else 0

    def flush(self) -> None:
        return  # its lines are on their way already

    def facts(self) -> dict[str, Any]:
        return {"capabilities": self.capabilities, "load": {k: v for k, v in self.load.items() if k != "rss"}}

    def about(self) -> dict[str, Any]:
        return self._about


def told_order(order: Order) -> dict[str, Any]:
    """As plain data for a message."""
    return {f.name: _plain(getattr(order, f.name)) for f in dataclasses.fields(order)}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
