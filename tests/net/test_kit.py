"""The kit itself: hosts that reach each other until they do not, and a proxy that does what it is told, against plain sockets."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hosts as network
import pytest
from console import Console, Raised
from faultpipe import Faults
from faultproxy import FaultProxy

pytestmark = pytest.mark.crash

SERVER = """
import selectors, socket
LISTENER = socket.create_server(("", 7000))
def accept():
    global peer
    peer = LISTENER.accept()[0]
def read():
    return peer.recv(100).decode()
def try_read(seconds):
    peer.settimeout(seconds)
    try:
        return read()
    except TimeoutError:
        return None
"""
CLIENT = """
import socket
def connect(address, seconds=5):
    global peer
    peer = socket.create_connection((address, 7000), seconds)
"""


def connected(server: network.Host, client: network.Host) -> tuple[Console, Console]:
    listens, connects = Console(server, SERVER), Console(client, CLIENT)
    listens.ask("1")
    connects.ask(f"connect({server.address!r})")
    listens.ask("accept()")
    return listens, connects


def test_hosts_reach_each_other(hosts: network.Hosts) -> None:
    listens, connects = connected(hosts[0], hosts[2])
    received = hosts[0].traffic()[0]
    connects.ask("peer.sendall(b'x' * 1000)")
    assert listens.ask("read()") == "x" * 100
    assert hosts[0].traffic()[0] - received >= 1000
    with pytest.raises(Raised, match="refused"):
        connects.ask(f"connect({hosts[1].address!r})")
    assert hosts[0].address.rpartition(".")[0] not in subprocess.check_output(["ip", "route"], text=True), "none of our own network"
    assert {p.pid for p in (listens, connects)} == {pid for h in hosts for pid in h.pids()}, "each is the process that was asked for"


def test_a_pulled_cable(hosts: network.Hosts) -> None:
    listens, connects = connected(hosts[0], hosts[1])
    hosts[1].link_down()
    connects.ask("peer.sendall(b'late')")
    assert listens.ask("try_read(0.3)") is None
    hosts[1].link_up()
    assert listens.ask("try_read(10)") == "late", "the connection lives on"


def test_a_partition_one_way(hosts: network.Hosts) -> None:
    listens, connects = connected(hosts[0], hosts[1])
    hosts.partition(hosts[0], hosts[1], one_way=True)
    connects.ask("peer.sendall(b'heard')")
    assert listens.ask("try_read(5)") == "heard"
    listens.ask("peer.sendall(b'unheard')")
    with pytest.raises(Raised, match="TimeoutError"):
        connects.ask("peer.settimeout(0.3), peer.recv(100)")
    with pytest.raises(Raised, match="TimeoutError"):
        connects.ask(f"socket.create_connection(({hosts[0].address!r}, 7000), 0.3)")
    third = Console(hosts[2], CLIENT)
    third.ask(f"connect({hosts[0].address!r})")  # of no concern to others
    hosts.heal(hosts[0], hosts[1])
    hosts.heal(hosts[0], hosts[2])
    assert connects.ask("peer.settimeout(10), peer.recv(100).decode()")[1] == "unheard"
    hosts.partition(hosts[0], hosts[1])
    with pytest.raises(Raised, match="TimeoutError"):
        connects.ask(f"socket.create_connection(({hosts[0].address!r}, 7000), 0.3)")


def test_what_runs_on_a_host_ends_with_it(tmp_path: Path) -> None:
    if why := network.missing():
        pytest.skip(f"no hosts on this machine: {why}")
    with network.hosts(1) as made:
        host = made[0]
        host.sysctl("net.ipv4.tcp_retries2", 5)
        assert host.call(["cat", "/proc/sys/net/ipv4/tcp_retries2"]) == (0, "5\n")
        assert Path("/proc/sys/net/ipv4/tcp_retries2").read_text() != "5\n"
        assert len(host.env["XDG_RUNTIME_DIR"]) < 25 and host.env["HOME"] != os.environ["HOME"]
        orphan = "import os, signal; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); signal.pause()"
        assert host.run([sys.executable, "-c", orphan]).wait(10) == 0
        assert host.call(["echo", "hello"]) == (0, "hello\n")
        pids = host.pids()
        assert len(pids) == 1 and made.traces()
        with pytest.raises(AssertionError, match="signal.pause"):
            made.wait_until_nothing_is_left(0.2)
        folder = host.folder
    assert network.still_alive(pids, 0) == []
    assert not host.namespace.exists() and not folder.exists()


def test_what_a_killed_run_left_is_removed() -> None:
    if why := network.missing():
        pytest.skip(f"no hosts on this machine: {why}")
    source = (f"import sys; sys.path.insert(0, {os.path.dirname(network.__file__)!r}); import hosts, signal\n"
              "with hosts.hosts(1) as made:\n    made[0].run(['sleep', '60'])\n    while not made[0].pids(): pass\n"
              "    print(made[0].name, flush=True)\n    signal.pause()")
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        name = killed.stdout.readline().strip()
        killed.kill()
    inside = network.inside(name)
    assert inside
    assert name in network.sweep()
    assert network.still_alive(inside, 2) == [] and not (network.RUN / name).exists()
    assert not [left for left in os.listdir("/tmp") if network.orphaned(left, "sn")]


# -- the proxy ----------------------------------------------------------------------------------------------------------


@contextmanager
def through(seed: int = 0) -> Iterator[tuple[FaultProxy, socket.socket, socket.socket]]:
    """A proxy, a client, and the server's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with FaultProxy(listener.getsockname(), seed=seed) as proxy:
            with socket.create_connection(proxy.address, 5) as client:
                server = listener.accept()[0]
                with server:
                    server.settimeout(5)
                    yield proxy, client, server


def exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data


def sent_from_elsewhere(peer: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=peer.sendall, args=(data,))
    thread.start()
    return thread


def test_bytes_arrive_as_they_left_both_ways() -> None:
    data = random.Random(1).randbytes(3_000_000)
    with through() as (proxy, client, server):
        for a, b in ((client, server), (server, client)):
            sending = sent_from_elsewhere(a, data)
            assert exactly(b, len(data)) == data
            sending.join()
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.sendall(b"last word")
        server.close()
        assert exactly(client, 100) == b"last word"


def test_late_in_order_and_changed_while_running() -> None:
    with through() as (proxy, client, server):
        proxy.set(Faults(latency=0.2, jitter=0.1), "forward")
        began = time.monotonic()
        for n in range(20):
            client.sendall(bytes([n]))
        assert exactly(server, 20) == bytes(range(20))
        assert 0.2 <= time.monotonic() - began < 1.0
        server.sendall(b"x")
        began = time.monotonic()
        assert client.recv(1) == b"x" and time.monotonic() - began < 0.1, "the other direction is not late"
        proxy.set(Faults())
        client.sendall(b"y")
        began = time.monotonic()
        assert server.recv(1) == b"y" and time.monotonic() - began < 0.1


def test_a_slow_link() -> None:
    with through() as (proxy, client, server):
        proxy.set(Faults(rate=200_000))
        began = time.monotonic()
        client.sendall(bytes(100_000))
        assert len(exactly(server, 100_000)) == 100_000
        assert 0.45 < time.monotonic() - began < 1.5


def test_one_byte_at_a_time() -> None:
    data = random.Random(2).randbytes(3000)
    with through() as (proxy, client, server):
        proxy.set(Faults(slices=1, rate=20_000))
        client.sendall(data)
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < len(data):
            pieces.append(server.recv(1 << 16))
        assert b"".join(pieces) == data


def test_a_stall_in_one_direction_and_half_open() -> None:
    with through() as (proxy, client, server):
        proxy.set(Faults(stalled=True), "forward")
        client.sendall(b"held")
        server.sendall(b"passes")
        assert exactly(client, 6) == b"passes"
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(1)
        proxy.set(Faults(), "forward")
        server.settimeout(5)
        assert exactly(server, 4) == b"held"
        proxy.set(Faults(stalled=True))
        client.close()  # nobody hears of it
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(1)
        assert proxy.connections() == 1
        proxy.set(Faults())
        server.settimeout(5)
        assert server.recv(1) == b""


def test_who_does_not_read_holds_up_who_sends() -> None:
    with through() as (proxy, client, server):
        proxy.set(Faults(stalled=True))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(50_000_000))


def test_reset_and_refused() -> None:
    with through() as (proxy, client, server):
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert proxy.reset_all() == 1
        for end in (client, server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        proxy.accept(False)
        with pytest.raises(ConnectionResetError), socket.create_connection(proxy.address, 5) as second:
            second.recv(1)
        assert proxy.connections() == 0


def test_cut_after_so_many_bytes() -> None:
    with through() as (proxy, client, server):
        proxy.set(Faults(cut_after=1000), "forward")
        client.sendall(bytes(5000))
        received = b""
        with pytest.raises(ConnectionResetError):
            while True:
                received += server.recv(1 << 16)
        assert len(received) <= 1000  # a reset may overtake what is not read yet
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def damaged(seed: int, pieces: list[bytes]) -> bytes:
    with through(seed=seed) as (proxy, client, server):
        proxy.set(Faults(flip=0.001), "forward")
        got = b""
        for piece in pieces:
            client.sendall(piece)
            got += exactly(server, len(piece))
        return got


def test_bits_are_turned_by_the_seed_alone() -> None:
    data = random.Random(3).randbytes(100_000)
    one = damaged(7, [data])
    turned = [a ^ b for a, b in zip(data, one, strict=True) if a != b]
    assert 50 < len(turned) < 200 and all(bits.bit_count() == 1 for bits in turned)
    assert damaged(7, [data[:10], data[10:5000], data[5000:]]) == one
    assert damaged(8, [data]) != one


def test_nobody_behind_the_proxy_and_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    with FaultProxy(nobody) as proxy:
        with pytest.raises(ConnectionResetError), socket.create_connection(proxy.address, 5) as client:
            client.recv(1)
        with pytest.raises(OSError, match="in use"), FaultProxy(nobody, port=proxy.address[1]):
            pass


def test_a_proxy_on_a_host(hosts: network.Hosts) -> None:
    listens, connects = Console(hosts[0], SERVER), Console(hosts[2], CLIENT)
    listens.ask("1")
    with FaultProxy((hosts[0].address, 7000), host=hosts[1].address, port=7000, namespace=hosts[1].namespace):
        connects.ask(f"connect({hosts[1].address!r})")
        listens.ask("accept()")
        connects.ask("peer.sendall(b'by way of the second')")
        assert listens.ask("read()") == "by way of the second"


def test_an_end_by_reset_is_passed_on() -> None:
    with through() as (proxy, client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
