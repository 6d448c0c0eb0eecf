"""The head's control port: one TCP address with CURVE keys, read by a thread of its own.

Refuses, before anything is handed to the head: keys that `Gate.enter` does not know, messages that are too long, malformed, too
many, or not for the sender's role. Who somebody is, says the key of the connection (the ZAP User-Id that libzmq puts on each
frame), never the message. What waits for the head is bounded; what does not fit is dropped and counted. Of connections there are
at most 256; a key that goes on flooding is cut off and refused for a while. Every refusal is counted (`counters`).
"""

from __future__ import annotations

import collections
import re
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

from soma.config import MIB
from soma.errors import ClusterError, ProtocolError
from soma.transport import messages as m
from soma.transport.connections import Connections
from soma.transport.endpoint import Waker
from soma.transport.frames import pack, unpack
from soma.transport.keys import KeyPair
from soma.transport.security import check_endpoint
from soma.transport.visitors import WAITING, Gate, Receiver, Refusal, Verdict
from soma.transport.zap import Zap

FRAME_BYTES = MIB
"""Of one frame, either way; the connection of who sends a longer one is closed."""
PARTS = 16
MESSAGE_BYTES = MIB
"""Of all frames of a message to the head."""
CONNECTIONS = 256
HANDSHAKE_SECONDS = 5.0
HEARTBEAT_MS, SILENT_MS = 2000, 8000
"""ZeroMQ's own heartbeats: how often, and when a silent connection is closed."""

FOR_HEAD: frozenset[type] = frozenset({m.Join, m.Register, m.Heartbeat, m.Leave, m.Query, m.Drain, m.Shutdown})
FOR_MEMBER: frozenset[type] = frozenset({m.Welcome, m.Registered, m.Fenced, m.Beat, m.Report, m.Refused, m.Shutdown, m.Drain})

MALFORMED = 50
"""What a message that breaks the format costs, in messages: a peer of ours sends none."""

class ControlServer:
    """Bound when made; `address` has the real port. `reply` and `close` from any thread."""

    def __init__(self, address: str, pair: KeyPair, gate: Gate, receiver: Receiver, *, handshake: float = HANDSHAKE_SECONDS,
                 connections: int = CONNECTIONS) -> None:
        check_address(address)
        self._gate, self._receiver = gate, receiver
        self._counts = collections.Counter[str]()
        self._replies: deque[list[bytes]] = deque()
        self._over = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._waker = Waker()
        self._zap = Zap(self._context, lambda domain, ip, public: gate.enter(public, ip))  # before bind
        self._socket = server_socket(self._context, pair, handshake)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        self._connections = Connections(self._context, self._socket, connections, self._counts)
        try:
            self._socket.bind(address if address.rpartition(":")[2] != "0" else f"{address.rpartition(':')[0]}:*")
        except zmq.ZMQError as e:
            self._close_sockets()
            raise ClusterError(f"cannot listen at {address}: {e}; is another head running there?") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._connections.port = int(self.address.rpartition(":")[2])
        self._thread = threading.Thread(target=self._run, name="soma-control", daemon=True)
        self._thread.start()

    # -- for other threads -----------------------------------------------------------------------------------------------

    def reply(self, client: bytes, msg: Any, frames: Sequence[bytes] = ()) -> None:
        """Send to whoever `deliver` named; dropped if that connection is gone."""
        self._replies.append([client, pack(msg), *frames])
        self._waker.set()

    def counters(self) -> dict[str, int]:
        """What was refused since the start, and how many connections there are.

        `auth_rejected` (handshakes), `refused` (messages that are malformed or not allowed), `limited` (too many), `cut` (connections
        ended for that), `dropped` (no room at the head), `undelivered` (answers to who was gone or did not read), `too_many_connections`.
        """
        return {**dict.fromkeys(COUNTED, 0), **self._counts, "connections": len(self._connections)}

    def close(self) -> None:
        """Idempotent."""
        self._over = True
        self._waker.set()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for readable in (self._zap.socket, self._connections.monitor, self._socket, self._waker.fd):
            poller.register(readable, zmq.POLLIN)
        try:
            while not self._over:
                ready = dict(poller.poll())
                self._waker.clear()
                self._zap.serve()
                for ended in self._connections.drain():
                    self._receiver.closed(*ended)
                if self._socket in ready:
                    self._read_some()
                self._send_replies()
            self._send_replies()  # what was said before `close`
        except Exception as e:
            self._receiver.failed(e)  # a head that hears nobody must not go on as if all were silent
        finally:
            self._close_sockets()

    def _close_sockets(self) -> None:
        self._connections.close()
        self._socket.close(200)  # so that a last word is heard
        self._zap.close()
        self._context.term()
        self._waker.close()

    def _send_replies(self) -> None:
        while self._replies:
            try:
                self._socket.send_multipart(self._replies.popleft(), zmq.NOBLOCK)
            except zmq.ZMQError as e:
                if e.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    raise
                self._counts["undelivered"] += 1

    def _read_some(self) -> None:
        """A few messages; what else is to be done must not wait for the rest."""
        for _ in range(100):
            try:
                client = self._socket.recv(zmq.NOBLOCK)
                frames = self._rest()
            except zmq.Again:
                return
            self._take(client, frames)

    def _rest(self) -> list[zmq.Frame]:
        """The frames behind the routing id, but not more than one too many: the rest of them is read and forgotten."""
        frames: list[zmq.Frame] = []
        while self._socket.getsockopt(zmq.RCVMORE):
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            if len(frames) <= PARTS:
                frames.append(frame)
        return frames

    def _take(self, client: bytes, frames: list[zmq.Frame]) -> None:
        user_id, fd = sender(frames)
        if user_id is None:  # no key was checked for it: there is nobody to answer
            self._counts["refused"] += 1
            self._connections.cut(fd)
            return
        before = self._connections.heard(fd, user_id, client)
        if before is not None:
            self._receiver.closed(*before)
        if not self._affords(user_id, client, fd, 1):
            return
        try:
            msg = _read(frames)
        except ProtocolError as e:
            self._gate.note(user_id, str(e))
            self._refuse(client, b"", Refusal(str(e), type(e).__name__), told=self._affords(user_id, client, fd, MALFORMED))
            return
        judged = self._gate.judge(user_id, msg)
        if isinstance(judged, Refusal):
            self._refuse(client, getattr(msg, "request", b""), judged)
        elif not self._receiver.deliver(judged, client, msg, [bytes(f.buffer) for f in frames[1:]]):
            self._counts["dropped"] += 1

    def _affords(self, user_id: str, client: bytes, fd: int, cost: int) -> bool:
        verdict = self._gate.spend(user_id, cost)
        if verdict is Verdict.PASS:
            return True
        self._counts["limited"] += 1
        if verdict is Verdict.WARN:
            self._replies.append([client, pack(m.Refused(b"", "ClusterError", TOO_MANY))])
        if verdict is Verdict.CUT and self._connections.cut(fd):
            self._counts["cut"] += 1
        return False

    def _refuse(self, client: bytes, request: bytes, refusal: Refusal, told: bool = True) -> None:
        """Count it, and say why."""
        self._counts["refused"] += 1
        if told:
            self._replies.append([client, pack(m.Refused(request, refusal.error, refusal.why[:2000]))])


