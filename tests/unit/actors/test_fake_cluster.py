"""A real driver against a daemon and actors that are played, over the in-process wire, with real messages and real shared memory.

Calls, kills, restarts, cancels, dropped refs and messages to the dead in any order: every ref settles with a value or an error that
says why, and every lease returns.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soma.actors import current, travel  # noqa: F401 - teaches the codec refs and handles
from soma.actors.calls import fingerprint
from soma.actors.context import Identity
from soma.actors.failures import describe
from soma.actors.lifecycle import Phase
from soma.actors.runtime import Runtime
from soma.actors.sharing import side
from soma.actors.supervisor import Life
from soma.cluster import cancel as cancel_call
from soma.cluster import get, kill, remote, wait
from soma.config import MIB
from soma.errors import ActorDiedError, DeathCause, GetTimeoutError, SomaError, TaskCancelledError
from soma.ids import DAEMON, ActorId, incarnation_peer
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.codec import encode
from soma.transport.endpoint import Mailbox
from soma.transport.frames import pack, unpack
from soma.transport.inproc import InprocWire
from soma.transport.values import Parcel, from_frames, open_parcel, parcel, to_frames

ME = "d-0011223344556677"
BIG = 300_000
"""Bytes: through shared memory."""


@remote
class Played:
    def echo(self, value: Any) -> Any:
        return value


@dataclasses.dataclass(eq=False)
class Process:
    """One incarnation: what it received and did."""

    peer: str
    box: Mailbox
    side: Mailbox
    arena: Arena
    queue: list[tuple[m.Call, Parcel]] = dataclasses.field(default_factory=list)
    begun: list[bytes] = dataclasses.field(default_factory=list)
    running: tuple[m.Call, Parcel] | None = None
    cancelled: set[bytes] = dataclasses.field(default_factory=set)
    stopping: bool = False


@dataclasses.dataclass(eq=False)
class Resident:
    """The daemon's record."""

    actor: ActorId
    life: Life
    watchers: set[str] = dataclasses.field(default_factory=set)
    process: Process | None = None
    last: m.ActorUpdate | None = None
    begun: bytes = b""


class FakeCluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        gc.disable()  # when a ref in a cycle is dropped must not depend on what ran before
        gc.freeze()  # nor how long `teardown` takes on what other tests keep
        self.directory = Path(tempfile.mkdtemp(prefix="soma-fake-"))
        self.wire = InprocWire()
        self.box, self.out = self.wire.mailbox(DAEMON), self.wire.outlet(DAEMON)
        self.arena = Arena(2 * MIB, self.directory)
        self.runtime = Runtime(self.wire, Identity(ME, "driver", "n0", "test", {"CPU": 4.0}), self.arena)
        current.set_engine(self.runtime)
        self.handles: list[Any] = []
        self.refs: list[tuple[Any, Any]] = []
        """Each with what it must be, if it is a value."""
        self.kept: list[Any] = []
        self.residents: dict[str, Resident] = {}
        self.early: dict[str, set[str]] = {}
        self.graveyard: list[Process] = []
        """What the killed held is not given back by them: only their daemon's word ends their leases."""
        self.now = 0.0
        self.number = 0
        self.ever_begun: set[bytes] = set()

    # -- the driver, for real --------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.handles) < 3)
    @rule(restarts=st.sampled_from([0, 1, 3, -1]), retries=st.sampled_from([0, 1, -1]))
    def create(self, restarts: int, retries: int) -> None:
        self.handles.append(Played.options(max_restarts=restarts, max_task_retries=retries).remote())  # type: ignore[attr-defined]

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), big=st.booleans())
    def call(self, data: st.DataObject, big: bool) -> None:
        self.number += 1
        value: Any = np.full(BIG, self.number % 256, np.uint8) if big else self.number
        self.refs.append((data.draw(st.sampled_from(self.handles)).echo.remote(value), value))

    @precondition(lambda self: self.handles and self.refs)
    @rule(data=st.data())
    def call_with_a_ref_inside(self, data: st.DataObject) -> None:
        inner = data.draw(st.sampled_from(self.refs))[0]
        self.refs.append((data.draw(st.sampled_from(self.handles)).echo.remote([inner]), [inner]))

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        ref, expected = data.draw(st.sampled_from(self.refs))
        self.check(ref, expected, 0)

    @precondition(lambda self: self.refs)
    @rule()
    def wait_a_little(self) -> None:
        refs = list({ref for ref, _ in self.refs})
        ready, rest = wait(refs, num_returns=len(refs), timeout=0)
        assert len(ready) + len(rest) == len(refs)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def drop_a_ref(self, data: st.DataObject) -> None:
        self.refs.remove(data.draw(st.sampled_from(self.refs)))

    @precondition(lambda self: self.kept)
    @rule()
    def drop_a_value(self) -> None:
        self.kept.pop()

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        cancel_call(data.draw(st.sampled_from(self.refs))[0])

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), drop=st.booleans(), restart=st.booleans(), really=st.integers(0, 5))
    def kill_or_drop(self, data: st.DataObject, drop: bool, restart: bool, really: int) -> None:
        if really == 5:
            handle = data.draw(st.sampled_from(self.handles))
            if drop:
                self.handles.remove(handle)
            else:
                kill(handle, no_restart=not restart)

    def check(self, ref: Any, expected: Any, timeout: float) -> None:
        """A value must be the right one, an error must be one of those that can be."""
        try:
            got = get(ref, timeout=timeout)
        except GetTimeoutError:
            assert timeout == 0, "this ref never settles"
        except ValueError as e:
            assert str(e) == "played"
        except ActorDiedError as e:
            if e.executed == "no":
                assert bytes(ref.id[:16]) not in self.ever_begun, "it did run"
        except TaskCancelledError:
            return
        else:
            assert got == expected if not isinstance(expected, np.ndarray) else np.array_equal(got, expected)
            self.kept.append(got)

    # -- the daemon, played ----------------------------------------------------------------------------------------------

    @rule()
    def daemon_reads(self) -> None:
        while (frames := self.box.take_nowait()) is not None:
            msg = unpack(frames[1])
            match msg:
                case m.CreateActor():
                    life = Life(int(msg.options["max_restarts"]), intensity=4)
                    self.residents[msg.actor] = Resident(ActorId(msg.actor), life, self.early.pop(msg.actor, set()))
                case m.Watch():
                    self.watch(msg)
                case m.Kill():
                    self.kill(msg)
                case m.Hello():
                    assert msg.peer == ME
                case other:
                    raise AssertionError(f"not expected here: {other}")

    def watch(self, msg: m.Watch) -> None:
        r = self.residents.get(msg.actor)
        if r is None:
            self.early.setdefault(msg.actor, set()).add(msg.peer)
            return
        r.watchers.add(msg.peer)
        if r.last is not None and r.life.phase in (Phase.READY, Phase.DEAD):
            self.out.send(msg.peer, [pack(r.last), r.begun])

    def kill(self, msg: m.Kill) -> None:
        r = self.residents[msg.actor]
        if r.life.phase is Phase.DEAD:
            return
        if not msg.no_restart:
            if r.process is not None:
                self.end(r, DeathCause("signal", signal="SIGKILL"))
        elif not r.life.stop():
            self.tell(r, DeathCause(msg.reason))
        elif msg.graceful and r.process is not None:
            r.process.stopping = True
        else:
            self.end(r, DeathCause(msg.reason))

    @precondition(lambda self: any(r.life.phase in (Phase.WAITING, Phase.RESTARTING) for r in self.residents.values()))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.start_one(data.draw(st.sampled_from(
            [r for r in self.residents.values() if r.life.phase in (Phase.WAITING, Phase.RESTARTING)])))

    def start_one(self, r: Resident) -> None:
        peer = incarnation_peer(r.actor, r.life.admitted())
        r.process = Process(peer, self.wire.mailbox(peer), self.wire.mailbox(side(peer)), Arena(2 * MIB, self.directory))

    @precondition(lambda self: any(r.life.phase is Phase.STARTING for r in self.residents.values()))
    @rule(data=st.data())
    def constructed(self, data: st.DataObject) -> None:
        self.ready_one(data.draw(st.sampled_from([r for r in self.residents.values() if r.life.phase is Phase.STARTING])))

    def ready_one(self, r: Resident) -> None:
        assert r.life.constructed()
        self.tell(r, None)

    @rule()
    def all_come_up(self) -> None:
        self.daemon_reads()
        for r in self.residents.values():
            if r.life.phase in (Phase.WAITING, Phase.RESTARTING):
                self.start_one(r)
            if r.life.phase is Phase.STARTING:
                self.ready_one(r)

    def tell(self, r: Resident, cause: DeathCause | None) -> None:
        history = tuple(dataclasses.astuple(c) for c in r.life.history)
        told = dataclasses.astuple(cause) if cause else ()
        where = incarnation_peer(r.actor, r.life.incarnation) if r.life.phase is Phase.READY else ""
        r.last = m.ActorUpdate(r.actor, max(0, r.life.incarnation), r.life.phase.value, told, history, where)
        for peer in r.watchers:
            self.out.send(peer, [pack(r.last), *([r.begun] if cause else [])])

    def end(self, r: Resident, cause: DeathCause, *, side_knows: bool = False) -> None:
        """The process is gone: what it had not sent is lost, what it held stays locked."""
        gone, r.process = r.process, None
        assert gone is not None
        gone.box.close()
        gone.side.close()
        gone.arena.close()
        self.graveyard.append(gone)
        self.now += 1.0
        r.begun = b"".join(fingerprint(c) for c in gone.begun)
        if not side_knows:
            self.out.send(side(ME), [pack(m.PeerDied(gone.peer))])
        cause, pause = r.life.died(cause, self.now)
        self.tell(r, cause)

    # -- actors, played --------------------------------------------------------------------------------------------------

    def alive(self) -> list[Resident]:
        return [r for r in self.residents.values() if r.process is not None and r.life.phase is not Phase.STARTING]

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        self.receive_all(data.draw(st.sampled_from(self.alive())).process)

    def receive_all(self, p: Process | None) -> None:
        assert p is not None
        while (frames := p.side.take_nowait()) is not None:
            if isinstance(msg := unpack(frames[1]), m.Cancel):
                p.cancelled.add(msg.call_id)
        while (frames := p.box.take_nowait()) is not None:
            msg = unpack(frames[1])
            assert isinstance(msg, m.Call)
            for id, owner, _ in msg.refs:  # a borrower that looks and lets go at once
                self.out.send(side(owner), [pack(m.Hold(id, p.peer, -1))])
            try:
                p.queue.append((msg, from_frames(frames[2:], p.arena, msg.refs)))
            except SomaError as e:
                self.reply(p, msg, m.ERROR, parcel(encode(describe(e, "played")), None))

    @precondition(lambda self: any(r.process and r.process.queue and not r.process.running for r in self.alive()))
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.begin_one(data.draw(st.sampled_from(
            [r for r in self.alive() if r.process and r.process.queue and not r.process.running])).process)

    def begin_one(self, p: Process | None) -> None:
        assert p is not None
        p.running = p.queue.pop(0)
        p.begun.append(p.running[0].call_id)
        self.ever_begun.add(p.running[0].call_id)

    @precondition(lambda self: any(r.process and r.process.running for r in self.alive()))
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        self.finish_one(data.draw(st.sampled_from([r for r in self.alive() if r.process and r.process.running])).process, ok)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), leave=st.integers(0, 2))
    def work(self, data: st.DataObject, leave: int) -> None:
        """Everything that is queued, but for the last few."""
        p = data.draw(st.sampled_from(self.alive())).process
        self.receive_all(p)
        assert p is not None
        while len(p.queue) > leave:
            if p.running:
                self.finish_one(p, True)
            self.begin_one(p)

    def finish_one(self, p: Process | None, ok: bool) -> None:
        assert p is not None and p.running is not None
        (call, given), p.running = p.running, None
        if call.call_id in p.cancelled:
            self.reply(p, call, m.CANCELLED, Parcel(b""))
        elif not ok:
            self.reply(p, call, m.ERROR, parcel(encode(describe(ValueError("played"), "here")), None))
        elif call.refs:
            self.reply(p, call, m.ERROR, parcel(encode(describe(ValueError("played"), "refs are not sent back here")), None))
        else:
            self.reply(p, call, m.OK, parcel(encode(open_parcel(given)[0][0]), p.arena))

    def reply(self, p: Process, call: m.Call, status: int, value: Parcel) -> None:
        self.out.send(call.caller, [pack(m.Reply(call.call_id, 0, status, True, ())), *to_frames(value, p.arena, call.caller)])

    @precondition(lambda self: any(r.process for r in self.residents.values()))
    @rule(data=st.data(), really=st.integers(0, 3), reason=st.sampled_from(["signal", "exited", "exit_actor", "oom"]))
    def die(self, data: st.DataObject, really: int, reason: str) -> None:
        if really == 3:
            r = data.draw(st.sampled_from([r for r in self.residents.values() if r.process]))
            self.end(r, DeathCause(reason, signal="SIGSEGV" if reason == "signal" else None))

    # -- the end -----------------------------------------------------------------------------------------------------------

    def everything_ends(self) -> None:
        """Actors that were told to stop do so; the others work their queues off, or die."""
        for _ in range(3):
            self.daemon_reads()
            for r in self.residents.values():
                if r.process is not None:
                    self.end(r, DeathCause("killed"))
                elif r.life.phase is not Phase.DEAD:
                    r.life.stop()
                    self.tell(r, DeathCause("killed"))
        assert all(r.life.phase is Phase.DEAD for r in self.residents.values())

    @invariant()
    def all_is_read(self) -> None:
        """The driver's threads have seen to everything that was sent so far: then each step has one outcome only."""
        for _ in range(2):
            answers: list[m.Answer] = []
            self.out.send(ME, [pack(m.Answer(self.runtime.requests.ask(answers.append), "", "", {}))])
            assert self.runtime.inbox.wait_until(lambda answers=answers: bool(answers) and not self.runtime.inbox.late, 5.0)
            probe = self.wire.mailbox("probe")
            self.out.send(side(ME), [pack(m.Fetch(b"?" * 20, "probe"))])
            assert probe.recv(5.0) is not None
            probe.close()
            self.runtime.collect()

    def teardown(self) -> None:
        try:
            self.everything_ends()
            for ref, expected in self.refs:
                self.check(ref, expected, 5.0)
            expected = ref = None
            self.all_is_read()
            self.refs.clear()
            self.handles.clear()
            self.kept.clear()
            gc.collect()
            self.all_is_read()
            self.daemon_reads()
            self.all_is_read()
            stats = self.arena.stats()
            assert (stats.leases, stats.blocks, stats.used) == (0, 0, 0)
            assert [e.id for e in self.runtime.sharing.table.values()] == []
        finally:
            gc.unfreeze()
            gc.enable()
            self.runtime.shutdown()
            current.set_engine(None)
            shutil.rmtree(self.directory)


