"""An event loop that reads the mailbox: it misses nothing, whoever else reads beside it, and gives it back when it leaves."""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from soma.actors.attending import attend
from soma.actors.inbox import Inbox
from soma.transport.endpoint import ZmqWire
from soma.transport.inproc import InprocWire
from soma.transport.security import create_runtime_dir

LONG = 20.0


class Setting:
    """A mailbox with an inbox whose callbacks are wanted, and an outlet to write to it."""

    def __init__(self, directory: Path) -> None:
        self.wire = ZmqWire(directory)
        self.box, self.out = self.wire.mailbox("me"), self.wire.outlet("other")
        self.handle: Callable[[bytes], None] = lambda token: None
        self.inbox = Inbox(self.box, lambda frames: self.handle(bytes(frames[1])), lambda: True)

    def send(self, token: bytes) -> None:
        self.out.send("me", [token])

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        leave = attend(self.inbox, self.box.fileno(), asyncio.get_running_loop())
        try:
            yield
        finally:
            leave()


@pytest.fixture
def here() -> Iterator[Setting]:
    directory = create_runtime_dir()
    setting = Setting(directory)
    yield setting
    setting.inbox.close()
    setting.box.close()
    setting.out.close()
    setting.wire.close()
    (directory / "owner").unlink()
    directory.rmdir()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def threads_called(name: str) -> int:
    return sum(t.name == name for t in threading.enumerate())


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not done():
            await asyncio.sleep(0)


@in_a_loop
async def test_what_comes_is_handled_in_the_loops_thread(here: Setting) -> None:
    got: list[tuple[bytes, int]] = []
    here.handle = lambda token: got.append((token, threading.get_ident()))
    here.send(b"before")
    async with here.attended():
        here.inbox.poke_pump()
        await until(lambda: len(got) == 1)
        for n in range(300):  # more than it takes at one time
            here.send(b"%d" % n)
        await until(lambda: len(got) == 301)
        assert not threads_called("soma-pump")
    assert [token for token, _ in got] == [b"before"] + [b"%d" % n for n in range(300)]
    assert {thread for _, thread in got} == {threading.get_ident()}


@in_a_loop
async def test_one_at_a_time_each_answer_the_cause_of_the_next(here: Setting) -> None:
    """2,000 messages, of which none comes before the last was handled: a sign that was missed ends it."""
    turns = queue.SimpleQueue[int]()
    got: list[bytes] = []

    def handle(token: bytes) -> None:
        got.append(token)
        turns.put(len(got))

    def answer() -> None:
        while (n := turns.get(timeout=LONG)) < 2000:
            here.send(b"%d" % n)

    here.handle = handle
    other = threading.Thread(target=answer)
    async with here.attended():
        other.start()
        turns.put(0)
        await until(lambda: len(got) == 2000)
    other.join(LONG)
    assert got == [b"%d" % n for n in range(2000)]


@in_a_loop
async def test_threads_that_wait_beside_the_loop(here: Setting) -> None:
    """Three threads wait for their own answers, and read for the loop meanwhile: it gets all of its own, they get theirs."""
    asked = queue.SimpleQueue[bytes]()
    done: set[bytes] = set()
    ours: list[bytes] = []
    missed: list[bytes] = []

    def handle(token: bytes) -> None:
        if token.startswith(b"loop"):
            ours.append(token)
        else:
            done.add(token)

    def ask(thread: int) -> None:
        for n in range(300):
            token = b"%d-%d" % (thread, n)
            asked.put(token)
            if not here.inbox.wait_until(lambda token=token: token in done, LONG):
                missed.append(token)

    def answer() -> None:
        rng = random.Random(5)
        for n in range(900):
            token = asked.get(timeout=LONG)
            if rng.random() < 0.5:
                here.send(b"loop-%d" % n)
            here.send(token)
        here.send(b"loop-end")

    here.handle = handle
    threads = [threading.Thread(target=ask, args=(t,)) for t in range(3)] + [threading.Thread(target=answer)]
    async with here.attended():
        for t in threads:
            t.start()
        await until(lambda: ours[-1:] == [b"loop-end"])
        for t in threads:
            await asyncio.to_thread(t.join, LONG)
    assert not any(t.is_alive() for t in threads)
    assert missed == [] and len(done) == 900


