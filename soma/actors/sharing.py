"""Refs of this process: making, counting, fetching and answering for them. The thin shell around `objects.ObjectTable`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from soma.actors.failures import Failure, rebuild
from soma.actors.inbox import Inbox
from soma.actors.objects import Entry, ObjectTable, Status
from soma.actors.refs import ObjectRef, RefHome
from soma.actors.travel import Inlined, Note, may_inline, note_of
from soma.errors import ActorDiedError, ActorInitError, ObjectLostError, SomaError
from soma.ids import ObjectId
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.endpoint import Outlet
from soma.transport.frames import pack
from soma.transport.values import Parcel, from_frames, open_parcel, to_frames


@dataclass(slots=True)
class Port:
    """What every part of a process's runtime shares. `lock` guards all tables; the outlet has its own."""

    me: str
    outlet: Outlet
    arena: Arena
    lock: threading.RLock
    inbox: Inbox = None  # type: ignore[assignment]
    wake_side: Callable[[], None] = lambda: None


def side(peer: str) -> str:
    """The name of a peer's side mailbox."""
    return peer + ".s"


class Sharing:
    """The values that this process owns or borrows."""

    def __init__(self, port: Port, home: RefHome) -> None:
        self._port = port
        self.home = home
        self.table = ObjectTable(port.me, self._tell_owner)
        self.dropped: deque[ObjectId] = deque()
        self._dead_peers: set[str] = set()
        self.busy: Callable[[Entry], bool] = lambda entry: False
        """Asked before a borrowed value is let go: a handle with unsettled calls says yes, and asks again later."""

    # -- refs ----------------------------------------------------------------------------------------------------------

    def new_ref(self, id: ObjectId, producer: str, deadline: float | None = None) -> ObjectRef[Any]:
        """A ref to a value that this process will own."""
        entry = self.table.add(id, self._port.me, producer)
        entry.local += 1
        entry.deadline = deadline
        return ObjectRef(id, self._port.me, producer, self.home)

    def rebuild_ref(self, id: ObjectId, owner: str, producer: str) -> ObjectRef[Any]:
        """A ref that came inside a value."""
        with self._port.lock:
            self.entry(id, owner, producer).local += 1
        return ObjectRef(id, owner, producer, self.home)

    def entry(self, id: ObjectId, owner: str, producer: str) -> Entry:
        known = self.table.get(id)
        if known is None:
            known = self.table.add(id, owner, producer)
            if owner == self._port.me or owner in self._dead_peers:
                self.table.settle(known, Status.FAILED, error=ObjectLostError(
                    f"object {id.hex()} is gone: " + ("it was freed" if owner == self._port.me else f"its owner {owner} died")))
        return known

    def inlined(self, ref: ObjectRef[Any]) -> Any:
        """The ref, or what is pickled as its value: one that lies here already and is small need not be fetched by the receiver."""
        entry = self.table.get(ref.id)
        kept = entry.parcel if entry is not None and entry.status is Status.VALUE else None
        return Inlined(kept) if kept is not None and may_inline(kept) else ref

    def drop_ref(self, id: ObjectId) -> None:
        """A ref object died. Called from finalizers: no lock, no socket."""
        self.dropped.append(id)
        entry = self.table.get(id)
        if entry is not None and (entry.owner != self._port.me or entry.holders or entry.on_free
                                  or (entry.parcel is not None and entry.parcel.block is not None)):
            self._port.wake_side()

    def collect(self) -> None:
        """Act on the refs that died since the last time."""
        if self.dropped:
            with self._port.lock:
                while self.dropped:
                    self.table.drop_local(self.dropped.popleft())

    def _tell_owner(self, entry: Entry) -> bool:
        if self.busy(entry):
            return False
        if entry.registered:
            self._port.outlet.send(side(entry.owner), [pack(m.Hold(entry.id, self._port.me, -entry.registered))])
        return True

    # -- refs inside messages --------------------------------------------------------------------------------------------

    def register(self, things: Iterable[Any], receiver: str) -> tuple[Note, ...]:
        """Count the refs of a message for its receiver, before it is sent; returns them as they travel."""
        notes = tuple(note_of(t) for t in things)
        for id, owner, _ in notes:
            if owner == self._port.me:
                with self._port.lock:
                    entry = self.table.get(ObjectId(id))
                    if entry is not None:
                        self.table.hold(entry, receiver, +1)
            else:
                self._port.outlet.send(side(owner), [pack(m.Hold(id, receiver, +1))])
        return notes

    def adopt(self, notes: tuple[Any, ...]) -> tuple[ObjectId, ...]:
        """Take over the counts of refs that arrived; each also counts as a local ref until `let_go`."""
        with self._port.lock:
            for id, owner, producer in notes:
                entry = self.entry(ObjectId(id), owner, producer)
                entry.local += 1
                if owner == self._port.me:
                    self.table.hold(entry, self._port.me, -1)
                else:
                    entry.registered += 1
        return tuple(ObjectId(n[0]) for n in notes)

    def let_go(self, ids: tuple[ObjectId, ...]) -> None:
        with self._port.lock:
            for id in ids:
                self.table.drop_local(id)

    # -- settling ----------------------------------------------------------------------------------------------------------

    def settle(self, entry: Entry, status: Status, parcel: Parcel | None = None, error: BaseException | None = None,
               contained: tuple[ObjectId, ...] = ()) -> None:
        """The outcome of a value is known: keep it, tell who waits."""
        with self._port.lock:
            callbacks = self.table.settle(entry, status, parcel, error, contained)
        for fn in callbacks:
            fn()
        if entry.local <= 0:
            with self._port.lock:
                self.table.settled_unused(entry)

    def arrived(self, entry: Entry, status: int, frames: list[bytes], notes: tuple[Any, ...]) -> None:
        """A value came by message."""
        contained = self.adopt(notes) if notes else ()
        try:
            parcel = from_frames(frames, self._port.arena, notes)
        except (OSError, SomaError) as e:
            self.let_go(contained)
            self.settle(entry, Status.FAILED, error=ObjectLostError(f"object {entry.id.hex()} could not be opened: {e}"))
            return
        self.settle(entry, Status.VALUE if status == m.OK else Status.ERROR, parcel, contained=contained)

    def on_object_value(self, msg: m.ObjectValue, frames: list[bytes]) -> None:
        entry = self.table.get(ObjectId(msg.object_id))
        if entry is None or entry.status is not Status.PENDING:
            self.let_go(self.adopt(msg.refs))
            return
        self.arrived(entry, msg.status, frames, msg.refs)

    def value(self, entry: Entry) -> Any:
        """The settled value, a private copy; or its exception, raised."""
        parcel = entry.parcel  # once: a shutdown by another thread takes it away
        if entry.status is Status.VALUE and parcel is not None:
            return open_parcel(parcel)
        raise self.exception(entry)

    def exception(self, entry: Entry) -> BaseException:
        """The exception of a settled entry, made anew for each who asks."""
        if entry.status is Status.ERROR:
            assert entry.parcel is not None
            failure = open_parcel(entry.parcel)
            return rebuild(failure) if isinstance(failure, Failure) else SomaError(f"not a failure: {failure!r}")
        assert entry.error is not None
        return fresh(entry.error)

    # -- values of others, values for others --------------------------------------------------------------------------------

    def want(self, entry: Entry) -> None:
        """Ask the owner of a borrowed value for it, once."""
        if entry.owner != self._port.me and not entry.asked and entry.status is Status.PENDING:
            entry.asked = True
            self._port.outlet.send(side(entry.owner), [pack(m.Fetch(entry.id, self._port.me))])

    def on_fetch(self, msg: m.Fetch) -> None:
        with self._port.lock:
            entry = self.table.get(ObjectId(msg.object_id))
            wanted = entry or Entry(ObjectId(msg.object_id), self._port.me, "", Status.FAILED,
                          error=ObjectLostError(f"object {msg.object_id.hex()} is gone: its owner freed it"))
            if self.table.watch(wanted, lambda: self._answer(wanted, msg.peer)):
                self._port.inbox.poke_pump()
                self.want(wanted)
                return
        self._answer(wanted, msg.peer)

    def _answer(self, entry: Entry, peer: str) -> None:
        from soma.actors.failures import describe
        from soma.transport.codec import encode

        def failed(error: BaseException) -> Parcel:
            return Parcel(encode(describe(error, entry.producer or self._port.me)).body)

        parcel, status = entry.parcel, m.OK if entry.status is Status.VALUE else m.ERROR
        if entry.status is Status.FAILED:
            assert entry.error is not None
            parcel = failed(entry.error)
        assert parcel is not None
        with self._port.lock:
            if self.is_dead(peer):
                return
            try:
                frames = to_frames(parcel, self._port.arena, peer, self._port.outlet.near(peer))
            except SomaError as error:  # whoever asked waits for an answer: no more leases, or memory that is gone
                parcel, status = failed(error), m.ERROR
                frames = to_frames(parcel, self._port.arena, peer, self._port.outlet.near(peer))
            notes = self.register(parcel.notes, peer)
        self._port.outlet.send(peer, [pack(m.ObjectValue(entry.id, status, notes)), *frames])

    def is_dead(self, peer: str) -> bool:
        """Whether a peer is known to be dead: what it were given now would never come back. Ask with the lock held."""
        return peer in self._dead_peers

    def on_hold(self, msg: m.Hold) -> None:
        with self._port.lock:
            entry = self.table.get(ObjectId(msg.object_id))
            if entry is not None and msg.holder not in self._dead_peers:
                self.table.hold(entry, msg.holder, msg.delta)

    def on_peer_died(self, peer: str) -> None:
        """A process is gone: what it held, borrowed or owned."""
        with self._port.lock:
            self._dead_peers.add(peer)
            self._port.arena.revoke(peer)
            self.table.forget_holder(peer)
            orphans = [e for e in self.table.values() if e.owner == peer and e.status is Status.PENDING]
        for entry in orphans:
            self.settle(entry, Status.FAILED, error=ObjectLostError(f"object {entry.id.hex()} is gone: its owner {peer} died"))
        self._port.outlet.disconnect(peer)
        self._port.outlet.disconnect(side(peer))
        self._port.inbox.wake()


def fresh(error: BaseException) -> BaseException:
    """A copy to raise: a raised exception collects traceback and context, and several may wait for the same one."""
    if isinstance(error, ActorDiedError):
        kind = ActorInitError if isinstance(error, ActorInitError) else ActorDiedError
        copy: BaseException = kind(error.actor, error.cause, error.executed, error.history)
        copy.__cause__ = error.__cause__
        return copy
    try:
        return type(error)(*error.args)
    except Exception:
        return error
