"""What mailboxes and outlets promise, over ZeroMQ on one machine and on two, and over the in-process fake alike."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from soma.config import MIB
from soma.errors import ClusterError, SecurityError
from soma.transport.endpoint import Mailbox, Outlet, Wire, ZmqWire
from soma.transport.inproc import InprocWire
from soma.transport.network import Network, NetworkWire
from soma.transport.security import create_runtime_dir

LONG = 10.0
"""Seconds after which something is not coming any more."""


class Meeting:
    """Two members of a cluster: mailboxes are one's, outlets the other's, who is on the same machine (near) or on another.

    Tests name a mailbox by its base; whoever is not there has an address at which nobody listens.
    """

    def __init__(self, *, far: bool) -> None:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        self.directories = [create_runtime_dir() for _ in range(1 + far)]
        self.wires = [NetworkWire(d, Network("127.0.0.1", d.name[-8:], public, secret)) for d in self.directories]
        self.names: dict[str, str] = {}

    def mailbox(self, base: str) -> Mailbox:
        name = self.names[base] = self.wires[0].claim(base)
        return self.wires[0].mailbox(name)

    def name_of(self, base: str) -> str:
        return self.names.get(base, f"{base.replace(' ', '-')}@{self.directories[0].name[-8:]},127.0.0.1,1,1")

    def outlet(self, name: str) -> Outlet:
        return Renamed(self.wires[-1].outlet(name), self.name_of)

    def claim(self, base: str) -> str:
        return self.wires[0].claim(base)

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        for directory in self.directories:
            clean(directory)


class Renamed:
    """An outlet that is told the base of a peer only."""

    def __init__(self, outlet: Outlet, name_of: Callable[[str], str]) -> None:
        self._outlet, self._name_of = outlet, name_of
        self.close = outlet.close

    def connect(self, peer: str) -> None:
        self._outlet.connect(self._name_of(peer))

    def send(self, peer: str, frames: Sequence[Any]) -> None:
        self._outlet.send(self._name_of(peer), frames)

    def disconnect(self, peer: str) -> None:
        self._outlet.disconnect(self._name_of(peer))

    def near(self, peer: str) -> bool:
        return self._outlet.near(self._name_of(peer))


@pytest.fixture(params=["zmq", "inproc", "network near", "network far"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A wire; what a test forgot to close would make its `close` hang, so that is closed first."""
    directory = create_runtime_dir() if request.param == "zmq" else None
    made: Wire = (ZmqWire(directory) if directory is not None else InprocWire() if request.param == "inproc"
                  else Meeting(far=request.param == "network far"))
    open_ends: list[Mailbox | Outlet] = []
    for name in ("mailbox", "outlet"):
        setattr(made, name, remembering(getattr(made, name), open_ends))
    yield made
    for end in open_ends:
        end.close()
    made.close()
    if directory is not None:
        clean(directory)


def remembering(make: Callable[[str], Mailbox | Outlet], made: list[Mailbox | Outlet]) -> Callable[[str], Mailbox | Outlet]:
    def remembered(name: str) -> Mailbox | Outlet:
        made.append(make(name))
        return made[-1]

    return remembered


def clean(directory: Path) -> None:
    assert [p.name for p in directory.iterdir()] == ["owner"], "a socket was left behind"
    (directory / "owner").unlink()
    directory.rmdir()


def directory_of(wire: ZmqWire) -> Path:
    return Path(wire.address_of("x")[len("ipc://"):]).parent


def received(box: Mailbox, count: int) -> list[list[bytes]]:
    """The next `count` messages."""
    got: list[list[bytes]] = []
    until = time.monotonic() + LONG
    while len(got) < count:
        frames = box.recv(max(0.0, until - time.monotonic()))
        if frames is None:
            raise AssertionError(f"{len(got)} of {count} messages came")
        got.append(frames)
    return got


