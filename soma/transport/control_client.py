"""A member's end of the control plane: one connection to the head's port.

It tells apart a head that cannot be reached, one that has another key than the one we were given, and one that does not know our
key; each text says what was asked, what was found, and what to do. Used by one thread at a time.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

import soma.errors
from soma.config import KIB
from soma.errors import ClusterError, ProtocolError, SecurityError, SomaError
from soma.transport import messages as m
from soma.transport.control import FOR_MEMBER, FRAME_BYTES, HEARTBEAT_MS, PARTS, SILENT_MS, check_address
from soma.transport.frames import pack, unpack
from soma.transport.keys import KeyPair
from soma.transport.visitors import WAITING

_TOLD = (zmq.Event.CONNECTED | zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_AUTH
         | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL)

_PIECE = FRAME_BYTES - KIB
"""Encryption makes a frame a little longer."""
LONGEST_ANSWER = (PARTS - 2) * _PIECE

Said = tuple[Any, list[bytes]]
"""A message and the frames behind it."""


_UNREAD = ("ProtocolError", "VersionMismatchError", "ClusterError")
"""What the head says of messages that it could not read or did not want to, so that it does not know which request it answers."""


class Link(Enum):
    """How the connection is."""

    CONNECTING = "nothing answers there"
    REACHED = "somebody answers there, but says nothing that a head says"
    STRANGE = "somebody answers there, but not as the head whose key was given"
    OPEN = "the head is there"
    REFUSED = "the head is there, and refuses this key"
    """It is not tried again."""


_ADVICE = {
    Link.CONNECTING: "is the head running, is the address that of its control port, and does a firewall let it through?",
    Link.REACHED: "is that the head's control port, and not another service?",
    Link.STRANGE: "the token is another cluster's or an old one, or another service has that port: compare the address, ask for a token",
    Link.REFUSED: "it is not on the head's list, was revoked or has expired, or sent too much: ask for a new token, or let "
                  "`soma keys allow` on the head's machine add it",
}


class ControlClient:
    """Connects by itself, again and again, until it is closed or refused."""

    def __init__(self, address: str, server_public: bytes, pair: KeyPair) -> None:
        check_address(address)
        self.address = address
        self.link = Link.CONNECTING
        self._later: deque[Said] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.MAXMSGSIZE, FRAME_BYTES), (zmq.SNDHWM, WAITING), (zmq.RCVHWM, WAITING),
                              (zmq.IPV6, int("[" in address)), (zmq.RECONNECT_IVL, 50), (zmq.RECONNECT_IVL_MAX, 300),
                              (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENT_MS),
                              (zmq.CURVE_SERVERKEY, server_public), (zmq.CURVE_PUBLICKEY, pair.public), (zmq.CURVE_SECRETKEY, pair.secret)):
            self._socket.setsockopt(option, value)
        self._socket.monitor("inproc://monitor", int(_TOLD))
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect("inproc://monitor")
        self._poller = zmq.Poller()
        for socket in (self._socket, self._monitor):
            self._poller.register(socket, zmq.POLLIN)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as e:
            self.close()
            raise ClusterError(f"cannot connect to {address}: {e}") from None

    def request(self, msg: Any, timeout: float) -> Said:
        """Send `msg`, wait for the answer with its `request`. What else arrives meanwhile, `recv` has.

        Raises:
            ClusterError: not reachable, or no answer, within `timeout` seconds.
            SecurityError: our key is refused, the head has another key, or we may not ask this.
            SomaError: what the head said went wrong.
        """
        until = time.monotonic() + timeout
        while not self.send(msg):
            if self.link is Link.OPEN:
                raise ClusterError(f"{WAITING} messages to the head at {self.address} wait to be sent: it does not read them")
            if not self._wait_open(until):
                raise self._unreachable(type(msg).__name__, timeout)
        others: deque[Said] = deque()
        try:
            while (got := self.recv(max(0.0, until - time.monotonic()))) is not None:
                said = got[0]
                if isinstance(said, m.Refused) and not said.request and said.error in _UNREAD:
                    raise _error(said.error, said.text)
                if getattr(said, "request", None) != msg.request:
                    others.append(got)
                elif isinstance(said, m.Refused | m.Report) and said.error:
                    raise _error(said.error, said.text)
                else:
                    return got
        finally:
            self._later.extendleft(reversed(others))
        if self.link is not Link.OPEN:
            raise self._unreachable(type(msg).__name__, timeout)
        raise ClusterError(f"asked the head at {self.address} for {type(msg).__name__}; there was no answer within {timeout:g} s")

    def send(self, msg: Any, frames: Sequence[bytes] = ()) -> bool:
        """Hand a message over; False if there is no connection now, as far as is known."""
        self._look()
        if self.link is not Link.OPEN:
            return False
        try:
            self._socket.send_multipart([pack(msg), *frames], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def recv(self, timeout: float | None) -> Said | None:
        """The next message from the head, or None after `timeout` seconds. SecurityError if it refuses our key."""
        if not self.poll(timeout):
            return None
        if self._later:
            return self._later.popleft()
        frames = self._socket.recv_multipart(zmq.NOBLOCK)
        if len(frames) > PARTS:
            raise ProtocolError(f"a message of {len(frames)} parts from the head; {PARTS} at most")
        msg = unpack(frames[0])
        if type(msg) not in FOR_MEMBER:
            raise ProtocolError(f"{type(msg).__name__} is not for a member")
        return msg, frames[1:]

    def poll(self, timeout: float | None) -> bool:
        """Whether `recv(0)` has something."""
        until = None if timeout is None else time.monotonic() + timeout
        self._look()
        return bool(self._later) or self._wait(until)

    def fileno(self) -> int:
        """For a selector. Edge-triggered: after it fires, and before every select, `recv(0)` until it says None."""
        return int(self._socket.getsockopt(zmq.FD))

    def close(self) -> None:
        """Idempotent."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(500)  # a last word (Leave) gets as long
            self._context.term()

    def _wait_open(self, until: float) -> bool:
        """Until there is a connection. SecurityError once our key is refused."""
        self._look()
        while self.link is not Link.OPEN:
            if self.link is Link.REFUSED:
                raise self._unreachable("a connection", 0.0)
            if not self._monitor.poll(math.ceil(max(0.0, until - time.monotonic()) * 1000)):
                return False
            self._look()
        return True

    def _wait(self, until: float | None) -> bool:
        """Until a message is there. SecurityError once our key is refused."""
        while True:
            left = -1 if until is None else math.ceil(max(0.0, until - time.monotonic()) * 1000)
            ready = dict(self._poller.poll(0 if self.link is Link.REFUSED else left))
            self._look()
            if self._socket in ready:
                return True
            if self.link is Link.REFUSED:
                raise self._unreachable("a connection", 0.0)
            if not ready:
                return False

    def _look(self) -> None:
        """Take note of what became of the connection."""
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                self.link = Link.REFUSED
            elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.link = Link.OPEN
            elif self.link is Link.REFUSED:
                continue
            elif event == zmq.Event.CONNECTED:
                self.link = self.link if self.link is Link.STRANGE else Link.REACHED
            elif event in (zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, zmq.Event.HANDSHAKE_FAILED_PROTOCOL):
                self.link = Link.STRANGE
            elif self.link is Link.OPEN:
                self.link = Link.CONNECTING

    def _unreachable(self, asked: str, timeout: float) -> SomaError:
        waited = f" within {timeout:g} s" if timeout else ""
        kind = SecurityError if self.link in (Link.REFUSED, Link.STRANGE) else ClusterError
        return kind(f"asked the head at {self.address} for {asked}: {self.link.value}{waited}; {_ADVICE[self.link]}")


def _error(name: str, text: str) -> SomaError:
    """The error that the head named, if it is one that is made of a text."""
    kind = getattr(soma.errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SomaError) and kind.__init__ is Exception.__init__):
        return ClusterError(f"{name}: {text}")
    return kind(text)


def json_frames(value: Any) -> list[bytes]:
    """JSON as the frames behind a Report; ProtocolError if it is too long for one."""
    text = json.dumps(value, ensure_ascii=False).encode()
    if len(text) > LONGEST_ANSWER:
        raise ProtocolError(f"an answer of {len(text)} bytes; at most {LONGEST_ANSWER} are sent")
    return [text[i:i + _PIECE] for i in range(0, len(text), _PIECE)]


def json_value(frames: Sequence[bytes]) -> Any:
    """What `json_frames` was given."""
    try:
        return json.loads(b"".join(frames))
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"what follows a Report is no JSON: {e}") from None
