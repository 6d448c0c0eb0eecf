"""Two processes that reach each other by TCP only, through a proxy that cuts connections and flips bits; and strangers at the door."""

from __future__ import annotations

import hashlib
import json
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import zmq

from soma.config import MIB
from soma.transport.endpoint import Mailbox
from soma.transport.naming import located, parse
from soma.transport.network import Network, NetworkWire
from soma.transport.network_outlet import NetworkOutlet
from soma.transport.security import create_runtime_dir

LONG = 20.0
HERE = "127.0.0.1"


def new_keys() -> list[str]:
    return [key.decode() for key in zmq.curve_keypair()]


def network(tag: str, keys: list[str], on_link: Callable[[str, bool], None] = lambda peer, up: None) -> Network:
    return Network(HERE, tag, keys[0], keys[1], on_link=on_link)


class Proxy:
    """Forwards to a port of this machine; once so many bytes went there in all, resets the connection or flips a bit."""

    def __init__(self, port: int, *, cuts: list[int] | None = None, flips_there: list[int] | None = None,
                 flips_back: list[int] | None = None) -> None:
        self._target, self._cuts = port, cuts or []
        self._flips = {"there": flips_there or [], "back": flips_back or []}
        self._passed = {"there": 0, "back": 0}
        self.connections = 0
        self._listener = socket.create_server((HERE, 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop, self._stopped = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.send(b"x")
        self._thread.join()
        for s in (self._stop, self._stopped, self._listener):
            s.close()

    def _run(self) -> None:
        with self._selector as selector:
            selector.register(self._stopped, selectors.EVENT_READ, None)
            selector.register(self._listener, selectors.EVENT_READ, "listener")
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stopped:
                        for other in list(selector.get_map().values()):
                            if isinstance(other.data, tuple):
                                other.fileobj.close()  # type: ignore[union-attr]
                        return
                    if key.data == "listener":
                        self._accept()
                    elif key.fileobj in {k.fileobj for k in selector.get_map().values()}:
                        self._forward(*key.data)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection((HERE, self._target))
        except ConnectionRefusedError:  # the child is done
            near.close()
            return
        self.connections += 1
        self._selector.register(near, selectors.EVENT_READ, (near, far, "there"))
        self._selector.register(far, selectors.EVENT_READ, (far, near, "back"))

    def _forward(self, source: socket.socket, target: socket.socket, way: str) -> None:
        try:
            data = bytearray(source.recv(65_536))
            flips = self._flips[way]
            if data and flips and self._passed[way] + len(data) > flips[0]:
                data[flips.pop(0) - self._passed[way]] ^= 4
            self._passed[way] += len(data)
            if data and not (way == "there" and self._cuts and self._passed[way] > self._cuts[0]):
                target.sendall(data)
                return
            if data:
                self._cuts.pop(0)
        except OSError:
            pass
        for s in (source, target):
            self._selector.unregister(s)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
            s.close()


CHILD = """
import hashlib, json, os, sys, threading
from soma.transport.network import Network, NetworkWire
from soma.transport.security import create_runtime_dir

public, secret = json.loads(sys.stdin.readline())
directory = create_runtime_dir()
wire = NetworkWire(directory, Network("127.0.0.1", directory.name[-8:], public, secret))
name = wire.claim("child")
box = wire.mailbox(name)
print(json.dumps(name), flush=True)
got = []
while True:
    frames = box.recv(None)
    if frames[1] == b"end":
        break
    got.append([len(frames), bytes(frames[1]).decode(), hashlib.sha256(frames[-1]).hexdigest()])
counters = {"duplicates": box.received.duplicates, "refused": box.received.refused, "corrupt": box.received.corrupt}
del frames
box.close()
wire.close()
left = [p.name for p in directory.iterdir()]
(directory / "owner").unlink()
directory.rmdir()
sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
print(json.dumps([got, counters, left, [t.name for t in threading.enumerate()], [s for s in sockets if "socket" in s or "event" in s]]))
"""


@dataclass
class Pair:
    """Our wire, and a child that receives."""

    wire: NetworkWire
    outlet: NetworkOutlet
    links: list[tuple[str, bool]]
    name: str
    child: subprocess.Popen[str]

    def through(self, port: int) -> str:
        """The child's name for who reaches it at another port."""
        place = parse(self.name)
        assert place is not None
        return located(place.base, place.tag, HERE, port, port)

    @property
    def port(self) -> int:
        place = parse(self.name)
        assert place is not None
        return place.port

    def outcome(self) -> list[list[Any]]:
        """What the child received, when it is gone and left nothing."""
        got, counters, left, threads, sockets = json.loads(self.child.communicate(timeout=LONG)[0])
        assert left == ["owner"] and threads == ["MainThread"] and sockets == []
        assert counters["refused"] == counters["corrupt"] == 0
        return got  # type: ignore[no-any-return]


@pytest.fixture
def pair() -> Iterator[Pair]:
    keys = new_keys()
    links: list[tuple[str, bool]] = []
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(keys) + "\n")
    child.stdin.flush()
    name = json.loads(child.stdout.readline())
    wire = NetworkWire(None, network("0" * 8, keys, lambda peer, up: links.append((peer, up))))
    outlet = wire.outlet("a")
    yield Pair(wire, outlet, links, name, child)
    outlet.close()
    wire.close()
    if child.poll() is None:
        child.kill()
        child.communicate()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("faults", [
    pytest.param({}, id="none"),
    pytest.param({"cuts": [20_000, 60_000, 110_000, 111_000, 200_000]}, id="resets"),
    pytest.param({"flips_there": [90_000]}, id="a bit flipped on the way there"),
    pytest.param({"flips_back": [100]}, id="a bit flipped on the way back"),
    pytest.param({"cuts": [80, 400]}, id="resets in the handshake"),
])
def test_a_thousand_numbered_messages_arrive_once_and_in_order(pair: Pair, faults: dict[str, list[int]]) -> None:
    random.seed(7)
    bodies = [random.randbytes(random.randrange(600)) for _ in range(1000)]
    with Proxy(pair.port, **faults) as proxy:
        out = pair.outlet
        name = pair.through(proxy.port)
        for n, body in enumerate(bodies):
            out.send(name, [b"%d" % n, body])
        out.send(name, [b"end"])
        got = pair.outcome()
    assert got == [[3, str(n), digest(body)] for n, body in enumerate(bodies)]
    assert proxy.connections > len(faults.get("cuts", faults))
    told = [up for peer, up in pair.links if peer == name]
    assert told == [bool(i % 2) for i in range(len(told))], "down, up, down, …"


def test_fifty_megabytes_arrive_whole_although_connections_are_reset(pair: Pair) -> None:
    data = random.Random(1).randbytes(MIB) * 50
    with Proxy(pair.port, cuts=[10 * MIB, 25 * MIB, 40 * MIB]) as proxy:
        out = pair.outlet
        name = pair.through(proxy.port)
        out.send(name, [b"small", b"before"])
        out.send(name, [b"large", b"", data])
        out.send(name, [b"small", b"after"])
        out.send(name, [b"end"])
        got = pair.outcome()
    assert got == [[3, "small", digest(b"before")], [4, "large", digest(data)], [3, "small", digest(b"after")]]
    assert proxy.connections > 3


# -- strangers -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def door() -> Iterator[tuple[NetworkWire, Mailbox, str, list[str]]]:
    """A mailbox that is to let nobody in."""
    keys = new_keys()
    directory = create_runtime_dir()
    wire = NetworkWire(directory, network(directory.name[-8:], keys))
    name = wire.claim("door")
    box = wire.mailbox(name)
    yield wire, box, name, keys
    box.close()
    wire.close()
    assert [p.name for p in directory.iterdir()] == ["owner"]
    shutil.rmtree(directory)


def wrong_own_key(s: zmq.Socket[bytes], public: bytes) -> None:
    s.curve_publickey, s.curve_secretkey = zmq.curve_keypair()
    s.curve_serverkey = public


def wrong_server_key(s: zmq.Socket[bytes], public: bytes) -> None:
    s.curve_publickey, s.curve_secretkey = zmq.curve_keypair()
    s.curve_serverkey = zmq.curve_keypair()[0]


def no_key(s: zmq.Socket[bytes], public: bytes) -> None:
    return


def password(s: zmq.Socket[bytes], public: bytes) -> None:
    s.plain_username, s.plain_password = b"admin", b"admin"


@pytest.mark.parametrize("keys", [wrong_own_key, wrong_server_key, no_key, password])
def test_strangers_deliver_nothing(door: tuple[NetworkWire, Mailbox, str, list[str]], keys: Callable[..., None]) -> None:
    wire, box, name, (public, _) = door
    place = parse(name)
    assert place is not None
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        for address in (place.address, parse(name + ".s").address):  # type: ignore[union-attr]
            stranger = stack.enter_context(context.socket(zmq.DEALER))
            stranger.setsockopt(zmq.LINGER, 0)
            keys(stranger, public.encode())
            stranger.connect(address)
            with suppress(zmq.Again):  # it may have been sent away already
                stranger.send_multipart([b"\xc1", b"let me in"], zmq.NOBLOCK)
        until = time.monotonic() + LONG
        while wire.rejected < 2:
            assert box.recv(0.05) is None
            assert time.monotonic() < until, f"only {wire.rejected} were rejected"
        assert box.recv(0.05) is None


def test_what_is_no_zeromq_is_sent_away(door: tuple[NetworkWire, Mailbox, str, list[str]]) -> None:
    wire, box, name, _ = door
    place = parse(name)
    assert place is not None
    with socket.create_connection((HERE, place.port)) as stranger:
        stranger.settimeout(LONG)
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 1000)
        answer = b""
        try:
            while data := stranger.recv(1000):
                answer += data
        except ConnectionError:
            pass
        assert len(answer) <= 64, "a greeting, and no more"
    assert box.recv(0.05) is None


def test_a_member_of_another_cluster_is_a_stranger(door: tuple[NetworkWire, Mailbox, str, list[str]]) -> None:
    wire, box, name, _ = door
    other = NetworkWire(None, network("0" * 8, new_keys()))
    out = other.outlet("a")
    out.send(name, [b"x"])
    until = time.monotonic() + LONG
    while wire.rejected < 1:
        assert box.recv(0.05) is None and time.monotonic() < until
    out.close()
    other.close()


def test_nothing_is_left_after_close() -> None:
    keys = new_keys()
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    one, two = (NetworkWire(None, network(f"{i:08x}", keys)) for i in range(2))
    name = one.claim("b")
    box, out = one.mailbox(name), two.outlet("a")
    out.send(name, [b"x", bytes(20 * MIB)])
    out.send("nobody@01234567,127.0.0.1,1,1", [b"x"])
    assert box.recv(LONG) is not None
    out.disconnect(name)
    for closed in (out, box, one, two):
        closed.close()
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before