@in_a_loop
async def test_what_a_thread_left_unread_when_its_wait_was_over(here: Setting) -> None:
    """It takes its own message, and with it the sign that there are others."""
    got: list[bytes] = []
    here.handle = got.append
    async with here.attended():
        for _ in range(200):
            got.clear()
            here.send(b"theirs")
            here.send(b"ours")
            assert here.inbox.wait_until(lambda: b"theirs" in got, LONG)  # in the loop's own thread, which reads nothing meanwhile
            await until(lambda: b"ours" in got)


@in_a_loop
async def test_the_pump_comes_back_when_the_loop_leaves(here: Setting) -> None:
    got = threading.Event()
    threads: list[int] = []

    def handle(token: bytes) -> None:
        threads.append(threading.get_ident())
        got.set()

    here.handle = handle
    here.inbox.poke_pump()
    async with here.attended():
        here.send(b"a")
        await until(got.is_set)
    got.clear()
    here.send(b"b")
    assert got.wait(LONG)
    assert threads[1] != threading.get_ident()


@in_a_loop
async def test_a_second_loop_changes_nothing(here: Setting) -> None:
    got: list[int] = []
    here.handle = lambda token: got.append(threading.get_ident())

    async def second() -> None:
        async with here.attended():
            await asyncio.to_thread(here.send, b"x")

    async with here.attended():
        await asyncio.to_thread(asyncio.run, second())
        await until(lambda: len(got) == 1)
        here.send(b"y")
        await until(lambda: len(got) == 2)
    assert set(got) == {threading.get_ident()}


@in_a_loop
async def test_a_handler_that_fails_leaves_the_loop_reading(here: Setting) -> None:
    got: list[bytes] = []
    failures: list[str] = []

    def handle(token: bytes) -> None:
        if token == b"bad":
            raise ValueError("bad")
        got.append(token)

    here.handle = handle
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(str(context["exception"])))
    async with here.attended():
        here.send(b"bad")
        here.send(b"good")
        await until(lambda: got == [b"good"])
    assert failures == ["bad"]


@in_a_loop
async def test_an_inbox_that_is_closed_while_it_is_attended(here: Setting) -> None:
    async with here.attended():
        here.inbox.close()
        here.send(b"x")
        await asyncio.sleep(0)


def test_a_loop_that_ended_without_a_word(here: Setting) -> None:
    """Who waits for himself still reads, and is not troubled."""
    done: set[bytes] = set()
    here.handle = done.add

    async def forget() -> Callable[[], None]:
        return attend(here.inbox, here.box.fileno(), asyncio.get_running_loop())

    leave = asyncio.run(forget())
    here.send(b"x")
    assert here.inbox.wait_until(lambda: b"x" in done, LONG)
    leave()
    here.inbox.poke_pump()
    here.send(b"y")
    while b"y" not in done:
        os.sched_yield()


@in_a_loop
async def test_no_descriptor_is_left(here: Setting) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        leave = attend(here.inbox, here.box.fileno(), asyncio.get_running_loop())
        leave()
        leave()  # a second time is nothing
    assert len(os.listdir("/proc/self/fd")) == before


@in_a_loop
async def test_a_mailbox_without_a_descriptor_is_left_to_the_pump() -> None:
    wire = InprocWire()
    box, out = wire.mailbox("me"), wire.outlet("other")
    got = threading.Event()
    inbox = Inbox(box, lambda frames: got.set(), lambda: True)
    leave = attend(inbox, box.fileno(), asyncio.get_running_loop())
    inbox.poke_pump()
    out.send("me", [b"x"])
    assert got.wait(LONG)
    leave()
    inbox.close()
    box.close()
