"""Attacks on the head's control port, by strangers and by members: nothing is delivered that may not be, and others notice nothing.

The numbers S3 … F24 are those of the project's list of attacks. Who attacks with bulk is a process of its own, so that what is
measured here is the port's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
import zmq

from soma.daemon.access import RATES, Rates, user_id
from soma.daemon.gate import Gate, create_token, versions
from soma.errors import ProtocolError, SecurityError, SomaError, VersionMismatchError
from soma.transport import messages as m
from soma.transport.control import MALFORMED, PARTS, ControlServer, sender, server_socket
from soma.transport.control_client import ControlClient, json_frames
from soma.transport.frames import pack, unpack
from soma.transport.keys import KeyPair, own_key
from soma.transport.visitors import Inbox, Letter

LONG = 10.0
BEAT = m.Heartbeat("n1", 0, 1, {}, False)
REGISTER = m.Register(b"r", "n1", 7, "p", {}, {}, {}, (), 1)
MIB = 1024 * 1024


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["SOMA_TEST_EVIL"],)


class Head:
    """A control port, and a thread that answers: joins are admitted, questions answered, everything kept in `letters`."""

    def __init__(self, state: Path, rates: Rates = RATES, handshake: float = 5.0) -> None:
        self.pair, self.node, self.driver, self.reader = (KeyPair.new() for _ in range(4))
        self.state, self.gate, self.inbox = state, Gate(state, rates), Inbox()
        self.gate.allow(self.node.public, "node", ("n1",))
        self.gate.allow(self.driver.public, "driver")
        self.gate.allow(self.reader.public, "reader")
        self.letters: list[Letter] = []
        self.server = ControlServer("tcp://127.0.0.1:0", self.pair, self.gate, self.inbox, handshake=handshake)
        self.port = int(self.server.address.rpartition(":")[2])
        self._over, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.inbox.fileno(), self._over], [], [])
            if self._over in ready:
                return
            for letter in self.inbox.take_all():
                self.letters.append(letter)
                self._answer(letter)

    def _answer(self, letter: Letter) -> None:
        msg = letter.msg
        if isinstance(msg, m.Join):
            assert letter.user is not None
            try:
                self.gate.admit(letter.user, msg)
            except SomaError as e:
                self.server.reply(letter.client, m.Refused(msg.request, type(e).__name__, str(e)))
            else:
                welcome = m.Welcome(msg.request, "c", b"p" * 32, b"s" * 32, "head", 1.0, 10.0, {})
                self.server.reply(letter.client, welcome)
        elif isinstance(msg, m.Query):
            self.server.reply(letter.client, m.Report(msg.request, "", ""), json_frames({"asked": msg.what}))

    def client(self, pair: KeyPair) -> ControlClient:
        return ControlClient(self.server.address, self.pair.public, pair)

    def delivered(self, kind: type) -> list[Letter]:
        return [x for x in self.letters if type(x.msg) is kind]

    def ask(self, client: ControlClient) -> float:
        """How long one question takes."""
        start = time.perf_counter()
        client.request(m.Query(b"q", "status", {}), LONG)
        return time.perf_counter() - start

    def settles(self, true: Callable[[dict[str, int]], bool], client: ControlClient) -> None:
        """Until the counters say so; others are served meanwhile."""
        until = time.monotonic() + LONG
        while not true(self.server.counters()):
            assert not client.poll(0.01) and time.monotonic() < until, self.server.counters()
        self.ask(client)

    def close(self) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        self.server.close()
        self.inbox.close()
        for fd in (self._over, self._wake):
            os.close(fd)


@contextlib.contextmanager
def a_head(state: Path, **options: Any) -> Iterator[tuple[Head, ControlClient]]:
    """A head, and a driver who asks it things."""
    head = Head(state, **options)
    try:
        with contextlib.closing(head.client(head.driver)) as friend:
            head.ask(friend)
            yield head, friend
    finally:
        head.close()


@pytest.fixture
def met(tmp_path: Path) -> Iterator[tuple[Head, ControlClient]]:
    """Patient with the number of messages, so that each test is about its own matter."""
    with a_head(tmp_path / "state", rates=Rates(1e6, 1e6), handshake=0.5) as both:
        yield both


@pytest.fixture
def dealer() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Makes raw sockets, with what mechanism one likes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(port: int, server: bytes | None = None, pair: KeyPair | None = None, **options: Any) -> zmq.Socket[bytes]:
        one = context.socket(zmq.DEALER)
        made.append(one)
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.SNDHWM, 0)
        if pair is not None and server is not None:
            for option, key in ((zmq.CURVE_SERVERKEY, server), (zmq.CURVE_PUBLICKEY, pair.public), (zmq.CURVE_SECRETKEY, pair.secret)):
                one.setsockopt(option, key)
        for name, value in options.items():
            one.setsockopt(getattr(zmq, name), value)
        one.connect(f"tcp://127.0.0.1:{port}")
        return one

    yield make
    for one in made:
        one.close(0)
    context.term()


class TestStrangers:
    @pytest.mark.parametrize("options", [{}, {"PLAIN_USERNAME": b"admin", "PLAIN_PASSWORD": b"admin"}], ids=["NULL", "PLAIN"])
    def test_s3_s29_without_curve_nothing_is_delivered(self, met: tuple[Head, ControlClient], dealer: Any,
                                                       options: dict[str, bytes]) -> None:
        head, friend = met
        for stranger in [dealer(head.port, **options) for _ in range(10)]:
            for _ in range(100):
                stranger.send(pack(BEAT))
        head.settles(lambda c: c["auth_rejected"] >= 3, friend)  # some hang up themselves, and are not counted
        assert head.delivered(m.Heartbeat) == []

    def test_s4_a_key_that_is_not_listed_is_turned_away(self, met: tuple[Head, ControlClient]) -> None:
        head, friend = met
        with contextlib.closing(head.client(KeyPair.new())) as stranger, pytest.raises(SecurityError, match="refuses this key"):
            stranger.request(m.Query(b"q", "status", {}), LONG)
        head.settles(lambda c: c["auth_rejected"] == 1, friend)

    @pytest.mark.parametrize("enforced", [0, 1])
    def test_s4_only_because_of_the_handler(self, dealer: Any, enforced: int) -> None:
        """Without it libzmq lets the same stranger in, so the test above is about the handler. Two more walls stand behind it:
        the port's option not to go without a handler, and that a message without a user is nobody's."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        pair = KeyPair.new()
        bare = server_socket(context, pair, 5.0)
        try:
            assert bare.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
            bare.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, enforced)
            port = bare.bind_to_random_port("tcp://127.0.0.1")
            dealer(port, pair.public, KeyPair.new()).send(pack(BEAT))
            came = bare.poll(300 if enforced else int(LONG * 1000))
            assert came == (0 if enforced else zmq.POLLIN)
            if came:
                assert sender(bare.recv_multipart(copy=False)[1:])[0] is None
        finally:
            bare.close(0)
            context.term()

    def test_s6_a_recorded_session_cannot_be_played_again(self, met: tuple[Head, ControlClient]) -> None:
        head, friend = met
        with Recorder(head.port) as recorder:
            with contextlib.closing(ControlClient(f"tcp://127.0.0.1:{recorder.port}", head.pair.public, head.node)) as victim:
                victim.request(m.Query(b"1", "status", {}), LONG)
                assert victim.send(BEAT)
                victim.request(m.Query(b"2", "status", {}), LONG)
        assert len(head.delivered(m.Heartbeat)) == 1 and len(recorder.said) > 500
        before = head.server.counters()["auth_rejected"]
        with connection(head.port) as attacker:
            attacker.sendall(bytes(recorder.said))
            assert ends(attacker)
        head.settles(lambda c: c["auth_rejected"] > before, friend)
        assert len(head.delivered(m.Heartbeat)) == 1

    def test_s7_half_open_connections_are_bounded_and_dropped(self, tmp_path: Path) -> None:
        with a_head(tmp_path / "state", rates=Rates(1e6, 1e6), handshake=1.5) as (head, friend), contextlib.ExitStack() as stack:
            base = slowest(head, friend)
            fds = len(os.listdir("/proc/self/fd"))
            for _ in range(300):
                stack.enter_context(connection(head.port))
            head.settles(lambda c: c["too_many_connections"] >= 40, friend)
            assert head.server.counters()["connections"] <= 256
            assert len(os.listdir("/proc/self/fd")) - fds <= 300 + 256
            assert slowest(head, friend) < max(2 * base, 0.05)
            head.settles(lambda c: c["connections"] == 1, friend)
            assert len(os.listdir("/proc/self/fd")) - fds <= 300

    @pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), bytes(64),
                                      b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(48) + os.urandom(500),
                                      b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x02" + struct.pack(">Q", 1 << 40),
                                      b"\xff" + bytes(8) + b"\x7f\x01\x00" + b"x" * 100],
                             ids=["HTTP", "noise", "zeros", "greeting, then noise", "greeting, then a frame of 1 TB", "ZMTP 1"])
    def test_s8_what_is_no_handshake_is_hung_up_on(self, met: tuple[Head, ControlClient], said: bytes,
                                                    caplog: pytest.LogCaptureFixture) -> None:
        head, friend = met
        for _ in range(20):
            with connection(head.port) as one:
                with contextlib.suppress(OSError):  # it hung up before all was said
                    one.sendall(said)
                assert ends(one)
        head.settles(lambda c: c["connections"] == 1, friend)
        assert len(caplog.records) <= 20

    def test_a_byte_now_and_then_keeps_nothing_open(self, met: tuple[Head, ControlClient]) -> None:
        head, friend = met
        greeting = iter(b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(48))
        with connection(head.port) as slow:
            start = time.monotonic()
            slow.settimeout(0.1)  # that is the pace: 64 bytes would take 6.4 s
            for byte in greeting:
                try:
                    slow.sendall(bytes([byte]))
                    if not slow.recv(100):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert time.monotonic() - start < 4
        head.settles(lambda c: c["connections"] == 1, friend)

    def test_s13_no_strangers_pickle_is_loaded(self, met: tuple[Head, ControlClient], dealer: Any, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
        head, friend = met
        monkeypatch.setenv("SOMA_TEST_EVIL", str(tmp_path / "evil"))
        for one in (dealer(head.port), *(dealer(head.port, head.pair.public, KeyPair.new()) for _ in range(2))):
            one.send_multipart([pack(BEAT), pickle.dumps(Evil())])
            one.send(pickle.dumps(Evil()))
        with connection(head.port) as raw:
            raw.sendall(pickle.dumps(Evil()))
        head.settles(lambda c: c["auth_rejected"] >= 2, friend)
        assert not (tmp_path / "evil").exists()


class TestMembers:
    """With a key that is listed, and more in mind than it may."""

    def test_s5_a_reader_changes_nothing(self, met: tuple[Head, ControlClient], caplog: pytest.LogCaptureFixture) -> None:
        head, _ = met
        with contextlib.closing(head.client(head.reader)) as reader, caplog.at_level(logging.WARNING, "soma.audit"):
            reader.request(m.Query(b"1", "status", {}), LONG)
            for msg in (m.Drain(b"2", "n1", 1.0, ""), REGISTER, m.Query(b"4", "network", {})):
                with pytest.raises(SecurityError, match="reader"):
                    reader.request(msg, LONG)
        assert {type(x.msg) for x in head.letters if x.user and x.user.role == "reader"} == {m.Query}
        assert [f"of {user_id(head.reader.public)}" in r.getMessage() for r in caplog.records] == [True] * 3

    def test_s14_nobody_is_who_the_message_says(self, met: tuple[Head, ControlClient], dealer: Any) -> None:
        head, friend = met
        other = KeyPair.new()
        head.gate.allow(other.public, "node", ("n2",))
        with contextlib.closing(head.client(other)) as impostor:
            impostor.request(m.Query(b"1", "status", {"user": user_id(head.driver.public)}), LONG)
            for msg in (BEAT, m.Leave("n1", 0, "")):
                assert impostor.send(msg)
                refused = impostor.recv(LONG)
                assert refused is not None and "n1" in refused[0].text
            with pytest.raises(SecurityError, match="n1"):
                impostor.request(REGISTER, LONG)
            with pytest.raises(SecurityError, match="another key"):
                impostor.request(m.Join(b"4", "node", "n1", other.public, versions()), LONG)
            with pytest.raises(SecurityError, match="only for itself"):
                impostor.request(m.Join(b"5", "node", "n2", head.node.public, versions()), LONG)
        named = dealer(head.port, head.pair.public, other, IDENTITY=user_id(head.driver.public).encode())
        named.send(pack(m.Query(b"6", "status", {})))
        assert named.poll(int(LONG * 1000))
        assert {x.user.id for x in head.letters if x.user and x.user.role == "node"} == {user_id(other.public)}
        assert head.delivered(m.Heartbeat) == head.delivered(m.Leave) == head.delivered(m.Register) == []

    def test_s9_a_frame_that_is_too_long_ends_the_connection(self, met: tuple[Head, ControlClient]) -> None:
        head, friend = met
        before = resident()
        with attacker(head, "big"):
            head.settles(lambda c: any(x.msg is None and x.user_id == user_id(head.node.public) for x in head.letters), friend)
        assert [x.frames for x in head.delivered(m.Heartbeat)] == [[]]
        assert resident() - before < 5 * MIB

    def test_s10_a_message_of_too_many_frames_is_refused_and_costs(self, tmp_path: Path) -> None:
        with a_head(tmp_path / "state") as (head, friend):
            with attacker(head, "many"):
                head.settles(lambda c: c["refused"] >= 1, friend)
            assert head.delivered(m.Heartbeat) == []
            level = head.gate._access._buckets[user_id(head.node.public)].level  # no counter says what it has left
            assert level <= RATES.burst - MALFORMED

    @pytest.mark.parametrize("frames", [[pack(BEAT)] + [b""] * PARTS, [pack(BEAT), bytes(MIB // 2), bytes(MIB // 2)]],
                             ids=["parts", "bytes"])
    def test_s10_the_bounds_are_exact(self, met: tuple[Head, ControlClient], dealer: Any, frames: list[bytes]) -> None:
        head, friend = met
        node = dealer(head.port, head.pair.public, head.node)
        node.send_multipart(frames)
        assert node.poll(int(LONG * 1000))
        assert msgpack.unpackb(node.recv())[3] == "ProtocolError"
        node.send_multipart(frames[:-1])
        head.settles(lambda c: len(head.delivered(m.Heartbeat)) == 1, friend)

    def test_s11_s12_s16_s29_headers_that_are_none(self, met: tuple[Head, ControlClient], dealer: Any, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
        head, friend = met
        monkeypatch.setenv("SOMA_TEST_EVIL", str(tmp_path / "evil"))
        node = dealer(head.port, head.pair.public, head.node)
        before = resident()
        bad = [*NO_HEADERS, *WRONG_FIELDS, *NOT_FOR_THE_HEAD, pickle.dumps(Evil()), pack(BEAT) + pickle.dumps(Evil())]
        start = time.monotonic()
        for header in bad:
            node.send_multipart([header, pickle.dumps(Evil())])
        errors = []
        for _ in bad:
            assert node.poll(int(LONG * 1000))
            version, kind, request, error, text = msgpack.unpackb(node.recv())
            assert (version, kind, request) == (1, 70, b"") and text
            errors.append(error)
        assert errors == ["ProtocolError"] * len(bad)
        assert time.monotonic() - start < 1
        assert {type(x.msg) for x in head.letters if x.user and x.user.role == "node"} == set()
        assert head.server.counters()["refused"] == len(bad)
        assert resident() - before < 5 * MIB and not (tmp_path / "evil").exists()
        node.send(msgpack.packb([0, 65, "n1", 0, 1, {}, False]))
        assert node.poll(int(LONG * 1000))
        *_, error, text = msgpack.unpackb(node.recv())
        assert error == "VersionMismatchError" and "version 0" in text and "process 1" in text

    def test_s15_a_flood_is_dropped_and_others_are_served(self, tmp_path: Path) -> None:
        rates = Rates(per_second=500, burst=1000, patience=20_000)
        with a_head(tmp_path / "state", rates=rates) as (head, friend):
            base = slowest(head, friend)
            start = time.monotonic()
            with attacker(head, "flood"):
                head.settles(lambda c: c["limited"] >= 500, friend)
                during = slowest(head, friend)
                head.settles(lambda c: c["cut"] >= 1, friend)
            took = time.monotonic() - start
            assert during < max(2 * base, 0.05)
            assert len(head.delivered(m.Heartbeat)) <= rates.burst + took * rates.per_second
            with contextlib.closing(head.client(head.node)) as again, pytest.raises(SecurityError, match="sent too much"):
                again.request(m.Query(b"q", "status", {}), LONG)

    def test_f24_another_python_or_protocol_is_refused(self, met: tuple[Head, ControlClient]) -> None:
        head, _ = met
        token = create_token(head.state, head.pair.public, "node", time.time() + 60, 1)
        with contextlib.closing(head.client(token.pair())) as joiner:
            for said, changes in (("Python 3.99.1", {"python": "3.99.1"}), ("protocol 7", {"protocol": 7})):
                with pytest.raises(VersionMismatchError, match=f"the head runs .*{said}"):
                    joiner.request(m.Join(b"1", "node", "n5", KeyPair.new().public, {**versions(), **changes}), LONG)
            with pytest.raises(SecurityError, match="not for the holder of a join token"):
                joiner.request(m.Query(b"2", "status", {}), LONG)
            assert isinstance(joiner.request(m.Join(b"3", "node", "n5", KeyPair.new().public, versions()), LONG)[0], m.Welcome)
            with pytest.raises(SecurityError, match="as many as it may"):
                joiner.request(m.Join(b"4", "node", "n6", KeyPair.new().public, versions()), LONG)

    def test_who_is_revoked_is_refused_at_once(self, met: tuple[Head, ControlClient]) -> None:
        from soma.daemon.gate import revoke

        head, _ = met
        with contextlib.closing(head.client(head.node)) as node:
            node.request(m.Query(b"1", "status", {}), LONG)
            revoke(head.state, user_id(head.node.public))
            with pytest.raises(SecurityError, match="not on the head's list"):
                node.request(m.Query(b"2", "status", {}), LONG)

    def test_s26_no_secret_in_sight(self, met: tuple[Head, ControlClient], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        head, _ = met
        caplog.set_level(logging.DEBUG)
        pair = own_key("node", tmp_path / "keys")
        token = create_token(head.state, head.pair.public, "node", time.time() + 60, 1)
        with contextlib.closing(head.client(pair)) as stranger, pytest.raises(SecurityError) as caught:
            stranger.request(m.Query(b"1", "status", {}), LONG)
        seen = " ".join([str(caught.value), caplog.text, repr(head.letters), *sys.argv, *os.environ.values(),
                         (head.state / "access.json").read_text()])
        for secret in (pair.secret, token.seed, token.pair().secret, head.pair.secret):
            assert secret.hex() not in seen and repr(secret)[2:-1] not in seen


def changed(msg: Any, **fields: Any) -> bytes:
    """The header of a good message with one thing in it that is not."""
    made = {f.name: getattr(msg, f.name) for f in dataclasses.fields(msg)}
    assert fields.keys() <= made.keys()
    return bytes(msgpack.packb([1, type(msg).kind, *{**made, **fields}.values()]))


JOIN = m.Join(b"r", "node", "n1", b"k" * 32, versions())
DRAIN = m.Drain(b"r", "n1", 1.0, "")
QUERY = m.Query(b"q", "status", {})
GOOD = pack(BEAT)
NAN = float("nan")

NO_HEADERS = [
    b"", b"\xc1", b"\x80", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 60_000, b"\x94\x01\x41" + b"\x91" * 100_000,
    b"\xdc\xea\x00" + b"\x80" * 59_904, b"\x80" * 1_000_000, GOOD + b"\x00", GOOD[:-1], b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00",
    GOOD.replace(b"\x80", b"\x82\xa1a\x01\xa1a\x02"), GOOD.replace(b"\xa2n1", b"\xa2\xff\xfe"), GOOD.replace(b"\x80", b"\x81\x01\x02"),
    changed(BEAT)[:1] + b"\x01\xcd\x03\xe7" + GOOD[3:], changed(REGISTER, node_id="n" * 1_000_000), changed(BEAT, load={"": "x" * 70_000})]
"""Refused before there is a message."""

WRONG_FIELDS = [
    *(changed(BEAT, load=load) for load in ({"load_1m": NAN}, {"load_1m": float("inf")}, {"load_1m": -0.0}, {"load_1m": -1.0},
                                           {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}, {"x" * 300: 1}, {"a\n": 1}, {"a": b"1"}, [])),
    *(changed(BEAT, incarnation=n) for n in (-1, 1 << 32, True, 1.0, None)),
    *(changed(BEAT, node_id=name) for name in ("../etc", "n" * 65, "", "a b", "n\0", b"n1", None)),
    *(changed(QUERY, **q) for q in ({"request": b"q" * 33}, {"request": "q"}, {"what": "s\0"}, {"what": "s" * 257}, {"args": {"x": NAN}},
                                    {"args": {"x": "x" * 20_000}}, {"args": {"x": 1 << 63}})),
    *(changed(REGISTER, totals=t) for t in ({"CPU": 10**9}, {"memory": -1}, {"memory": 1 << 60}, {"GPU": 5000}, {"CPU": "4"}, {"CPU": True},
                                            {"CPU": NAN}, {f"r{i}": 1 for i in range(65)}, {"x": 1e13}, {"CPU": None})),
    *(changed(REGISTER, capabilities=c) for c in ({"cpu_cores": 10**9}, {"ram_bytes": -5}, {"name": "x" * 1025},
                                                  {"gpus": [{"memory_bytes": 1 << 62}]}, {"x": list(range(2000)), "y": list(range(60))})),
    *(changed(REGISTER, actors=actors) for actors in ([["p"]], [["../x", 1]], [["p", -1]], [["p", 1, 1]], ["p"], {})),
    *(changed(JOIN, **j) for j in ({"public_key": b"k" * 31}, {"versions": {"protocol": 1}}, {"versions": {**versions(), "python": "3\n"}},
                                   {"versions": {**versions(), "protocol": "1"}}, {"role": 5})),
    *(changed(DRAIN, **d) for d in ({"grace": NAN}, {"grace": -1.0}, {"grace": 1e12}, {"reason": "x" * 20_000}))]
"""Refused for what is in one field."""

NOT_FOR_THE_HEAD = [pack(m.Ask(b"q", "p", "status")), pack(m.Report(b"q", "", "")), pack(m.Refused(b"q", "", "")), pack(m.Stop(""))]


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def slowest(head: Head, client: ControlClient) -> float:
    """The 99th percentile of 200 questions, in seconds."""
    return sorted(head.ask(client) for _ in range(200))[197]


def connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=LONG)


def ends(one: socket.socket) -> bool:
    """Whether the other side hangs up; reads what it says before."""
    try:
        while one.recv(65536):
            pass
    except ConnectionError:
        return True
    return True  # a TimeoutError is none of those


class Recorder:
    """Sits between a client and a port, and keeps what the client said."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port, self._there = self._listener.getsockname()[1], port
        self.said = bytearray()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        with client, connection(self._there) as server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is client:
                        self.said += data
                    (server if ready is client else client).sendall(data)


ATTACK = """
import sys, zmq
what, port, *keys = sys.stdin.readline().split()
d = zmq.Context().socket(zmq.DEALER)
d.LINGER, d.SNDHWM = 0, 1000
d.CURVE_SERVERKEY, d.CURVE_PUBLICKEY, d.CURVE_SECRETKEY = map(bytes.fromhex, keys)
d.connect("tcp://127.0.0.1:" + port)
beat = bytes.fromhex(sys.stdin.readline())
if what == "big":
    d.send(beat)
    d.send_multipart([beat, bytes(64 * 1024 * 1024)])
elif what == "many":
    d.send_multipart([beat] + [bytes(900)] * 20_000)
while what == "flood":
    try:
        d.send(beat, zmq.NOBLOCK)
    except zmq.Again:
        d.poll(1, zmq.POLLOUT)
sys.stdin.read()
"""


@contextlib.contextmanager
def attacker(head: Head, what: str) -> Iterator[None]:
    """A process that holds the node's key."""
    with subprocess.Popen([sys.executable, "-c", ATTACK], stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        keys = " ".join(k.hex() for k in (head.pair.public, head.node.public, head.node.secret))
        process.stdin.write(f"{what} {head.port} {keys}\n{pack(BEAT).hex()}\n")
        process.stdin.flush()
        try:
            yield
        finally:
            process.kill()


def test_bombs_are_refused_for_what_they_are_meant_to() -> None:
    """Apart from the port: before there is a message, or for one field; and quickly."""
    for good in (BEAT, QUERY, REGISTER, JOIN, DRAIN):
        assert unpack(changed(good)) == good
    start = time.perf_counter()
    for bomb in NO_HEADERS:
        with pytest.raises(ProtocolError) as caught:
            unpack(bomb)
        assert "may not" not in str(caught.value)
    for bomb in WRONG_FIELDS:
        with pytest.raises(ProtocolError, match=r"^\w+\.\w+ (holds what it may not|is a \w+)$"):
            unpack(bomb)
    assert time.perf_counter() - start < 0.005 * len(NO_HEADERS + WRONG_FIELDS)
