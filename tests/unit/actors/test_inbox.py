"""Whoever waits, reads: no wake-up is missed, no message lost or torn, whatever threads and signals do."""

from __future__ import annotations

import itertools
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from soma.actors.calls import Pending
from soma.actors.context import Identity
from soma.actors.inbox import Inbox
from soma.actors.interrupts import Interrupts
from soma.actors.runtime import Runtime
from soma.errors import ClusterLostError
from soma.ids import DAEMON, ActorId, CallId
from soma.transport.arena import Arena
from soma.transport.endpoint import Wire, ZmqOutlet, ZmqWire
from soma.transport.inproc import InprocWire
from soma.transport.security import create_runtime_dir
from soma.transport.values import Parcel

LONG = 20.0


class Setting:
    """A mailbox with an inbox, and an outlet to write to it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.box, self.out = wire.mailbox("me"), wire.outlet("other")
        self.done: set[bytes] = set()
        self.handle: Callable[[list[bytes]], None] = lambda frames: self.done.add(frames[1])
        self.pump_wanted = False
        self.inbox = Inbox(self.box, lambda frames: self.handle(frames), lambda: self.pump_wanted)

    def send(self, *frames: bytes) -> None:
        self.out.send("me", frames)


@pytest.fixture(params=["inproc", "zmq"])
def here(request: pytest.FixtureRequest) -> Iterator[Setting]:
    directory = create_runtime_dir() if request.param == "zmq" else None
    setting = Setting(InprocWire() if directory is None else ZmqWire(directory))
    yield setting
    setting.inbox.close()
    setting.box.close()
    setting.out.close()
    setting.wire.close()
    if directory is not None:
        (directory / "owner").unlink()
        directory.rmdir()


def test_eight_threads_that_wait_for_different_things(here: Setting) -> None:
    """4,000 waits; answers come in any order, some as messages, some as a word from another thread."""
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    rounds, threads = 500, 8
    missed: list[bytes] = []

    def ask(thread: int) -> None:
        for n in range(rounds):
            token = b"%d-%d" % (thread, n)
            asked.put(token)
            if not here.inbox.wait_until(lambda token=token: token in here.done, LONG):
                missed.append(token)
                return

    def answer() -> None:
        rng = random.Random(3)
        for left in range(rounds * threads, 0, -1):
            batch = [asked.get(timeout=LONG)]
            while not asked.empty() and len(batch) < left:
                batch.append(asked.get())
            if len(batch) > 1:
                rng.shuffle(batch)
            for token in batch[1:]:
                asked.put(token)
            if rng.random() < 0.2:
                here.done.add(batch[0])
                here.inbox.wake()
            else:
                here.send(batch[0])

    all_threads = [threading.Thread(target=ask, args=(t,)) for t in range(threads)] + [threading.Thread(target=answer)]
    for t in all_threads:
        t.start()
    for t in all_threads:
        t.join(LONG)
    assert not any(t.is_alive() for t in all_threads)
    assert missed == []


def test_waits_end_in_time_also_for_those_who_do_not_read(here: Setting) -> None:
    reader = threading.Thread(target=here.inbox.wait_until, args=(lambda: b"end" in here.done, LONG))
    reader.start()
    start = time.monotonic()
    assert not here.inbox.wait_until(lambda: False, 0.1)
    assert 0.1 <= time.monotonic() - start < LONG / 2
    here.send(b"end")
    reader.join(LONG)
    assert not reader.is_alive()


def test_a_wait_of_no_time_reads_what_is_there(here: Setting) -> None:
    """Who polls gets on."""
    for n in range(50):
        here.send(b"%d" % n)
    until = time.monotonic() + LONG
    while not here.inbox.wait_until(lambda: b"49" in here.done, 0):
        assert time.monotonic() < until


def test_a_flood_does_not_hold_a_wait_beyond_its_time(here: Setting) -> None:
    here.handle = lambda frames: here.send(b"another")
    here.send(b"first")
    start = time.monotonic()
    assert not here.inbox.wait_until(lambda: False, 0.1)
    assert time.monotonic() - start < LONG / 2


def test_a_reader_that_leaves_hands_over(here: Setting) -> None:
    """The first to wait reads; when it has what it wanted, another must take its place."""
    threads = [threading.Thread(target=here.inbox.wait_until, args=(lambda t=t: b"%d" % t in here.done, LONG)) for t in range(6)]
    for t in threads:
        t.start()
    for n in range(6):
        here.send(b"%d" % n)
        threads[n].join(LONG)
        assert not threads[n].is_alive()


def test_what_is_late_waits_for_everything_that_came_before(here: Setting) -> None:
    order: list[bytes] = []

    def handle(frames: list[bytes]) -> None:
        if frames[1] == b"death":
            here.inbox.late.append(lambda: order.append(b"death"))
        else:
            order.append(frames[1])

    here.handle = handle
    for n in range(200):
        here.send(b"%d" % n)
        if n == 50:
            here.send(b"death")
    assert here.inbox.wait_until(lambda: b"death" in order, LONG)
    assert order[:51] == [b"%d" % n for n in range(51)]
    assert here.inbox.wait_until(lambda: len(order) == 201, LONG)


def test_messages_that_come_while_something_is_late(here: Setting) -> None:
    """Each death comes alone, a reply right behind it: the reader must take the reply, and then do what is late."""
    deaths = 0

    def handle(frames: list[bytes]) -> None:
        if frames[1] == b"death":
            here.inbox.late.append(count)
            here.send(b"reply")
        here.done.add(frames[1])

    def count() -> None:
        nonlocal deaths
        deaths += 1

    here.handle = handle
    for n in range(1, 200):
        here.send(b"death")
        assert here.inbox.wait_until(lambda n=n: deaths == n, LONG)


def test_a_late_thing_that_fails_leaves_the_others(here: Setting) -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("late")

    here.inbox.late += [fail, lambda: done.append(1)]
    with pytest.raises(ValueError, match="late"):
        here.inbox.wait_until(lambda: bool(done), LONG)
    assert here.inbox.wait_until(lambda: bool(done), LONG)


def test_a_handler_that_fails_leaves_the_inbox_usable(here: Setting) -> None:
    def handle(frames: list[bytes]) -> None:
        if frames[1] == b"bad":
            raise ValueError("bad")
        here.done.add(frames[1])

    here.handle = handle
    here.send(b"bad")
    here.send(b"good")
    with pytest.raises(ValueError, match="bad"):
        here.inbox.wait_until(lambda: False, LONG)
    assert here.inbox.wait_until(lambda: b"good" in here.done, LONG)


def test_an_inbox_that_is_closed_while_the_pump_looks(here: Setting) -> None:
    """The pump has seen that it is open and wanted, and then it is not: it ends, and raises nowhere."""

    looks = itertools.count(1)

    def close_meanwhile() -> bool:
        here.inbox._closed = next(looks) > 1  # the second look is the last before it would wait
        return True

    here.inbox._urgent, here.inbox._needed = lambda: True, close_meanwhile
    here.inbox.poke_pump()
    pump = here.inbox._pump
    assert pump is not None
    while not here.inbox._closed:
        os.sched_yield()
    here.inbox._pump_event.set()
    pump.join(LONG)
    assert not pump.is_alive()


def test_the_pump_reads_while_nobody_waits(here: Setting) -> None:
    seen = threading.Event()
    here.handle = lambda frames: seen.set()
    here.pump_wanted = True
    here.inbox.poke_pump()
    here.send(b"x")
    assert seen.wait(LONG)
    here.pump_wanted = False
    here.inbox.wake()


def test_close_ends_every_wait(here: Setting) -> None:
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            here.inbox.wait_until(lambda: False)
        except ClusterLostError as e:
            ended.append(type(e))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for t in threads:
        t.start()
    here.inbox.close()
    for t in threads:
        t.join(LONG)
    assert ended == [ClusterLostError] * 4


def test_the_pump_looks_while_others_make_links_and_streams(tmp_path: Path) -> None:
    """Whether it is needed is asked without a lock: what others add meanwhile does not end it."""
    wire = InprocWire()
    daemon = wire.mailbox(DAEMON)
    runtime = Runtime(wire, Identity("me", "driver", "n0", "test", {"CPU": 1.0}), Arena(1 << 20, tmp_path))
    numbers = itertools.count()

    def add() -> None:
        n = next(numbers)
        runtime.caller.link(ActorId(f"{n:016x}"), None)
        runtime.caller.streams.open(Pending(CallId(n.to_bytes(16, "big")), "items", Parcel(b""), (), streams=True), "")

    def meanwhile(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name == "<genexpr>" and event == "line":
            add()
        return meanwhile

    for _ in range(3):
        add()
    before = sys.gettrace()
    sys.settrace(meanwhile)
    try:
        assert not runtime.caller.backlog
        assert not runtime.caller.streams.awaited
    finally:
        sys.settrace(before)
    assert next(numbers) > 6, "nothing was added meanwhile"
    runtime.shutdown()
    daemon.close()


@pytest.mark.parametrize("here", ["zmq"], indirect=True)
def test_interrupts_at_random_moments_tear_nothing(here: Setting) -> None:
    """500 real signals while the main thread sends to itself and reads: each is raised, and every message arrives whole."""
    side_wanted, over = threading.Event(), threading.Event()
    interrupts = Interrupts(side_wanted.set, (Inbox.wait_until, Inbox._read_until, Inbox._stand_down, Inbox.drain, ZmqOutlet.send))
    armed, hit, signals_sent = threading.Event(), threading.Event(), threading.Event()
    sent: list[int] = []
    seen: list[int] = []
    torn: list[list[bytes]] = []
    busy = False

    def handle(frames: list[bytes]) -> None:
        nonlocal busy
        if busy or len(frames) != 4 or frames[1:] != [frames[1], frames[1] * 3, b"end"]:
            torn.append(frames)
        busy = True
        number = int(frames[1])
        seen.append(number)
        busy = False

    def side() -> None:
        while not over.is_set():
            side_wanted.wait()
            side_wanted.clear()
            interrupts.again()

    def trouble() -> None:
        rng = random.Random(11)
        for _ in range(500):
            armed.wait(LONG)
            armed.clear()
            hit.wait(rng.random() * 0.002)
            os.kill(os.getpid(), signal.SIGINT)
            if not hit.wait(LONG):
                break
            hit.clear()
        signals_sent.set()

    here.handle = handle
    undo = interrupts.guard_ctrl_c(here.box.wake_fd())
    threads = [threading.Thread(target=side), threading.Thread(target=trouble)]
    for t in threads:
        t.start()
    hits = 0
    numbers = itertools.count()
    while not signals_sent.is_set():
        try:
            armed.set()
            while not signals_sent.is_set():
                n = next(numbers)
                here.send(b"%d" % n, b"%d" % n * 3, b"end")
                sent.append(n)
                here.inbox.wait_until(lambda n=n: bool(seen) and seen[-1] >= n, LONG)
        except KeyboardInterrupt:
            hits += 1
            hit.set()
    undo()
    over.set()
    side_wanted.set()
    for t in threads:
        t.join(LONG)
    here.send(b"0", b"000", b"end")
    assert here.inbox.wait_until(lambda: seen[-1] == 0, LONG)
    assert hits == 500
    assert torn == []
    assert seen[:-1] == sorted(set(seen[:-1])), "twice, or out of order"
    assert set(sent) <= set(seen)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
