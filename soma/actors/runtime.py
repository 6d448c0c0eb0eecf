"""`Runtime`: one process's part in a cluster of processes; implements the `Engine` verbs for drivers and actors alike.

It owns the process's sockets, arena and threads, in this order: wire, arena, outlet, mailbox, side mailbox, side thread. `close`
goes back the same way. What the parts do is theirs: `sharing` (values and refs), `caller` (calls), `pool` (tasks).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soma.actors import forks
from soma.actors.caller import Caller
from soma.actors.context import Identity, LeaveActor
from soma.actors.creation import create
from soma.actors.engine import ActorSpec, HandleInfo
from soma.actors.grouping import Grouping
from soma.actors.inbox import Inbox
from soma.actors.inquiry import Inquiry
from soma.actors.interrupts import Interrupts
from soma.actors.methods import MethodSpec
from soma.actors.objects import Entry, Status
from soma.actors.options import Options
from soma.actors.placing import check_feasible, check_tags, is_bound, placing
from soma.actors.pool import TaskPool
from soma.actors.refs import ObjectRef, ObjectRefGenerator
from soma.actors.requests import Requests
from soma.actors.retrieval import Retrieval
from soma.actors.sharing import Port, Sharing, side
from soma.actors.side import SideThread
from soma.actors.travel import actor_of, handle_object
from soma.actors.waiting import Waiting
from soma.errors import ClusterLostError, DeathCause, NotInitializedError, ProtocolError
from soma.ids import DAEMON, ActorId, CallId, CallIds, ObjectId, object_id
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.codec import decode, encode
from soma.transport.endpoint import Wire
from soma.transport.frames import pack, read
from soma.transport.values import parcel


class Runtime(Inquiry, Grouping):
    """One process of a cluster."""

    def __init__(self, wire: Wire, identity: Identity, arena: Arena, tags: Sequence[str] = (), *, elastic: bool = False) -> None:
        self.identity = identity = replace(identity, peer=wire.claim(identity.peer))
        self.elastic = elastic
        """Machines come and go: what there is has to be asked."""
        self.linger = 1.0 if identity.role == "actor" else 0.0
        """Seconds for the last words: an actor's answers; the cluster of a driver that owns it is gone."""
        self._placeable: set[str] = set()
        self._tags = tuple(tags)
        """What this machine is marked with."""
        self.namespace = identity.namespace
        self.directory: Path | None = arena.directory
        self._wire = wire
        self.port = Port(identity.peer, wire.outlet(identity.peer), arena, threading.RLock())
        self.mailbox = wire.mailbox(identity.peer)
        self.inbox = self.port.inbox = Inbox(self.mailbox, self._on_message, self._needs_reader, self._has_listeners)
        self.sharing = Sharing(self.port, self)
        self.caller = Caller(self.port, self.sharing, self)
        self.requests = Requests(self.port)
        self.request = self.requests.request
        self.pool = TaskPool(self.port, self.sharing, self.caller, self.requests.ask)
        self.caller.settled_hook, self.caller.lost_hook = self.pool.on_settled, self.pool.on_lost
        self.sharing.busy = self._has_calls
        self.waiting = Waiting(self.port)
        self.retrieval = Retrieval(self.port, self.sharing, self.waiting, lambda call_id: self._cancel_call(call_id, force=False))
        self._next_put = CallIds()
        self._closed = False
        self.refused = 0
        """Messages that broke the wire format."""
        self.handlers: dict[type, Callable[[Any, list[bytes]], None]] = {
            m.Reply: self.caller.on_reply, m.ActorUpdate: self.caller.on_update, m.ObjectValue: self.sharing.on_object_value,
            m.Answer: self.requests.on_answer, m.Deadlock: self.waiting.on_deadlock, m.Said: self.on_said,
        }
        self.side = SideThread(wire.mailbox(side(identity.peer)), self)
        self.port.wake_side = self.side.wake
        self.interrupts = Interrupts(self.side.wake, (Inbox.wait_until, Inbox._read_until, Inbox._stand_down, Inbox.drain, Inbox.read_now,
                                                      Caller.launch, type(self.port.outlet).send, type(self.port.outlet).connect))
        self.port.outlet.send(DAEMON, [pack(m.Hello(identity.peer, self.side.pid, identity.role))])
        self.side.start()
        forks.watch(self.forked)

    def forked(self) -> None:
        """This is a child that the user's code forked: its parent's cluster is not its own, and nothing here may touch it."""
        self._closed = True
        self.requests.lost = forks.refusal()
        self.port.outlet = forks.NoOutlet(self.requests.lost)

    # -- messages ------------------------------------------------------------------------------------------------------------

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            msg = read(frames, self.handlers, "this mailbox")
            self.handlers[type(msg)](msg, frames[2:])
        except ProtocolError as e:
            self.refuse(frames[0], e)

    def refuse(self, sender: bytes, why: ProtocolError) -> None:
        """A message that breaks the format: counted, and said once per sender."""
        self.refused += 1
        self.side.complain(sender, why)

    def _needs_reader(self) -> bool:
        return self._has_listeners() or (not self._closed and (self.caller.backlog or self.pool.backlog))

    def _has_listeners(self) -> bool:
        """Somebody wants to hear of a message without waiting for it."""
        return not self._closed and (self.sharing.table.watched > 0 or self.requests.open or self.caller.streams.awaited
                                     or bool(self.inbox.late))

    @property
    def lost(self) -> BaseException | None:
        """Set when the daemon is gone."""
        return self.requests.lost

    def check(self) -> None:
        if self.lost is not None:
            raise self.lost
        if self._closed:
            raise NotInitializedError("this cluster was shut down")

    # -- actors ----------------------------------------------------------------------------------------------------------------

    def create_actor(self, spec: ActorSpec) -> HandleInfo:
        self.check()
        self.sharing.collect()
        return create(self, spec)

    def check_placing(self, who: str, options: Options, needs: Mapping[str, Any]) -> None:
        """PlacementError at once if no machine could ever do this."""
        bound = is_bound(needs)
        if not self.elastic and not bound:
            check_tags(who, options.tags, self._tags)
            check_feasible(who, needs, self.identity.totals)
        elif (known := repr(sorted(needs.items()))) not in self._placeable:
            self.request(lambda r: m.CheckPlacing(r, self.port.me, who, dict(needs)))
            if not bound:  # else it may be possible now and not later
                self._placeable.add(known)

    def submit(self, target: HandleInfo, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Any:
        if self.lost is not None or self._closed:
            self.check()
        if self.sharing.dropped:
            self.sharing.collect()
        return self.caller.submit(target, method, args, kwargs, options)

    def submit_task(self, fn: Callable[..., Any], spec: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Any:
        self.check()
        self.sharing.collect()
        if options.runtime_env and not options.runtime_env.keys() <= {"env_vars"}:
            raise ValueError(f"task {spec.name}: a task takes only env_vars of runtime_env; an actor takes pip and working_dir as well")
        needs = placing(options, 1.0, spec.name)
        self.check_placing(f"task {spec.name}", options, needs)
        return self.pool.submit(fn, spec, args, kwargs, options, needs)

    def kill(self, actor: ActorId, no_restart: bool) -> None:
        self.check()
        self.port.outlet.send(DAEMON, [pack(m.Kill(actor, no_restart, "killed", False))])

    def find_actor(self, name: str, namespace: str | None) -> HandleInfo:
        self.check()
        answer = self.request(lambda r: m.FindActor(r, self.port.me, name, namespace or self.namespace))
        info = decode(answer.fields["body"], ())
        assert isinstance(info, HandleInfo)
        with self.port.lock:
            entry = self.sharing.table.add(handle_object(info.actor), info.creator, "")
            if info.creator != self.port.me:
                entry.registered += 1
                self.port.outlet.send(side(info.creator), [pack(m.Hold(entry.id, self.port.me, +1))])
        return info

    def hold(self, info: HandleInfo) -> None:
        with self.port.lock:
            self.sharing.table.add(handle_object(info.actor), info.creator, "").local += 1

    def drop(self, info: HandleInfo) -> None:
        if not self._closed:
            self.sharing.drop_ref(handle_object(info.actor))
            self.side.wake()

    def _has_calls(self, entry: Entry) -> bool:
        """A borrowed handle with unsettled calls is let go only when they are settled."""
        actor = actor_of(entry.id)
        return actor is not None and self.caller.when_idle(actor, lambda: self.sharing.table.free_if_unused(entry))

    def exit_actor(self) -> None:
        if self.identity.actor is None:
            raise RuntimeError("exit_actor() outside an actor: use soma.kill(handle) or soma.shutdown()")
        raise LeaveActor

    # -- values ----------------------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef[Any]:
        self.check()
        self.sharing.collect()
        kept = parcel(encode(value), self.port.arena)
        with self.port.lock:
            id = object_id(self._next_put())
            ref = self.sharing.new_ref(id, "")
            entry = self.sharing.table.add(id, self.port.me, "")
            self.sharing.table.settle(entry, Status.VALUE, kept)
        return ref

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        if self.sharing.dropped:
            self.sharing.collect()
        return self.retrieval.get(refs, timeout)

    def wait(self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, /) -> set[int]:
        self.sharing.collect()
        return self.retrieval.wait(refs, num_returns, timeout)

    def on_done(self, ref: ObjectRef[Any], fn: Callable[[], None]) -> None:
        if self._closed:
            self.check()
        self.retrieval.on_done(ref, fn)

    def rebuild_ref(self, id: ObjectId, owner: str, producer: str) -> ObjectRef[Any]:
        return self.sharing.rebuild_ref(id, owner, producer)

    def drop_ref(self, ref_id: ObjectId, owner: str) -> None:
        if not self._closed:
            self.sharing.drop_ref(ref_id)

    def cancel(self, ref: Any, force: bool) -> None:
        self.check()
        if getattr(ref, "owner", self.port.me) != self.port.me:
            raise ValueError("soma.cancel: only the process that made a call can cancel it")
        self._cancel_call(CallId(ref.id[:16]), force)

    def _cancel_call(self, call_id: CallId, force: bool) -> None:
        if self.pool.cancel(call_id):
            return
        with self.port.lock:  # so that its answer, if it comes now, does not make a task's worker free for another task
            link = self.caller.cancel(call_id, force)
            if link is not None and force:
                self.pool.give_up(link.actor)
        if link is not None and force:
            self.port.outlet.send(DAEMON, [pack(m.Kill(link.actor, False, "cancelled", False))])

    def stream_next(self, stream: ObjectRefGenerator[Any], timeout: float | None) -> ObjectRef[Any]:
        return self.caller.streams.next(stream, timeout, lambda: self.lost)

    def on_stream(self, stream: ObjectRefGenerator[Any], fn: Callable[[], None]) -> None:
        self.caller.streams.on_item(stream, fn)

    def drop_stream(self, stream_id: ObjectId) -> None:
        if not self._closed:
            self.caller.streams.drop(stream_id)
            self.side.wake()

    def collect(self) -> None:
        """What finalizers and signal handlers left to do; the side thread calls it."""
        self.interrupts.again()
        self.caller.streams.collect()
        self.sharing.collect()
        self.port.arena.sweep()

    # -- the end -------------------------------------------------------------------------------------------------------------

    def cluster_lost(self, error: BaseException) -> None:
        """The daemon is gone: everything that waits hears of it."""
        if self._closed or self.lost is not None:
            return
        self.requests.lost = error
        self.settle_everything(error)

    def settle_everything(self, error: BaseException) -> None:
        cause = DeathCause("shutdown", detail=str(error))
        self.pool.fail_everything(error)
        self.caller.fail_everything(cause, error)
        for entry in self.sharing.table.values():
            if entry.status is Status.PENDING and entry.on_free is None:
                self.sharing.settle(entry, Status.FAILED, error=error)
        self.inbox.wake()

    def shutdown(self) -> None:
        """Let this process leave the cluster. A driver's launcher ends the daemon as well (see `daemon.launch`)."""
        if self._closed:
            return
        with self.port.lock:
            if self._closed:
                return
            self._closed = True
        over = self.lost or ClusterLostError("soma.shutdown() was called")
        self.settle_everything(over)
        with self.port.lock:
            self.sharing.table.drop_values(over)
        self.side.close()
        self.inbox.close()
        self.mailbox.close()
        self.port.outlet.close(self.linger)
        self._wire.close()
        self.port.arena.close()
