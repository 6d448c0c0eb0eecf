"""The control port and its client: what arrives, what is answered, and what a failure says. Attacks are in tests/process."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from soma.daemon.gate import Gate, create_token
from soma.errors import ClusterError, ProtocolError, SecurityError, VersionMismatchError
from soma.transport import messages as m
from soma.transport.control import COUNTED, FRAME_BYTES, PARTS, ControlServer
from soma.transport.control_client import ControlClient, Link, json_frames, json_value
from soma.transport.frames import pack, unpack
from soma.transport.keys import KeyPair
from soma.transport.visitors import Inbox, Letter, Refusal, User, Verdict

LONG = 10.0
SHORT = 0.3
ASK = m.Query(b"q", "status", {})


class Open:
    """A gate for keys that were told to it; it refuses Shutdown."""

    def __init__(self, *known: KeyPair) -> None:
        self.known = {p.public for p in known}

    def enter(self, public: bytes, address: str) -> str | None:
        assert address in ("127.0.0.1", "::1")
        return public.hex()[:32] if public in self.known else None

    def spend(self, user_id: str, cost: int) -> Verdict:
        return Verdict.PASS

    def judge(self, user_id: str, msg: Any) -> User | Refusal:
        return Refusal("not you") if isinstance(msg, m.Shutdown) else User(user_id, "driver")

    def note(self, user_id: str, why: str) -> None:
        assert why


class Port:
    """A server whose head is the test itself."""

    def __init__(self, limit: int = 1000, address: str = "tcp://127.0.0.1:0", **options: Any) -> None:
        self.head, self.mine, self.other = (KeyPair.new() for _ in range(3))
        self.inbox, self.gate = Inbox(limit), Open(self.mine, self.other)
        self._clients: list[ControlClient] = []
        try:
            self.server = ControlServer(address, self.head, self.gate, self.inbox, **options)
        except BaseException:
            self.inbox.close()
            raise

    def client(self, pair: KeyPair | None = None, server: bytes | None = None) -> ControlClient:
        made = ControlClient(self.server.address, server or self.head.public, pair or self.mine)
        self._clients.append(made)
        return made

    def letters(self, count: int, true: Callable[[Letter], bool] = lambda letter: letter.msg is not None) -> list[Letter]:
        """The next `count` of them."""
        got: list[Letter] = []
        while len(got) < count:
            assert select.select([self.inbox.fileno()], [], [], LONG)[0], got
            got += [x for x in self.inbox.take_all() if true(x)]
        return got

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.close()
        self.inbox.close()


@pytest.fixture
def port() -> Iterator[Port]:
    with contextlib.closing(Port()) as made:
        yield made


def sends(client: ControlClient, msg: Any, frames: list[bytes] | None = None) -> None:
    """As soon as there is a connection."""
    until = time.monotonic() + LONG
    while not client.send(msg, frames or ()):
        assert time.monotonic() < until
        client.poll(0.01)


def beat(seq: int) -> m.Heartbeat:
    return m.Heartbeat("n1", 0, seq, {}, False)


class TestTalk:
    def test_a_message_and_its_frames_arrive_with_their_sender(self, port: Port) -> None:
        sends(port.client(), ASK, [b"one", b"", b"x" * 100_000])
        [letter] = port.letters(1)
        assert (letter.msg, letter.frames) == (ASK, [b"one", b"", b"x" * 100_000])
        assert letter.user == User(port.mine.public.hex()[:32], "driver") and letter.user_id == letter.user.id

    def test_answers_go_to_who_asked(self, port: Port) -> None:
        one, two = port.client(), port.client(port.other)
        sends(one, ASK)
        [first] = port.letters(1)
        sends(two, ASK)
        [second] = port.letters(1)
        port.server.reply(second.client, m.Report(b"q", "", ""), [b"two"])
        port.server.reply(first.client, m.Report(b"q", "", ""), [b"one"])
        assert one.recv(LONG) == (m.Report(b"q", "", ""), [b"one"])
        assert two.recv(LONG) == (m.Report(b"q", "", ""), [b"two"])

    def test_messages_of_one_client_keep_their_order(self, port: Port) -> None:
        client = port.client()
        for seq in range(300):
            sends(client, beat(seq))
        assert [x.msg.seq for x in port.letters(300)] == list(range(300))

    def test_what_is_for_others_waits_for_them(self, port: Port) -> None:
        client = port.client()
        sends(client, ASK)
        [letter] = port.letters(1)
        for msg in (m.Beat(1, 0), m.Report(b"x", "", ""), m.Beat(2, 0), m.Report(b"y", "", ""), m.Beat(3, 0)):
            port.server.reply(letter.client, msg)
        assert client.request(m.Query(b"y", "status", {}), LONG)[0] == m.Report(b"y", "", "")
        got = [client.recv(LONG) for _ in range(3)]
        assert got == [(m.Beat(1, 0), []), (m.Report(b"x", "", ""), []), (m.Beat(2, 0), [])]
        assert client.recv(LONG) == (m.Beat(3, 0), []) and client.recv(0) is None

    def test_a_long_answer_comes_in_pieces(self, port: Port) -> None:
        client, value = port.client(), {"lines": ["ü" * 1000] * 2000}
        sends(client, ASK)
        [letter] = port.letters(1)
        frames = json_frames(value)
        assert len(frames) > 1
        port.server.reply(letter.client, m.Report(b"q", "", ""), frames)
        got = client.recv(LONG)
        assert got is not None and json_value(got[1]) == value
        with pytest.raises(ProtocolError, match="at most"):
            json_frames("x" * (PARTS * FRAME_BYTES))
        with pytest.raises(ProtocolError, match="JSON"):
            json_value([b"{"])

    def test_the_ends_of_connections_are_told(self, port: Port) -> None:
        one, two = port.client(), port.client(port.other)
        for client in (one, two):
            sends(client, ASK)
        letters = {x.user_id: x.client for x in port.letters(2)}
        two.close()
        [gone] = port.letters(1, lambda letter: letter.msg is None)
        assert (gone.user_id, gone.client) == (port.other.public.hex()[:32], letters[port.other.public.hex()[:32]])
        one.close()
        [gone] = port.letters(1, lambda letter: letter.msg is None)
        assert gone.client == letters[port.mine.public.hex()[:32]]

    def test_what_does_not_fit_is_dropped_and_counted(self) -> None:
        with contextlib.closing(Port(limit=5)) as port:
            client = port.client()
            for seq in range(50):
                sends(client, beat(seq))
            sends(client, m.Shutdown("asked last, answered last"))
            assert client.recv(LONG) is not None
            assert [x.msg.seq for x in port.inbox.take_all()] == list(range(5))
            assert port.server.counters()["dropped"] == 45

    def test_an_answer_to_who_is_gone_is_counted(self, port: Port) -> None:
        client = port.client()
        port.server.reply(b"nobody", m.Beat(1, 0))
        sends(client, m.Shutdown(""))
        assert client.recv(LONG) is not None
        assert port.server.counters() == {**dict.fromkeys(COUNTED, 0), "undelivered": 1, "refused": 1, "connections": 1}

    def test_a_client_can_be_waited_for_with_others(self, port: Port) -> None:
        client = port.client()
        sends(client, ASK)
        [letter] = port.letters(1)
        assert client.recv(0) is None
        port.server.reply(letter.client, m.Beat(7, 0))
        until, got = time.monotonic() + LONG, None
        while got is None and time.monotonic() < until:
            select.select([client.fileno()], [], [], 1.0)
            got = client.recv(0)
        assert got == (m.Beat(7, 0), [])

    def test_a_client_finds_the_head_that_comes_later_and_again(self) -> None:
        with contextlib.closing(Port()) as first:
            address = first.server.address
            client = first.client()
            sends(client, ASK)
            first.letters(1)
            assert client.link is Link.OPEN
            first.server.close()
            while client.link is Link.OPEN:
                client.poll(0.01)
            assert client.send(ASK) is False
            again = Port(address=address)
            try:
                again.server.close()  # another head, with another key, is not the one that was asked for
                again.server = ControlServer(address, first.head, first.gate, again.inbox)
                sends(client, ASK)
                assert again.letters(1)[0].user_id == first.mine.public.hex()[:32]
            finally:
                client.close()
                again.close()

    def test_what_was_said_before_the_end_is_heard(self, port: Port) -> None:
        client = port.client()
        sends(client, ASK)
        [letter] = port.letters(1)
        port.server.reply(letter.client, m.Shutdown("the end"))
        port.server.close()
        assert client.recv(LONG) == (m.Shutdown("the end"), [])

    def test_a_mistake_in_the_ports_thread_reaches_the_head(self, port: Port) -> None:
        def judge(user_id: str, msg: Any) -> User | Refusal:
            raise OSError("the list of keys is gone")

        port.gate.judge = judge  # type: ignore[method-assign]
        sends(port.client(), ASK)
        assert select.select([port.inbox.fileno()], [], [], LONG)[0]
        with pytest.raises(OSError, match="the list of keys is gone"):
            port.inbox.take_all()

    def test_closing_twice_and_leaving_nothing(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        port = Port()
        client = port.client()
        sends(client, ASK)
        for _ in range(2):
            client.close()
            port.server.close()
        port.close()
        assert len(os.listdir("/proc/self/fd")) == before


class TestFailures:
    def test_nobody_is_there(self) -> None:
        with socket.socket() as bound:  # bound, but it does not listen
            bound.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
            with contextlib.closing(ControlClient(address, b"k" * 32, KeyPair.new())) as client:
                with pytest.raises(ClusterError, match=rf"asked the head at {address} for Query: nothing answers there.*firewall") as e:
                    client.request(ASK, SHORT)
                assert not isinstance(e.value, SecurityError) and client.link is Link.CONNECTING

    def test_something_else_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            with contextlib.closing(ControlClient(address, b"k" * 32, KeyPair.new())) as client:
                with pytest.raises(ClusterError, match="says nothing that a head says.*another service"):
                    client.request(ASK, SHORT)
                assert client.link is Link.REACHED

    def test_another_head_is_there(self, port: Port) -> None:
        client = port.client(server=KeyPair.new().public)
        with pytest.raises(SecurityError, match="not as the head whose key was given.*ask for a token"):
            client.request(ASK, SHORT)
        assert client.link is Link.STRANGE

    def test_the_head_does_not_know_us(self, port: Port) -> None:
        client = port.client(KeyPair.new())
        start = time.monotonic()
        with pytest.raises(SecurityError, match="refuses this key.*soma keys allow"):
            client.request(ASK, LONG)
        assert client.link is Link.REFUSED and time.monotonic() - start < LONG / 2
        for act in (lambda: client.recv(LONG), lambda: client.request(ASK, LONG)):
            with pytest.raises(SecurityError, match="refuses this key"):
                act()

    def test_the_head_does_not_answer(self, port: Port) -> None:
        client = port.client()
        with pytest.raises(ClusterError, match="asked the head at .* for Query; there was no answer within 0.3 s"):
            client.request(ASK, SHORT)
        assert client.link is Link.OPEN

    @pytest.mark.parametrize(("name", "kind", "text"), [
        ("SecurityError", SecurityError, "why"), ("VersionMismatchError", VersionMismatchError, "why"),
        ("ClusterError", ClusterError, "why"), ("KeyError", ClusterError, "KeyError: why"),
        ("ActorDiedError", ClusterError, "ActorDiedError: why"), ("annotations", ClusterError, "annotations: why"),
        ("", None, ""), ("__builtins__", ClusterError, "__builtins__: why")])
    def test_what_the_head_says_is_raised(self, port: Port, name: str, kind: type[Exception] | None, text: str) -> None:
        client = port.client()
        sends(client, ASK)
        [letter] = port.letters(1)
        port.server.reply(letter.client, m.Report(b"q", name, "why"))
        if kind is None:
            assert client.request(ASK, LONG) == (m.Report(b"q", "", "why"), [])
            return
        with pytest.raises(kind) as caught:
            client.request(ASK, LONG)
        assert type(caught.value) is kind and str(caught.value) == text

    def test_a_refusal_answers_its_request(self, port: Port) -> None:
        client = port.client()
        sends(client, m.Shutdown("no"))
        refused = client.recv(LONG)
        assert refused == (m.Refused(b"", "SecurityError", "not you"), [])

    def test_what_the_head_could_not_read_fails_the_request_that_waits(self, port: Port) -> None:
        client = port.client()
        with pytest.raises(ProtocolError, match="Beat is not for the head"):
            sends(client, m.Beat(1, 0))
            client.request(ASK, LONG)

    def test_what_is_not_for_a_member_is_refused(self, port: Port) -> None:
        client = port.client()
        sends(client, ASK)
        [letter] = port.letters(1)
        port.server.reply(letter.client, ASK)
        with pytest.raises(ProtocolError, match="Query is not for a member"):
            client.recv(LONG)

    @pytest.mark.parametrize("address", ["tcp://*:0", "tcp://0.0.0.0:0", "tcp://[::]:0", "udp://127.0.0.1:1", "ipc://relative"])
    def test_addresses_that_are_refused(self, address: str) -> None:
        with pytest.raises(SecurityError):
            Port(address=address)
        with pytest.raises(SecurityError):
            ControlClient(address, b"k" * 32, KeyPair.new())

    def test_a_port_that_is_taken(self, port: Port) -> None:
        with pytest.raises(ClusterError, match="cannot listen at .*; is another head running there"):
            Port(address=port.server.address)

    def test_an_address_that_is_none(self) -> None:
        for address in ("tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://::1:80", "tcp://127.0.0.1:99999"):
            with pytest.raises(ClusterError, match=address):
                ControlClient(address, b"k" * 32, KeyPair.new())

    def test_another_version_of_ip(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("there is no ::1 here")
        with contextlib.closing(Port(address="tcp://[::1]:0")) as port:
            sends(port.client(), ASK)
            assert port.letters(1)[0].msg == ASK


class TestConnections:
    def test_one_too_many_is_hung_up_on(self) -> None:
        with contextlib.closing(Port(connections=2)) as port:
            one, two = port.client(), port.client(port.other)
            for client in (one, two):
                sends(client, ASK)
            port.letters(2)
            with socket.create_connection(("127.0.0.1", int(port.server.address.rpartition(":")[2])), timeout=LONG) as third:
                while third.recv(100):
                    continue
            for client in (one, two):
                sends(client, ASK)
            port.letters(2)
            assert port.server.counters()["too_many_connections"] == 1

    def test_nothing_else_is_cut(self, port: Port) -> None:
        """A number that is no connection of this port is left alone, whatever it is."""
        client = port.client()
        sends(client, ASK)
        port.letters(1)
        cut = port.server._connections.cut
        pair, other = socket.socketpair()
        with pair, other, socket.create_server(("127.0.0.1", 0)) as listener, open(os.devnull) as file:
            with socket.create_connection(listener.getsockname()) as elsewhere:
                numbers = [pair.fileno(), listener.fileno(), elsewhere.fileno(), file.fileno(), -1, 10_000_000]
                assert [cut(n) for n in numbers] == [False] * 6
        listening = [n for n in map(int, os.listdir("/proc/self/fd")) if listens_at(n, port.server.address)]
        assert listening and [cut(n) for n in listening] == [False] * len(listening)
        sends(client, ASK)
        port.letters(1)


def listens_at(fd: int, address: str) -> bool:
    try:
        copy = os.dup(fd)
    except OSError:
        return False  # the descriptor of the listing itself
    try:
        one = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return False
    with one:
        listens = one.family == socket.AF_INET and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and address.endswith(f":{one.getsockname()[1]}")


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
numbers = st.integers(0, 1000) | st.floats(0.25, 1000)
naturals = st.integers(0, 2**32 - 1)
totals = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "license", "ü"]), numbers)
facts = st.dictionaries(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
                        st.none() | st.booleans() | numbers | st.text(max_size=50) | st.lists(numbers, max_size=5).map(tuple))


@given(st.one_of(
    st.builds(m.Register, st.binary(max_size=32), names, naturals, names, facts, totals, facts,
              st.lists(st.tuples(names, naturals), max_size=10).map(tuple), naturals),
    st.builds(m.Heartbeat, names, naturals, naturals, facts, st.booleans()),
    st.builds(m.Drain, st.binary(max_size=32), names, numbers, st.text(max_size=100)),
    st.builds(m.Query, st.binary(max_size=32), names, facts)))
def test_what_is_in_bounds_travels(msg: Any) -> None:
    assert unpack(pack(msg)) == msg


def test_what_a_machine_says_of_itself_is_in_bounds() -> None:
    """Not only what tests make up."""
    from soma.actors.load import load
    from soma.daemon.capabilities import Gpu, detect

    found = detect(tags=("a", "b")).as_dict()
    gpu = {name: getattr(Gpu(7, "NVIDIA H200", "GPU-0", 150 * 2**30), name) for name in Gpu.__slots__}
    for capabilities in (found, {**found, "gpus": (gpu,) * 16}):
        msg = m.Register(b"r", "n1", 0, "p", capabilities, {"CPU": 96.0, "memory": 2.0**41}, {}, (), 1)
        assert unpack(pack(msg)) == msg
    msg = m.Heartbeat("n1", 0, 1, load(), False)
    assert unpack(pack(msg)) == msg


def test_the_protocol_page_is_enough_to_join(tmp_path: Path) -> None:
    """With ZeroMQ, msgpack and BLAKE3, and a token's text; nothing else of soma."""
    gate, head, inbox = Gate(tmp_path / "state"), KeyPair.new(), Inbox()
    with contextlib.closing(inbox), contextlib.closing(ControlServer("tcp://127.0.0.1:0", head, gate, inbox)) as server:
        text = create_token(tmp_path / "state", head.public, "driver", time.time() + 60, 1).text()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        try:
            _, head_key, seed = text.split(".")
            secret = blake3(bytes.fromhex(seed), derive_key_context="soma join token 2026-11 CURVE secret").digest()
            dealer.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(head_key))
            dealer.setsockopt(zmq.CURVE_SECRETKEY, secret)
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(z85.encode(secret)))
            dealer.connect(server.address)
            versions = {"protocol": 1, "soma": "0.1.0", "python": "3.11.7"}
            dealer.send(msgpack.packb([1, 60, b"r1", "driver", None, b"k" * 32, versions]))
            assert select.select([inbox.fileno()], [], [], LONG)[0]
            [letter] = inbox.take_all()
            assert letter.msg == m.Join(b"r1", "driver", None, b"k" * 32, versions)
            server.reply(letter.client, m.Welcome(b"r1", "c", b"p" * 32, b"s" * 32, "head", 1.0, 10.0, {}))
            assert dealer.poll(int(LONG * 1000))
            assert msgpack.unpackb(dealer.recv()) == [1, 61, b"r1", "c", b"p" * 32, b"s" * 32, "head", 1.0, 10.0, {}]
        finally:
            dealer.close(0)
            context.term()