TestFakeCluster = FakeCluster.TestCase
TestFakeCluster.settings = settings(max_examples=max(60, settings().max_examples // 3), stateful_step_count=60)


def one_actor(restarts: int) -> tuple[FakeCluster, Resident]:
    played = FakeCluster()
    played.create(restarts, 0)
    played.all_is_read()
    played.all_come_up()
    played.all_is_read()
    [resident] = played.residents.values()
    return played, resident


def test_a_big_call_that_was_never_begun_goes_again_whole() -> None:
    played, resident = one_actor(restarts=1)
    try:
        value = np.full(BIG, 7, np.uint8)
        played.refs.append((played.handles[0].echo.remote(value), value))
        played.end(resident, DeathCause("signal"))
        played.all_is_read()
        played.all_come_up()
        played.all_is_read()
        played.receive_all(resident.process)
        played.begin_one(resident.process)
        played.finish_one(resident.process, True)
        assert np.array_equal(get(played.refs[0][0], timeout=5), value)
    finally:
        played.teardown()


def test_what_is_called_between_the_two_messages_of_a_death_leaves_no_lease() -> None:
    """The side thread hears first that a process died; a call made before its link hears of it must not be lent anything."""
    played, resident = one_actor(restarts=0)
    try:
        assert resident.process is not None
        inner = played.handles[0].echo.remote(1)
        played.daemon_reads()
        played.all_is_read()
        played.out.send(side(ME), [pack(m.PeerDied(resident.process.peer))])
        played.all_is_read()
        played.refs += [(played.handles[0].echo.remote(np.ones(BIG, np.uint8)), None), (played.handles[0].echo.remote([inner]), None)]
        del inner
        played.end(resident, DeathCause("signal"), side_knows=True)
        played.all_is_read()
        for i in range(2):
            with pytest.raises(ActorDiedError) as error:
                get(played.refs[i][0], timeout=5)
            assert error.value.executed == "no"
        del error
        assert played.arena.stats().leases == 0
    finally:
        played.teardown()
