"""Calls that this process makes: the thin shell around `calls.Link`. Sends what links say, settles what replies bring."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from soma.actors.calls import UNTOLD, Link, Lost, Pending, fingerprint
from soma.actors.consuming import Consumer
from soma.actors.engine import HandleInfo
from soma.actors.failures import Failure, rebuild
from soma.actors.lifecycle import Phase
from soma.actors.methods import MethodSpec
from soma.actors.objects import Status
from soma.actors.options import Options
from soma.actors.refs import ObjectRef, RefHome
from soma.actors.sharing import Port, Sharing, side
from soma.config import LIMITS
from soma.errors import ActorDiedError, ActorInitError, DeathCause, Executed, PendingCallsLimitExceeded, SomaError, TaskCancelledError
from soma.ids import DAEMON, ActorId, CallId, CallIds, object_id
from soma.transport import messages as m
from soma.transport.codec import encode_call
from soma.transport.frames import pack
from soma.transport.values import from_frames, open_parcel, parcel, to_frames


class Caller:
    """Links to actors and calls in flight."""

    def __init__(self, port: Port, sharing: Sharing, home: RefHome) -> None:
        self._port = port
        self._sharing = sharing
        self._next_id = CallIds()
        self._links: dict[ActorId, Link] = {}
        self._labels: dict[ActorId, str] = {}
        self._calls: dict[CallId, Link] = {}
        self.streams = Consumer(port, sharing, home, self._peer_of, self.cancel)
        self.settled_hook: Callable[[Pending, Link], None] = lambda call, link: None
        """Told of each settled task (the task pool listens)."""
        self.lost_hook: Callable[[Pending, Link, Executed], bool] = lambda call, link, executed: False
        """Asked about each call that a death failed: True if it will be run elsewhere."""

    # -- making calls ------------------------------------------------------------------------------------------------------

    def link(self, actor: ActorId, info: HandleInfo | None) -> Link:
        """The link to an actor; the first use subscribes to its life. Task workers have no handle."""
        link = self._links.get(actor)
        if link is None:
            link = self._links[actor] = Link(actor, LIMITS.window)
            self._labels[actor] = label_of(info) if info is not None else "task worker"
            self._port.outlet.send(DAEMON, [pack(m.Watch(actor, self._port.me))])
        return link

    @property
    def backlog(self) -> bool:
        """Calls wait here for room: somebody must read replies. Asked by the pump while other threads make links."""
        return any(link.waiting for link in list(self._links.values()))

    def submit(self, info: HandleInfo, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Any:
        returns = options.num_returns
        call = self.prepare(method.name, args, kwargs, returns, options.max_task_retries, options)
        with self._port.lock:
            link = self.link(info.actor, info)
            if 0 <= options.max_pending_calls <= link.unsettled:
                raise PendingCallsLimitExceeded(f"{label_of(info)} has {link.unsettled} unanswered calls of this process; "
                                                f"max_pending_calls={options.max_pending_calls}")
            refs = [self._sharing.new_ref(id, info.actor, call.deadline) for id in call.returns]
            stream = self.streams.open(call, info.actor) if call.streams else None
            self.launch(link, call)
        if stream is not None:
            return stream
        return refs[0] if returns == 1 else refs or None

    def prepare(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], returns: Any, retries: int, options: Options) -> Pending:
        """Encode a call; what cannot be pickled raises here, before anything is sent."""
        if ObjectRef in map(type, args):
            args = tuple(self._sharing.inlined(a) if type(a) is ObjectRef else a for a in args)
        packed = encode_call(args, kwargs)
        call_id = self._next_id()
        streams = returns == "streaming"
        return Pending(
            call_id, name, parcel(packed, self._port.arena),
            () if streams else (object_id(call_id),) if returns == 1 else tuple(object_id(call_id, i) for i in range(returns)),
            streams, retries, options.retry_exceptions,
            None if options.timeout is None else time.monotonic() + options.timeout, listener=options.listener)

    def listener(self, call_id: bytes) -> Callable[[dict[str, Any]], None] | None:
        """Who hears what a call of ours tells; None if nobody does, or it is settled."""
        with self._port.lock:
            link = self._calls.get(CallId(call_id))
            call = link.sent.get(CallId(call_id)) if link is not None else None
            return None if call is None else call.listener

    def _peer_of(self, call_id: CallId) -> str | None:
        link = self._calls.get(call_id)
        return None if link is None else link.peer

    def launch(self, link: Link, call: Pending) -> None:
        """Send a prepared call, or queue it; the lock is held."""
        if link.dead:
            self._fail(call, link, "no")
            return
        self._calls[call.call_id] = link
        if link.submit(call):
            self._send(link, call)
        elif link.ready and len(link.waiting) % 64 == 1:
            self._port.inbox.drain()  # make room by reading replies
            if link.waiting:
                self._port.inbox.poke_pump(urgent=False)
        elif len(link.waiting) == 1:
            self._port.inbox.poke_pump(urgent=False)

    def _send(self, link: Link, call: Pending) -> None:
        port, peer = self._port, link.peer
        if self._sharing.is_dead(peer):
            return  # the news that settles or repeats this call is on its way
        deadline = None if call.deadline is None else max(0, int((call.deadline - time.monotonic()) * 1000))
        try:
            frames = to_frames(call.parcel, port.arena, peer, port.outlet.near(peer))
        except SomaError as error:  # no more leases, or too much for another machine
            link.settle(call.call_id)
            self.settle_all(call, error)
            self._done(link, call)
            return
        notes = self._sharing.register(call.parcel.notes, peer) if call.parcel.notes else ()
        header = m.Call(call.call_id, port.me, call.method, -1 if call.streams else len(call.returns), call.attempt, deadline, notes)
        port.outlet.send(peer, [pack(header), *frames])

    def _flow(self, link: Link) -> None:
        for call in link.flow():
            self._send(link, call)

    # -- what comes back -----------------------------------------------------------------------------------------------------

    def on_reply(self, msg: m.Reply, frames: list[bytes]) -> None:
        call_id = CallId(msg.call_id)
        with self._port.lock:
            link = self._calls.get(call_id)
            call = link.sent.get(call_id) if link is not None else None
            if link is None or call is None:
                self._sharing.let_go(self._sharing.adopt(msg.refs))
                return
            if msg.status == m.ERROR and self._repeats(call, frames):
                link.settle(call_id)
                link.repeat(call)
                self._flow(link)
                return
            if call.streams:
                self.streams.on_reply(call, msg, frames)
            elif msg.status == m.CANCELLED:
                self.settle_all(call, TaskCancelledError(f"{call.label or call.method} was cancelled"))
            elif msg.index < len(call.returns):
                ids = call.returns if msg.status == m.ERROR else call.returns[msg.index:msg.index + 1]
                for id in ids:
                    entry = self._sharing.table.get(id)
                    if entry is not None:
                        self._sharing.arrived(entry, msg.status, frames, msg.refs)
                call.answered += 1
            if msg.last:
                link.settle(call_id)
                self._done(link, call)
                self._flow(link)

    def _done(self, link: Link, call: Pending) -> None:
        self._calls.pop(call.call_id, None)
        if call.label:
            self.settled_hook(call, link)
        if link.when_idle is not None:
            self._idle(link)

    def _idle(self, link: Link) -> None:
        if link.when_idle is not None and link.unsettled == 0:
            then, link.when_idle = link.when_idle, None
            then()

    def when_idle(self, actor: ActorId, then: Callable[[], None]) -> bool:
        """Call `then` when the last unsettled call to an actor is settled; False if there is none."""
        link = self._links.get(actor)
        if link is None or link.unsettled == 0:
            return False
        link.when_idle = then
        return True

    def _repeats(self, call: Pending, frames: list[bytes]) -> bool:
        if not call.retry_exceptions or call.retries == 0 or call.answered:
            return False
        if isinstance(call.retry_exceptions, bool):
            return True
        failure = open_parcel(from_frames(frames, self._port.arena))
        return isinstance(failure, Failure) and isinstance(rebuild(failure), call.retry_exceptions)

    def settle_all(self, call: Pending, error: BaseException) -> None:
        for id in call.returns:
            entry = self._sharing.table.get(id)
            if entry is not None:
                self._sharing.settle(entry, Status.FAILED, error=error)
        if call.streams:
            self.streams.fail(call, error)

    def _fail(self, call: Pending, link: Link, executed: Executed) -> None:
        self._calls.pop(call.call_id, None)
        if self.lost_hook(call, link, executed):
            return
        cause = link.cause or DeathCause("unknown")
        if call.force_cancelled:
            self.settle_all(call, TaskCancelledError(f"{call.method} was cancelled, and its process ended for that"))
            return
        kind = ActorInitError if cause.reason == "init" or cause.in_constructor else ActorDiedError
        error = kind(self._labels.get(link.actor, link.actor), cause, executed, link.history)
        if link.init_error is not None:
            error.__cause__ = rebuild(link.init_error)
        self.settle_all(call, error)

    def on_update(self, msg: m.ActorUpdate, frames: list[bytes]) -> None:
        """News of an actor's life. Deaths wait until every reply that came before them was read, and all news after them too."""
        link = self._links.get(ActorId(msg.actor))
        if link is None:
            return
        if msg.state == Phase.READY.value:
            if self._port.inbox.late:
                self._port.inbox.late.append(lambda: self._on_ready(link, msg))
            else:
                self._on_ready(link, msg)
        elif msg.state in (Phase.RESTARTING.value, Phase.DEAD.value):
            self._port.inbox.late.append(lambda: self._on_death(link, msg, frames))

    def _on_ready(self, link: Link, msg: m.ActorUpdate) -> None:
        with self._port.lock:
            link.started(msg.incarnation, msg.peer)
            self._flow(link)

    def _on_death(self, link: Link, msg: m.ActorUpdate, frames: list[bytes]) -> None:
        ring = frames[0] if frames else b""
        begun = frozenset(ring[i:i + 8] for i in range(0, len(ring), 8)) - {bytes(8)}
        with self._port.lock:
            if ring == UNTOLD:
                begun = frozenset(map(fingerprint, link.sent))
            if msg.state == Phase.RESTARTING.value:
                link.cause = DeathCause(*msg.cause)
                lost: Lost = link.lost(msg.incarnation, begun)
            else:
                if len(frames) >= 2:
                    link.init_error = self._init_error(frames[1:])
                lost = link.died(begun, DeathCause(*msg.cause), tuple(DeathCause(*c) for c in msg.history))
            for call, executed in lost.failed:
                self._fail(call, link, executed)
            self._idle(link)

    def _init_error(self, frames: list[bytes]) -> Failure | None:
        try:
            failure = open_parcel(from_frames(frames, self._port.arena))
        except SomaError:
            return None  # `cause.detail` has its text
        return failure if isinstance(failure, Failure) else None

    def fail_everything(self, cause: DeathCause, error: BaseException | None = None) -> None:
        """The cluster ends: settle all calls."""
        with self._port.lock:
            for link in self._links.values():
                for call, executed in link.died(frozenset(), cause, ()).failed:
                    if error is None:
                        self._fail(call, link, executed)
                    else:
                        self._calls.pop(call.call_id, None)
                        self.settle_all(call, error)

    def forget(self, actor: ActorId) -> None:
        """Nobody here has a handle any more."""
        with self._port.lock:
            link = self._links.get(actor)
            if link is not None and link.unsettled == 0:
                del self._links[actor]
                self._labels.pop(actor, None)

    # -- cancelling ------------------------------------------------------------------------------------------------------------

    def cancel(self, call_id: CallId, force: bool = False) -> Link | None:
        """Drop a call that waits here, or ask its actor to interrupt it; the link if it was sent. `force`: its process will be ended."""
        with self._port.lock:
            link = self._calls.get(call_id)
            if link is None:
                return None
            waiting = link.drop(call_id)
            if waiting is not None:
                self.settle_all(waiting, TaskCancelledError(f"{waiting.label or waiting.method} was cancelled before it was sent"))
                self._done(link, waiting)
                return None
            call = link.sent.get(call_id)
            if call is None:  # its actor died, and its callers are being told right now, the one who asks among them
                return None
            call.force_cancelled = force
            self._port.outlet.send(side(link.peer), [pack(m.Cancel(call_id))])
            return link


def label_of(info: HandleInfo) -> str:
    """How messages name an actor: its class, its name if it has one, the start of its id."""
    return f"actor {info.class_name}" + (f" {info.name!r}" if info.name else "") + f" ({info.actor[:8]})"
