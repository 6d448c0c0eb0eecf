"""What a process asks of its cluster and tells it: resources, status, events, words to the caller. A part of `Runtime`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from soma.actors.attending import attend
from soma.actors.context import CALL, Identity
from soma.errors import ProtocolError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.frames import pack

if TYPE_CHECKING:
    from soma.actors.caller import Caller
    from soma.actors.inbox import Inbox
    from soma.actors.requests import Requests
    from soma.actors.sharing import Port
    from soma.actors.side import SideThread
    from soma.transport.endpoint import Mailbox

log = logging.getLogger("soma")


class Inquiry:
    """The verbs of an engine that concern the cluster as a whole."""

    identity: Identity
    elastic: bool
    namespace: str
    port: Port
    inbox: Inbox
    mailbox: Mailbox
    requests: Requests
    caller: Caller
    side: SideThread

    def check(self) -> None:
        """Raise if this process is not part of a cluster any more."""
        raise NotImplementedError

    def resources(self, *, available: bool) -> dict[str, float]:
        self.check()
        if not available and not self.elastic:
            return dict(self.identity.totals)
        if not available:
            totals: dict[str, float] = {}
            for machine in self.machines():
                totals = {name: totals.get(name, 0.0) + machine["totals"].get(name, 0.0) for name in {*totals, *machine["totals"]}}
            return totals
        return {str(k): float(v) for k, v in self.requests.request(lambda r: m.Ask(r, self.port.me, "available")).fields.items()}

    def machines(self) -> list[dict[str, Any]]:
        self.check()
        found: list[dict[str, Any]] = json.loads(self.requests.request(lambda r: m.Ask(r, self.port.me, "machines")).fields["body"])
        return found

    def status(self) -> dict[str, Any]:
        self.check()
        answer = self.requests.request(lambda r: m.Ask(r, self.port.me, "status"))
        return {**json.loads(answer.fields["body"]), "driver": self.side.holdings()}

    def on_event(self, fn: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self.check()
        self.side.listeners.append(fn)
        if len(self.side.listeners) == 1:
            self.requests.request(lambda r: m.Ask(r, self.port.me, "events"))
        return lambda: self.side.listeners.remove(fn) if fn in self.side.listeners else None

    def publish(self, fields: dict[str, Any]) -> None:
        self.check()
        self.port.outlet.send(DAEMON, [_packed(m.Event(fields), fields)])

    def tell(self, fields: dict[str, Any]) -> None:
        self.check()
        call = CALL.get()
        if call is None:
            raise RuntimeError("soma.tell() outside an actor's call: there is no caller to hear it")
        self.port.outlet.send(call.caller, [_packed(m.Said(call.call_id, fields), fields)])

    def on_said(self, msg: m.Said, frames: list[bytes]) -> None:
        """One of our calls, still running, tells something. Nobody listens, or the call is settled already: nothing happens."""
        listener = self.caller.listener(msg.call_id)
        if listener is None:
            return
        try:
            listener(msg.fields)
        except Exception:
            log.exception("the listener of a call raised; the call goes on")

    def attend(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        self.check()
        return attend(self.inbox, self.mailbox.fileno(), loop)

    def context(self) -> Mapping[str, Any]:
        call, me, actor = CALL.get(), self.identity, self.identity.actor
        return {"actor_id": actor.actor if actor else None, "actor_name": actor.name if actor else None, "node_id": me.node,
                "task_id": call.call_id.hex() if call else None, "attempt": call.attempt if call else 0,
                "namespace": self.namespace, "is_driver": me.role == "driver", "handle_info": actor}


def _packed(message: Any, fields: Any) -> bytes:
    try:
        return pack(message)
    except (TypeError, ValueError, OverflowError) as e:
        raise TypeError(f"only plain data can be told (numbers, text, bytes, and tuples and dicts of them): {e}: {fields!r:.200}") from None
    except ProtocolError as e:
        raise ValueError(f"too much to be told at once; put() it and tell its name: {e}") from None
