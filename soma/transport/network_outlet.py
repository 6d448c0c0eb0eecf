"""An outlet that reaches the peers of this machine by ipc, as ever, and those of others by TCP with CURVE, in sessions.

One ROUTER for both: libzmq copies a socket's options when it connects. Which way a peer is reached is in its name. What other
machines acknowledge is read by whoever sends next, and by the wire's thread.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import secrets
import socket as sockets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.backend

from soma.errors import ClusterError
from soma.transport.endpoint import Frame, ZmqOutlet
from soma.transport.naming import Located, local_name, parse, tcp_address
from soma.transport.network_mailbox import HEARTBEAT_MS, SILENCE_MS
from soma.transport.pieces import Piece
from soma.transport.sessions import Sending, State
from soma.transport.tending import Tending, Told

_NOBLOCK, _MORE, _RCVMORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.RCVMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

QUIET = 0.3
"""Seconds without an answer after which a closing outlet does not wait for more."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How a process of this machine reaches others."""

    directory: Path | None
    tag: str
    public_key: bytes
    secret_key: bytes
    aliases: Mapping[str, str]
    """Names that stand for others."""

    def place(self, peer: str) -> Located | None:
        """Where a peer is on another machine; None for one of this machine."""
        place = parse(peer)
        return None if place is None or (place.tag == self.tag and self.directory is not None) else place


class _Far:
    """A peer on another machine."""

    __slots__ = ("address", "broken", "label", "met", "sending", "tries")

    def __init__(self, sending: Sending, address: str, label: bytes) -> None:
        self.sending, self.address, self.label = sending, address, label
        self.tries = 0
        self.met = self.broken = False
        """Whether there was a connection, and whether it was lost."""