TOO_MANY = "this key sends more messages than the head takes from one; what is too much is dropped, and after a while so is the connection"

_ADDRESS = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5})")

COUNTED = ("auth_rejected", "refused", "limited", "cut", "dropped", "undelivered", "too_many_connections")


def check_address(address: str) -> None:
    """Refuse what is no address of a control port.

    Raises:
        SecurityError: one that every interface would have, or that is not TCP.
        ClusterError: no address at all.
    """
    form = _ADDRESS.fullmatch(address)
    if address.startswith("tcp://") and (form is None or int(form[2]) > 65_535):  # libzmq would take 65,536 for 0
        raise ClusterError(f"{address!r} is no address; one is tcp://HOST:PORT, e.g. tcp://192.168.1.10:7700 or tcp://[fd00::10]:7700")
    check_endpoint(address, curve=True)


def server_socket(context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair, handshake: float) -> zmq.Socket[bytes]:
    """A ROUTER that takes CURVE clients only, not bound yet. Which of them, says the context's ZAP handler."""
    made = context.socket(zmq.ROUTER)
    for option, value in ((zmq.LINGER, 0), (zmq.MAXMSGSIZE, FRAME_BYTES), (zmq.HANDSHAKE_IVL, int(handshake * 1000)),
                          (zmq.RCVHWM, WAITING), (zmq.SNDHWM, WAITING), (zmq.ROUTER_MANDATORY, 1), (zmq.BACKLOG, CONNECTIONS),
                          (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENT_MS), (zmq.CURVE_SERVER, 1),
                          (zmq.CURVE_SECRETKEY, pair.secret), (zmq.ZAP_DOMAIN, b"soma-control"),
                          (zmq.ZAP_ENFORCE_DOMAIN, 1)):  # nobody enters where no handler is
        made.setsockopt(option, value)
    return made


def sender(frames: list[zmq.Frame]) -> tuple[str | None, int]:
    """The user id and the descriptor that libzmq noted on a message."""
    if not frames:
        return None, -1
    try:
        user_id = frames[0].get("User-Id")
    except zmq.ZMQError:  # nobody was asked who this is
        user_id = ""
    return str(user_id) or None, int(frames[0].get(zmq.SRCFD))


def _read(frames: list[zmq.Frame]) -> Any:
    if len(frames) > PARTS:
        raise ProtocolError(f"a message of more than {PARTS} parts on the control port")
    if sum(map(len, frames)) > MESSAGE_BYTES:
        raise ProtocolError(f"a message over {MESSAGE_BYTES} bytes on the control port")
    msg = unpack(bytes(frames[0].buffer))
    if type(msg) not in FOR_HEAD:
        raise ProtocolError(f"{type(msg).__name__} is not for the head's control port")
    return msg
