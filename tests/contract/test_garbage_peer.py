"""A peer that sends what no peer of ours would: refused, counted, said once, and nobody else notices."""

from __future__ import annotations

import os
import pickle
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import soma
from soma.transport import messages as m
from soma.transport.frames import pack

VERSION = 1
NOISE = random.Random(5).randbytes(50)
CALL = m.Call(b"c" * 16, "d-00", "add", 1, 0, None, ())
OPTIONS: dict[str, Any] = {
    "num_cpus": 0.0, "num_gpus": 0.0, "memory": 0, "resources": {}, "env": {}, "name": None, "namespace": "", "detached": False,
    "max_restarts": 0, "payload": b"p" * 20, "heavy": ()}


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["SOMA_TEST_EVIL"],)


@soma.remote
class Adder:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total

    def refused(self) -> int:
        from soma.actors import current

        return int(current.peek().refused)  # type: ignore[union-attr]


@dataclass
class Met:
    """A cluster with an actor, and where everybody's sockets are."""

    handle: Any
    directory: Path
    total: int = 0

    def path(self, who: str) -> str:
        driver = soma.status()["drivers"][0]
        actor = f"{self.handle.actor_id}.0"
        name = {"driver": driver, "driver's side": driver + ".s", "actor": actor, "actor's side": actor + ".s", "daemon": "daemon"}[who]
        return str(self.directory / name)

    def works(self) -> None:
        """Other calls go on, and are right."""
        refs = [self.handle.add.remote(1) for _ in range(100)]
        assert soma.get(refs, timeout=20) == list(range(self.total + 1, self.total + 101))
        self.total += 100
        big = soma.put(b"x" * 1_000_000)
        assert len(soma.get(big, timeout=20)) == 1_000_000

    def refused(self, who: str) -> int:
        """What that process counted so far."""
        if who == "daemon":
            return int(soma.status()["refused_messages"])
        if who.startswith("actor"):
            return int(soma.get(self.handle.refused.remote(), timeout=20))
        return int(soma.status()["driver"]["refused_messages"])

    def counts(self, who: str, at_least: int) -> None:
        for _ in range(2000):
            self.works_once()
            if self.refused(who) >= at_least:
                return
        raise AssertionError(f"{who} counted {self.refused(who)}, not {at_least}")

    def works_once(self) -> None:
        self.total += 1
        assert soma.get(self.handle.add.remote(1), timeout=20) == self.total


@pytest.fixture(scope="module")
def met(shared_cluster: object) -> Iterator[Met]:
    handle = Adder.remote()
    soma.get(handle.add.remote(0))
    yield Met(handle, Path(soma.status()["directory"]))
    del handle


