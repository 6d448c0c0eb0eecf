"""docs/protocol.md is enough to join a cluster: a peer written from that page alone, with ZeroMQ, msgpack and pickle, and no soma."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import soma

ME = "d-00000000deadbeef"
CALL, REPLY, CREDIT, UPDATE, ANSWER, WATCH, ASK = 1, 2, 3, 5, 6, 42, 51
OK, ERROR, END = 0, 1, 3


class Peer:
    """A mailbox and an outlet."""

    def __init__(self, directory: Path) -> None:
        self._context, self._directory = zmq.Context(), directory
        self._mailbox, self._outlet = (self._context.socket(zmq.ROUTER) for _ in range(2))
        self._mailbox.bind(f"ipc://{directory}/{ME}")
        self._outlet.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._outlet.setsockopt(zmq.IDENTITY, ME.encode())
        self._known: set[str] = set()
        self._calls = 0

    def send(self, to: str, kind: int, *fields: Any, value: list[bytes] | None = None) -> None:
        if to not in self._known:
            self._known.add(to)
            self._outlet.setsockopt(zmq.CONNECT_ROUTING_ID, to.encode())
            self._outlet.connect(f"ipc://{self._directory}/{to}")
        self._outlet.send_multipart([to.encode(), msgpack.packb([1, kind, *fields]), *(value or [])])

    def recv(self, kind: int) -> tuple[list[Any], list[bytes]]:
        """Fields and value of the next message of this kind."""
        while self._mailbox.poll(5000):
            _, header, *value = self._mailbox.recv_multipart()
            version, number, *fields = msgpack.unpackb(header)
            assert version == 1
            if number == kind:
                return fields, value
        raise TimeoutError(f"no message of kind {kind}")

    def call(self, actor: str, method: str, *args: Any, returns: int = 1) -> bytes:
        self._calls += 1
        call_id = b"deadbeef" + self._calls.to_bytes(8, "big")
        self.send(actor, CALL, call_id, ME, method, returns, 0, None, [], value=[pickle.dumps((args, {}), 5)])
        return call_id

    def close(self) -> None:
        self._outlet.close(0)
        self._mailbox.close(0)
        self._context.term()
        (self._directory / ME).unlink(missing_ok=True)


@soma.remote
class Served:
    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self) -> None:
        raise ValueError("said so")

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def zeros(self, n: int) -> Any:
        import numpy as np

        return np.zeros(n)


@pytest.fixture
def met(cluster: object) -> Iterator[tuple[Peer, str, Any]]:
    handle = Served.remote()
    peer = Peer(Path(soma.status()["directory"]))
    try:
        peer.send("daemon", WATCH, handle.actor_id, ME)
        (actor, incarnation, state, *_), _ = peer.recv(UPDATE)
        while state != "ready":
            (actor, incarnation, state, *_), _ = peer.recv(UPDATE)
        assert actor == handle.actor_id
        yield peer, f"{actor}.{incarnation}", handle
    finally:
        peer.close()


def test_a_call(met: tuple[Peer, str, Any]) -> None:
    peer, actor, _ = met
    call_id = peer.call(actor, "add", 1, 2)
    fields, [body] = peer.recv(REPLY)
    assert fields == [call_id, 0, OK, True, []]
    assert pickle.loads(body) == 3


def test_a_failure(met: tuple[Peer, str, Any]) -> None:
    peer, actor, _ = met
    call_id = peer.call(actor, "fail")
    fields, value = peer.recv(REPLY)
    assert fields == [call_id, 0, ERROR, True, []]
    assert pickle.loads(value[0]).message == "said so"


def test_a_stream_waits_for_credit(met: tuple[Peer, str, Any]) -> None:
    peer, actor, _ = met
    call_id = peer.call(actor, "count", 20, returns=-1)
    items = [peer.recv(REPLY)[0] for _ in range(16)]
    assert [i[1] for i in items] == list(range(16)) and all(i[2] == OK and not i[3] for i in items)
    peer.send(actor, CREDIT, call_id, 8)
    assert [peer.recv(REPLY)[0][1] for _ in range(4)] == [16, 17, 18, 19]
    assert peer.recv(REPLY)[0] == [call_id, 20, END, True, []]


def test_a_value_in_shared_memory(met: tuple[Peer, str, Any]) -> None:
    peer, actor, _ = met
    peer.call(actor, "zeros", 100_000)
    _, (segments, body, rest) = peer.recv(REPLY)
    (path, inode, offset, length, table, _, slot), places = msgpack.unpackb(segments)
    [(at, size)] = struct.iter_unpack("<qq", places)
    assert (at, size, length, rest) == (0, 800_000, 800_000, b"")
    with open(path, "rb") as memory, open(table, "r+b") as leases:
        assert os.fstat(memory.fileno()).st_ino == inode
        memory.seek(offset)
        assert pickle.loads(body, buffers=[memory.read(length)]).sum() == 0
        assert os.pread(leases.fileno(), 1, slot) == b"\x01"
        os.pwrite(leases.fileno(), b"\x00", slot)


def test_questions_to_the_daemon(met: tuple[Peer, str, Any]) -> None:
    peer, _, _ = met
    peer.send("daemon", ASK, b"q1", ME, "available")
    fields, value = peer.recv(ANSWER)
    assert fields[:3] == [b"q1", "", ""] and fields[3]["CPU"] == 4.0 and value == []