class NetworkOutlet(ZmqOutlet):
    """One ROUTER with a named connection to each peer, near or far."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, ways: Ways, tending: Tending, told: Told) -> None:
        super().__init__(context, name, self._near_address)
        self._name, self._ways, self._tending, self._told = name, ways, tending, told
        self._recv = functools.partial(zmq.backend.Socket.recv, self._socket)
        self._get = functools.partial(zmq.backend.Socket.get, self._socket)
        self._life = f"{local_name(name)}.{secrets.token_hex(8)}".encode()
        """What far sockets know us by; who we are, OPEN says. A process that takes our name when we are dead is not taken for us."""
        self._far: dict[str, _Far] = {}
        self._labels: dict[bytes, str] = {}
        self._places: dict[str, Located | None] = {}
        self._answered = threading.Condition(self._lock)
        self._watched = tending.watch_outlet(self._socket, self)

    def near(self, peer: str) -> bool:
        peer = self._ways.aliases.get(peer, peer)
        return self._place(peer) is None

    def _place(self, peer: str) -> Located | None:
        try:
            return self._places[peer]
        except KeyError:
            place = self._places[peer] = self._ways.place(peer)
            return place

    def _near_address(self, peer: str) -> str:
        if self._ways.directory is None:
            raise ClusterError(f"{peer} cannot be reached: it is on one machine, and this process shares no directory with it")
        return f"ipc://{self._ways.directory}/{local_name(peer)}"

    @property
    def kept(self) -> int:
        """Bytes kept for peers on other machines that have not said that they have them."""
        return sum(far.sending.unacknowledged for far in list(self._far.values()))

    @property
    def lost(self) -> int:
        """Messages to other machines that perhaps never arrived (their receiver forgot us)."""
        return sum(far.sending.lost for far in list(self._far.values()))

    # -- sending -----------------------------------------------------------------------------------------------------------------

    def connect(self, peer: str) -> None:
        super().connect(self._ways.aliases.get(peer, peer))

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Hand a message over.

        Raises:
            ObjectTooLargeError: it is for another machine, and larger than a message may be.
        """
        peer = self._ways.aliases.get(peer, peer)
        far = self._far.get(peer)
        if far is None and self._place(peer) is None:
            super().send(peer, frames)
            if self._far:
                self.attend()  # sending may have taken the sign that something came
            return
        with self._lock:
            if self._socket.closed:
                return
            far = self._far.get(peer)  # once more: another thread may have been the first
            if far is None:
                if peer in self._peers:
                    return  # it is gone
                self._connect(peer)
                far = self._far[peer]
            self._push(far, far.sending.send(frames))
            if int(self._get(_EVENTS)) & _POLLIN:
                self._drain()

    def _push(self, far: _Far, pieces: Sequence[Piece]) -> bool:
        """Hand pieces to libzmq; False if it has given the connection up. Then `remind` makes another one."""
        send, label = self._send, far.label
        try:
            for made in pieces:
                send(label, _MORE)
                if len(made) > 1:
                    for frame in made[:-1]:
                        send(frame, _MORE)
                send(made[-1], _NOBLOCK)
        except zmq.ZMQError as e:
            if e.errno != zmq.EHOSTUNREACH:
                raise ClusterError(f"cannot send to {far.address}: {e}") from None
            far.sending.down()
            self._tending.nudge()
            return False
        return True

    def _connect(self, peer: str) -> bytes:
        place = self._place(peer)
        s = self._socket
        if place is None:
            address = self._near_address(peer)
            s.setsockopt(zmq.CURVE_SERVER, 0)  # back to no mechanism: the modes of the directory are the wall there
            s.setsockopt(zmq.HEARTBEAT_IVL, 0)
            s.setsockopt(zmq.RECONNECT_IVL_MAX, 0)
            s.setsockopt(zmq.MAXMSGSIZE, -1)
            s.setsockopt(zmq.IDENTITY, self._name.encode())
            return super()._connect(peer)
        address = tcp_address(_resolved(place.host), place.port)
        far = self._far[peer] = _Far(Sending(self._name, place.mailbox), address, peer.encode())
        self._peers[peer] = far.label
        self._dial(peer, far)
        self._push(far, [far.sending.opening()])
        return far.label

    def _dial(self, peer: str, far: _Far) -> None:
        s, ways = self._socket, self._ways
        s.setsockopt(zmq.CURVE_SERVERKEY, ways.public_key)
        s.setsockopt(zmq.CURVE_PUBLICKEY, ways.public_key)
        s.setsockopt(zmq.CURVE_SECRETKEY, ways.secret_key)
        s.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        s.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        s.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        s.setsockopt(zmq.MAXMSGSIZE, 1024)  # nothing but answers comes back
        s.setsockopt(zmq.IPV6, int("[" in far.address))
        s.setsockopt(zmq.IDENTITY, self._life)
        s.setsockopt(zmq.CONNECT_ROUTING_ID, far.label)
        s.connect(far.address)
        self._labels[far.label] = peer

    def disconnect(self, peer: str) -> None:
        peer = self._ways.aliases.get(peer, peer)
        with self._lock:
            far = self._far.pop(peer, None)
            if far is not None:
                self._peers[peer] = None
                self._hang_up(far)
                return
            if self._place(peer) is not None:
                self._peers[peer] = None
                return
        super().disconnect(peer)

    def _hang_up(self, far: _Far) -> None:
        self._labels.pop(far.label, None)
        if not self._socket.closed:
            self._socket.disconnect(far.address)

    # -- answers, and the connection's ups and downs (the wire's thread, mostly) ---------------------------------------------------

    def attend(self) -> None:
        """Read what came, if anything did."""
        with self._lock:
            if not self._socket.closed and int(self._get(_EVENTS)) & _POLLIN:
                self._drain()

    def _drain(self) -> None:
        recv, get = self._recv, self._get
        while int(get(_EVENTS)) & _POLLIN:
            parts: list[Any] = [recv(_NOBLOCK)]
            while get(_RCVMORE):
                parts.append(recv(_NOBLOCK))
            far = self._far.get(self._labels.get(parts[0], ""))
            if far is not None:
                self._push(far, far.sending.receive(parts[1:]))
                if far.sending.state is State.OPENING:
                    self._tending.nudge()
        self._answered.notify_all()

    def link_changed(self, address: str, up: bool) -> None:
        """A connection to `address` was made, or lost."""
        with self._lock:
            peer = next((peer for peer, far in self._far.items() if far.address == address), "")
            if not peer:
                return
            far = self._far[peer]
            told = far.broken if up else far.met and not far.broken
            far.met, far.broken = far.met or up, not up and (far.met or far.broken)
            if self._socket.closed:
                return
            if not up:
                far.sending.down()  # also if there was no connection yet: libzmq gives up after some failed handshakes
            elif far.sending.state is State.DOWN:
                self._push(far, far.sending.up())
        if told:
            self._told(peer, up)

    @property
    def unsettled(self) -> bool:
        """Whether `remind` has something to do."""
        return any(far.sending.unsettled for far in list(self._far.values()))

    def remind(self) -> None:
        """Ask those again that have not answered; make a connection anew that libzmq has given up."""
        with self._lock:
            for peer, far in self._far.items():
                if self._socket.closed or not far.sending.unsettled:
                    continue
                if not self._push(far, far.sending.again()):
                    self._hang_up(far)
                    far.tries += 1
                    far.label = f"{peer} {far.tries}".encode()  # the old label is taken until libzmq has cleaned up
                    self._dial(peer, far)
                    self._push(far, [far.sending.opening()])

    def close(self, linger: float = 0.0) -> None:
        """Wait up to `linger` seconds until all is sent, and while other machines acknowledge it: libzmq ends a connection with a
        reset if an answer comes that nobody reads, and what was on its way is lost with it."""
        end = time.monotonic() + linger
        with self._lock:
            if not self._socket.closed and linger > 0:
                for far in self._unacknowledged():
                    self._push(far, [*far.sending.flush(), far.sending.opening()])  # who is asked anew answers at once
                while self._unacknowledged() and (left := end - time.monotonic()) > 0:
                    if not self._answered.wait(min(left, QUIET)):
                        break  # who does not read now sends no answers either
        self._tending.forget(self._watched)
        super().close(max(0.0, end - time.monotonic()))

    def _unacknowledged(self) -> list[_Far]:
        return [far for far in self._far.values() if far.sending.unacknowledged]


def _resolved(host: str) -> str:
    """An address for a host; libzmq would look it up in its only thread."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return host
    try:
        return str(sockets.getaddrinfo(host, None, type=sockets.SOCK_STREAM)[0][4][0])
    except OSError:
        return host  # perhaps it is known when libzmq looks it up