def test_a_message_arrives_with_its_sender(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    out.send("b", [b"header", b"", b"body"])
    assert received(box, 1) == [[b"a", b"header", b"", b"body"]]


def test_an_outlet_may_send_before_the_mailbox_is_there(wire: Wire) -> None:
    """True of sockets, which try again; the fake has nowhere to keep it, and drops it."""
    out = wire.outlet("a")
    out.send("b", [b"early"])
    box = wire.mailbox("b")
    out.send("b", [b"late"])
    got = received(box, 1)
    got += received(box, 1) if got[0][1] == b"early" else []
    assert got[-1][1] == b"late"


def test_order_per_sender_with_many_senders(wire: Wire) -> None:
    box = wire.mailbox("b")
    outs = [wire.outlet(f"s{i}") for i in range(8)]
    for n in range(200):
        for out in outs:
            out.send("b", [b"%d" % n])
    last = {f"s{i}".encode(): -1 for i in range(8)}
    for sender, number in received(box, 1600):
        assert int(number) == last[sender] + 1
        last[sender] += 1


def test_many_threads_may_use_one_outlet_while_one_reads(wire: Wire) -> None:
    """No message is torn, none lost; each thread's own order stands."""
    box, out = wire.mailbox("b"), wire.outlet("a")
    threads = [threading.Thread(target=lambda t=t: [out.send("b", [b"%d" % t, b"%d" % n, b"x" * (n % 7), b"end"]) for n in range(300)])
               for t in range(6)]
    for t in threads:
        t.start()
    last = dict.fromkeys(range(6), -1)
    for _, thread, number, filler, end in received(box, 1800):
        assert (len(filler), end) == (int(number) % 7, b"end")
        assert int(number) == last[int(thread)] + 1
        last[int(thread)] += 1
    for t in threads:
        t.join()


def test_many_threads_may_be_the_first_to_send(wire: Wire) -> None:
    """Each finds that nothing is connected; one of them connects, and the others' messages are not lost."""
    box = wire.mailbox("b")
    for round in range(20):
        out, together = wire.outlet(f"a{round}"), threading.Barrier(6)

        def send(n: int, out: Outlet = out, together: threading.Barrier = together) -> None:
            together.wait()
            out.send("b", [b"%d" % n])

        threads = [threading.Thread(target=send, args=(n,)) for n in range(6)]
        for t in threads:
            t.start()
        assert sorted(received(box, 6)) == [[b"a%d" % round, b"%d" % n] for n in range(6)]
        for t in threads:
            t.join()


def test_big_frames(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    big = os.urandom(MIB) * 32
    out.send("b", [b"h", big, b"", memoryview(big)[:MIB]])
    assert received(box, 1) == [[b"a", b"h", big, b"", big[:MIB]]]


def test_who_shares_the_directory_is_near(wire: Wire) -> None:
    out = wire.outlet("a")
    assert out.near("b") is not (isinstance(wire, Meeting) and len(wire.wires) == 2)


def test_a_buffer_may_be_used_again_once_it_was_sent(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    buffer = bytearray(MIB)
    for i in range(20):
        buffer[:] = bytes([i]) * MIB
        out.send("b", [buffer])
    assert [frames[1] == bytes([i]) * MIB for i, frames in enumerate(received(box, 20))] == [True] * 20


def test_waits_end_in_time(wire: Wire) -> None:
    box = wire.mailbox("b")
    start = time.monotonic()
    assert box.recv(0.05) is None
    assert not box.poll(0.05)
    assert 0.099 <= time.monotonic() - start < 5
    assert not box.poll(0)
    assert not box.poll(-1.0)
    assert box.take_nowait() is None


def test_a_message_ends_a_wait(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    sender = threading.Timer(0.05, lambda: out.send("b", [b"now"]))
    sender.start()
    assert box.poll(LONG)
    assert box.take() == [b"a", b"now"]
    sender.join()


def test_wake_ends_a_wait_from_another_thread(wire: Wire) -> None:
    box = wire.mailbox("b")
    waker = threading.Timer(0.05, box.wake)
    start = time.monotonic()
    waker.start()
    assert not box.poll(LONG)
    assert time.monotonic() - start < LONG / 2
    waker.join()


def test_wakes_before_a_wait_end_one_wait(wire: Wire) -> None:
    box = wire.mailbox("b")
    for _ in range(1000):
        box.wake()
    start = time.monotonic()
    assert not box.poll(LONG)
    assert time.monotonic() - start < LONG / 2
    assert not box.poll(0.01)


def test_a_wake_hides_no_message(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    for i in range(100):
        box.wake()
        out.send("b", [b"%d" % i])
        while not box.poll(LONG):
            continue
        assert box.take()[1] == b"%d" % i
    assert box.take_nowait() is None


def test_a_message_hides_no_wake(wire: Wire) -> None:
    """Who was woken looks after something else; that must not be forgotten because a message came too."""
    box, out = wire.mailbox("b"), wire.outlet("a")
    out.send("b", [b"x"])
    assert box.poll(LONG)
    box.wake()
    assert box.poll(LONG)
    box.take()
    start = time.monotonic()
    assert not box.poll(LONG)
    assert time.monotonic() - start < LONG / 2


def test_take_nowait_takes_what_is_there(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    for i in range(10):
        out.send("b", [b"%d" % i, b"more"])
    got = [received(box, 1)[0]]
    while len(got) < 10:
        frames = box.take_nowait()
        if frames is not None:
            got.append(frames)
    assert got == [[b"a", b"%d" % i, b"more"] for i in range(10)]
    assert box.take_nowait() is None


def test_a_wait_sees_what_was_left_of_many(wire: Wire) -> None:
    """Readers stop when they have enough, whether they found the mailbox empty before or not."""
    box, out = wire.mailbox("b"), wire.outlet("a")
    for take in (box.take_nowait, lambda: box.recv(0)):
        assert take() is None
        for n in range(20):
            out.send("b", [b"%d" % n])
        got: list[bytes] = []
        while len(got) < 5:
            frames = take()
            got += [frames[1]] if frames is not None else []
        while len(got) < 20:
            frames = box.recv(LONG)
            assert frames is not None
            got.append(frames[1])
        assert got == [b"%d" % n for n in range(20)]
        assert not box.poll(0)


def test_two_mailboxes_get_their_own(wire: Wire) -> None:
    one, two, out = wire.mailbox("one"), wire.mailbox("two"), wire.outlet("a")
    for i in range(50):
        out.send("one", [b"1-%d" % i])
        out.send("two", [b"2-%d" % i])
    assert [f[1] for f in received(one, 50)] == [b"1-%d" % i for i in range(50)]
    assert [f[1] for f in received(two, 50)] == [b"2-%d" % i for i in range(50)]


def test_a_name_is_taken_once(wire: Wire) -> None:
    first = wire.mailbox("b")
    with pytest.raises(ClusterError, match="b"):
        wire.mailbox("b")
    out = wire.outlet("a")
    out.send("b", [b"still there"])
    assert received(first, 1)[0][1] == b"still there"


def test_what_is_sent_to_nobody_is_dropped(wire: Wire) -> None:
    out, box = wire.outlet("a"), wire.mailbox("b")
    for _ in range(100):
        out.send("nobody", [b"x"])
    out.connect("nobody either")
    out.send("b", [b"y"])
    assert received(box, 1)[0][1] == b"y"


def test_what_is_sent_to_the_dead_is_dropped(wire: Wire) -> None:
    out, dead, box = wire.outlet("a"), wire.mailbox("dead"), wire.mailbox("b")
    out.send("dead", [b"x"])
    received(dead, 1)
    dead.close()
    for _ in range(1000):
        out.send("dead", [b"x"])
    out.send("b", [b"y"])
    assert received(box, 1)[0][1] == b"y"


def test_nothing_goes_to_a_peer_that_was_disconnected(wire: Wire) -> None:
    out, box, other = wire.outlet("a"), wire.mailbox("b"), wire.mailbox("c")
    out.send("b", [b"x"])
    received(box, 1)
    for _ in range(2):
        out.disconnect("b")
        out.disconnect("never met")
        out.connect("b")
        out.send("b", [b"dropped"])
        out.send("never met", [b"dropped"])
    out.send("c", [b"y"])
    assert received(other, 1)[0][1] == b"y"
    assert box.recv(0.05) is None


def test_what_was_sent_before_the_outlet_closed_arrives(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    for i in range(100):
        out.send("b", [b"%d" % i, b"x" * 10_000])
    out.close(LONG)
    assert [f[1] for f in received(box, 100)] == [b"%d" % i for i in range(100)]


def test_close_is_idempotent_and_ends_everything(wire: Wire) -> None:
    box, out = wire.mailbox("b"), wire.outlet("a")
    for _ in range(2):
        out.close()
        box.close()
    out.send("b", [b"x"])
    out.connect("b")
    out.disconnect("b")
    box.wake()


def test_a_reader_can_be_sent_home(wire: Wire) -> None:
    """The way every mailbox is closed: wake its reader, who sees the flag."""
    box, closing, seen = wire.mailbox("b"), threading.Event(), []

    def read() -> None:
        while not closing.is_set():
            seen.append(box.recv(None))

    reader = threading.Thread(target=read)
    reader.start()
    closing.set()
    box.wake()
    reader.join(LONG)
    assert not reader.is_alive()


class TestZmq:
    """What only sockets can get wrong."""

    @pytest.fixture
    def wire(self) -> Iterator[ZmqWire]:
        made = ZmqWire(create_runtime_dir())
        yield made
        clean(directory_of(made))

    def test_nothing_is_left_after_close(self) -> None:
        before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
        wire = ZmqWire(create_runtime_dir())
        box, out = wire.mailbox("b"), wire.outlet("a")
        out.send("b", [b"x"])
        out.send("nobody", [b"x"])
        received(box, 1)
        out.close()
        box.close()
        wire.close()
        clean(directory_of(wire))
        assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before

    def test_the_gone_are_not_called_again_and_again(self, wire: ZmqWire) -> None:
        """A hundred dead peers cost no processor time."""
        out = wire.outlet("a")
        for i in range(100):
            out.send(f"p{i}", [b"x"])
        for i in range(100):
            out.disconnect(f"p{i}")
        start = time.process_time()
        box = wire.mailbox("b")
        assert not box.poll(0.5)
        used = time.process_time() - start
        box.close()
        out.close()
        wire.close()
        assert used < 0.2

    def test_a_socket_is_for_its_user_only(self, wire: ZmqWire) -> None:
        box = wire.mailbox("b")
        assert os.stat(wire.address_of("b")[6:]).st_mode & 0o777 == 0o700
        box.close()
        wire.close()

    def test_a_directory_that_others_can_enter_is_refused(self, wire: ZmqWire) -> None:
        directory = directory_of(wire)
        directory.chmod(0o755)
        with pytest.raises(SecurityError, match="open to others"):
            wire.mailbox("b")
        directory.chmod(0o700)
        wire.close()
