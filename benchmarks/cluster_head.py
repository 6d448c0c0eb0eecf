"""The head's control port and its table of members under 1,000 heartbeats a second: `python -m benchmarks.cluster_head NODES`.

That process is the port (`ControlServer`: CURVE, ZAP, bounds) and the table (`Membership`), and nothing else of a head; it lets every
key in. `measure` is the other side: as many encrypted connections as there are nodes, each with a key of its own, in one process.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from typing import Any

import psutil
import zmq

from benchmarks.steps import Values
from soma.daemon.coordination.membership import Membership
from soma.transport import messages as m
from soma.transport.control import ControlServer
from soma.transport.frames import pack, unpack
from soma.transport.keys import KeyPair
from soma.transport.visitors import Inbox, Refusal, User, Verdict

CONNECTIONS = 4096
LOAD = {"cpu": 0.5, "memory_used": 2.0**33, "actors": 12, "free_CPU": 1.5}


class Open:
    """A gate that lets everybody in as a node."""

    def enter(self, public: bytes, address: str) -> str | None:
        return public.hex()[:32]

    def spend(self, user_id: str, cost: int) -> Verdict:
        return Verdict.PASS

    def judge(self, user_id: str, msg: Any) -> User | Refusal:
        return User(user_id, "node")

    def note(self, user_id: str, why: str) -> None:
        raise AssertionError(f"a message was refused: {why}")


def serve(nodes: int) -> None:
    """Until stdin ends; then says on stdout how many members were alive."""
    pair, inbox, members = KeyPair.new(), Inbox(4 * nodes), Membership()
    server = ControlServer("tcp://127.0.0.1:0", pair, Open(), inbox, connections=CONNECTIONS)
    print(json.dumps({"address": server.address, "public": pair.public.hex()}), flush=True)
    for n in range(nodes):
        members.registered(f"n{n}", 1, time.monotonic())
    while True:
        deadline = members.next_deadline()
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([inbox, sys.stdin], [], [], patience)
        members.tick(time.monotonic())
        for letter in inbox.take_all():
            if isinstance(letter.msg, m.Heartbeat):
                members.beat(letter.msg.node_id, letter.msg.incarnation, time.monotonic(), letter.msg.load)
                server.reply(letter.client, m.Beat(letter.msg.seq, 1))
        if sys.stdin in readable:
            break
    print(json.dumps({"alive": sum(1 for _ in members.alive()), **server.counters()}), flush=True)
    server.close()
    inbox.close()


def measure(nodes: int, seconds: float) -> Values:
    """CPU of that process over `seconds`, after all have connected, and how long heartbeats waited for their answers."""
    head = subprocess.Popen([sys.executable, "-m", "benchmarks.cluster_head", str(nodes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True)
    if head.stdin is None or head.stdout is None:
        raise RuntimeError("the head has no pipes")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, nodes + 64)
    try:
        told = json.loads(head.stdout.readline())
        sockets = [connected(context, told["address"], bytes.fromhex(told["public"])) for _ in range(nodes)]
        beat_all(sockets, 0, 0.0)  # until each has had an answer: all are connected
        watched = psutil.Process(head.pid)
        begin, before = time.perf_counter(), cpu_seconds(watched)
        waits = [wait for seq in range(1, max(2, round(seconds)) + 1) for wait in beat_all(sockets, seq, 1.0)]
        used, passed = cpu_seconds(watched) - before, time.perf_counter() - begin
        head.stdin.close()
        found = json.loads(head.stdout.readline())
        if found["alive"] != nodes or found["dropped"] or found["refused"]:
            raise AssertionError(f"of {nodes} nodes: {found}")
        return {"beats_cpu": 100 * used / passed, "beat_p99": sorted(waits)[int(len(waits) * 0.99)] * 1e3}
    finally:
        context.destroy(linger=0)
        head.kill()
        head.wait()
        head.stdout.close()


def connected(context: zmq.Context[zmq.Socket[bytes]], address: str, server: bytes) -> zmq.Socket[bytes]:
    pair, made = KeyPair.new(), context.socket(zmq.DEALER)
    for option, value in ((zmq.CURVE_SERVERKEY, server), (zmq.CURVE_PUBLICKEY, pair.public), (zmq.CURVE_SECRETKEY, pair.secret)):
        made.setsockopt(option, value)
    made.connect(address)
    return made


def beat_all(sockets: list[zmq.Socket[bytes]], seq: int, period: float) -> list[float]:
    """One heartbeat of each, spread over the period; the seconds that each waited for its answer. RuntimeError after 60 s."""
    poller = zmq.Poller()
    for node in sockets:
        poller.register(node, zmq.POLLIN)
    sent: dict[Any, float] = {}
    waits: list[float] = []
    begin, rest = time.perf_counter(), iter(enumerate(sockets))
    upcoming = next(rest, None)
    while upcoming is not None or sent:
        now = time.perf_counter()
        if now - begin > 60:
            raise RuntimeError(f"{len(sent)} heartbeats had no answer after 60 s")
        while upcoming is not None and now >= begin + period * upcoming[0] / len(sockets):
            n, node = upcoming
            node.send(pack(m.Heartbeat(f"n{n}", 1, seq, LOAD, False)))
            sent[node] = time.perf_counter()
            upcoming = next(rest, None)
        pause = 100.0 if upcoming is None else 1e3 * (begin + period * upcoming[0] / len(sockets) - time.perf_counter())
        for node, _ in poller.poll(max(0, int(pause + 1))):
            answer = unpack(node.recv())
            if not isinstance(answer, m.Beat) or answer.seq != seq:
                raise AssertionError(f"a node heard {answer} instead of an answer to {seq}")
            waits.append(time.perf_counter() - sent.pop(node))
    time.sleep(max(0.0, begin + period - time.perf_counter()))
    return waits


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