@pytest.fixture
def dealer(met: Met) -> Iterator[Callable[[str, list[list[bytes]]], None]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = []

    def send(path: str, messages: list[list[bytes]]) -> None:
        socket = context.socket(zmq.DEALER)
        sockets.append(socket)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(f"ipc://{path}")
        for frames in messages:
            socket.send_multipart(frames)

    yield send
    for one in sockets:
        one.close(5000)
    context.term()


def header(*fields: Any) -> bytes:
    made: bytes = msgpack.packb(fields)
    return made


BAD_HEADERS = {
    "noise": [NOISE],
    "nothing": [b""],
    "no header at all": [],
    "truncated": [pack(CALL)[:-3]],
    "another version": [header(99, 1, b"c" * 16)],
    "unknown kind": [header(VERSION, 999)],
    "nested 10,000 deep": [b"\x91" * 10_000],
    "a field nested 10,000 deep": [b"\x93\x01\x19\x81\xa1k" + b"\x91" * 10_000],
    "over 64 KiB": [bytes(70_000)],
    "claims 4 GB": [b"\x93\x01\x16\xc6\xff\xff\xff\xff"],
    "100,000 tiny frames": [pack(CALL)] + [b"x"] * 100_000,
    "a pickle for a header": [pickle.dumps(CALL.method)],
    "a pickle for a field": [header(VERSION, 22, b"o" * 20, pickle.dumps("p"), 1)],
    "a name that is a path": [header(VERSION, 21, b"o" * 20, "../../../tmp/x")],
    "wrong arity": [header(VERSION, 1, b"c" * 16)],
}
WHOM = ["actor", "actor's side", "driver", "driver's side", "daemon"]


@pytest.mark.parametrize("who", WHOM)
def test_bad_headers(met: Met, who: str, dealer: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    before = met.refused(who)
    messages = [frames or [b""] for frames in BAD_HEADERS.values()] * 3
    dealer(met.path(who), messages)
    met.works()
    met.counts(who, before + len(messages))
    if who.startswith("driver"):
        assert len([r for r in caplog.records if "refused a message" in r.message]) == 1, "said once for each sender"


FOREIGN = {
    "daemon's kinds": [m.Hello("d-00", 1, "driver"), m.Kill("00", True, "killed", False), m.Ask(b"r", "d-00", "shutdown"),
                       m.CreateActor(b"r", "aa", "d-00", "X", OPTIONS, (), b"")],
    "a mailbox's kinds": [CALL, m.Reply(b"c" * 16, 0, 0, True, ()), m.ActorUpdate("aa", 0, "ready", (), (), ""), m.Stop("x")],
    "a side mailbox's kinds": [m.Fetch(b"o" * 20, "d-00"), m.Hold(b"o" * 20, "d-00", 1), m.LogLines("x", 1, "stdout", ("y",), 0)],
}


@pytest.mark.parametrize(("who", "what"), [
    ("actor", "daemon's kinds"), ("actor", "a side mailbox's kinds"), ("driver", "daemon's kinds"), ("driver", "a side mailbox's kinds"),
    ("driver's side", "daemon's kinds"), ("driver's side", "a mailbox's kinds"), ("actor's side", "daemon's kinds"),
    ("daemon", "a mailbox's kinds"), ("daemon", "a side mailbox's kinds")])
def test_messages_for_somebody_else(met: Met, who: str, what: str, dealer: Callable[..., None]) -> None:
    before = met.refused(who)
    dealer(met.path(who), [[pack(msg)] for msg in FOREIGN[what]])
    met.counts(who, before + len(FOREIGN[what]))
    met.works()


ODD_OPTIONS: list[dict[str, Any]] = [
    {}, {**OPTIONS, "num_cpus": "many"}, {**OPTIONS, "num_cpus": float("nan")}, {**OPTIONS, "num_cpus": -1.0}, {**OPTIONS, "memory": 1.5},
    {**OPTIONS, "resources": {"CPU": "x"}}, {**OPTIONS, "env": {"A": 1}}, {**OPTIONS, "env": {"A": "\0"}}, {**OPTIONS, "name": {}},
    {**OPTIONS, "heavy": (1,)}, {**OPTIONS, "payload": b""}, {**OPTIONS, "max_restarts": "x"}, {**OPTIONS, "more": 1},
    {**OPTIONS, "resources": {"r": 1e300}},
]


def test_the_daemon_is_asked_for_odd_things(met: Met, dealer: Callable[..., None]) -> None:
    before = met.refused("daemon")
    creations = [[pack(m.CreateActor(b"", f"{i:016x}", "d-00", "X", o, (), b""))] for i, o in enumerate(ODD_OPTIONS)]
    leases = [[pack(m.LeaseWorker(b"r", "d-00", o))] for o in ODD_OPTIONS[:-4]]
    again = [[pack(m.CreateActor(b"", str(met.handle.actor_id), "d-00", "X", OPTIONS, (), b""))]]
    dealer(met.path("daemon"), creations + leases + again)
    met.counts("daemon", before + len(creations) + len(leases) + 1)
    met.works()
    assert len(soma.status()["actors"]) == 1


def test_the_daemon_is_told_of_strangers(met: Met, dealer: Callable[..., None]) -> None:
    """Well-formed words about actors and peers that do not exist change nothing."""
    words: list[Any] = [
        m.Kill("00", True, "killed", False), m.Kill("00", False, "x", True), m.ActorReady("00", 0, ""), m.ActorReady("00", 7, "boom"),
        m.Leaving("00.0", "exited", 1), m.Blocked("00.0", 1, (("00", b"c"),), True), m.Unblocked("00.0", 1),
        m.ReturnWorker("d-00", "00", b""), m.ReturnWorker("d-00", "", b"r"), m.FindActor(b"r", "d-00", "nobody", ""), m.Watch("00", "d-00"),
        m.Ask(b"r", "d-00", "what?"), m.ActorReady(str(met.handle.actor_id), 5, "")]
    before = len(soma.status()["actors"])
    dealer(met.path("daemon"), [[pack(w)] for w in words])
    met.works()
    assert len(soma.status()["actors"]) == before


def test_a_driver_is_told_of_strangers(met: Met, dealer: Callable[..., None]) -> None:
    words: list[Any] = [
        m.Reply(b"c" * 16, 0, 0, True, ()), m.Reply(b"c" * 16, 4_000_000_000, 77, False, ((b"o", "d-00", ""),)),
        m.ObjectValue(b"o" * 20, 0, ()), m.ActorUpdate("00", 0, "dead", (), (), ""), m.ActorUpdate("00", 0, "nonsense", (), (), ""),
        m.Answer(b"r", "", "", {}), m.Deadlock(1, "x")]
    dealer(met.path("driver"), [[pack(w), b"garbage", b"more", b"and more"] for w in words])
    side: list[Any] = [m.Fetch(b"o" * 20, "d-00"), m.Hold(b"o" * 20, "d-00", -(2**63)), m.PeerDied("d-00"), m.Event({"a": 1})]
    dealer(met.path("driver's side"), [[pack(w)] for w in side])
    met.works()


@pytest.mark.parametrize("frames", [
    pytest.param([], id="no value"),
    pytest.param([b"\x80garbage"], id="no pickle"),
    pytest.param([b"\xc0", b"body", b""], id="no segments"),
    pytest.param([msgpack.packb([["/etc/passwd", 1, 0, 1, "/etc/passwd", 1, 0], struct.pack("<qq", 0, 1)]), b"N.", b""], id="no arena"),
    pytest.param([b"1", b"2", b"3", b"4"], id="too many frames"),
    pytest.param([pickle.dumps(7)], id="no arguments"),
])
def test_calls_with_a_broken_value_are_answered(met: Met, dealer: Callable[..., None], frames: list[bytes]) -> None:
    """They cost their (made up) caller an error, and the actor nothing."""
    dealer(met.path("actor"), [[pack(CALL), *frames], [pack(m.Call(b"d" * 16, "d-00", "no_such_method", 1, 0, None, ())), *frames]])
    met.works()


def test_a_header_is_never_unpickled(met: Met, dealer: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a pickle in every place of a header where bytes or text may be."""
    file = tmp_path / "touched"
    monkeypatch.setenv("SOMA_TEST_EVIL", str(file))
    evil = pickle.dumps(Evil())
    messages = [[evil], [header(VERSION, evil)], [header(evil, 1)], [header(VERSION, 1, evil, "d-00", "add", 1, 0, None, [])],
                [header(VERSION, 22, evil, "d-00", 1)], [header(VERSION, 25, {"k": evil})], [header(VERSION, 20, evil[:16])],
                [header(VERSION, 41, b"", "00", "d-00", "X", OPTIONS, [], evil)], [header(VERSION, 44, evil, "d-00", "n", "s")]]
    for who in WHOM:
        dealer(met.path(who), messages)
        met.works()
    assert not file.exists()
    pickle.loads(evil)
    assert file.exists(), "the test's own bait works"


RAW = {
    "noise": NOISE * 20,  # ZeroMQ may take it for its very first protocol, and deliver messages
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a greeting": b"\xff\0\0\0\0\0\0\0\x01\x7f",
    "greeting, then noise": b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL" + b"\0" * 48 + NOISE * 10,
}
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01NULL" + b"\0" * 16 + b"\0" * 32
_META = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
READY = bytes([4, len(_META)]) + _META


def shaken(path: str) -> socket.socket:
    """A connection by hand, past the handshake: what follows are frames."""
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(path)
    raw.sendall(GREETING + READY)
    return raw


@pytest.mark.parametrize("who", WHOM)
def test_bytes_that_are_not_even_zeromq(met: Met, who: str) -> None:
    open_ones = []
    before = met.refused(who)
    try:
        for data in RAW.values():
            open_ones.append(socket.socket(socket.AF_UNIX))
            open_ones[-1].connect(met.path(who))
            open_ones[-1].sendall(data)
        for claim in [
            b"\x02" + (4 * 2**30 - 1).to_bytes(8, "big") + b"x" * 100,  # a frame of almost 4 GB, of which 100 bytes come
            b"\x02" + (4 * 2**30 + 1).to_bytes(8, "big") + b"x" * 100,
            b"\x02" + (2**63 - 1).to_bytes(8, "big"),
            b"\x01\x05abc",  # a frame that never ends, of a message that never ends
            b"\x00\x05noise",  # a message: shows that these are listened to
        ]:
            open_ones.append(shaken(met.path(who)))
            open_ones[-1].sendall(claim)
        met.counts(who, before + 1)
        met.works()
    finally:
        for raw in open_ones:
            raw.close()
    met.works()


def test_a_flood_delays_nobody_for_long(met: Met, dealer: Callable[..., None]) -> None:
    for who in WHOM:
        dealer(met.path(who), [[b"tiny"]] * 20_000)
    met.works()
    for who in WHOM:
        met.counts(who, 20_000)
