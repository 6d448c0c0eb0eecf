"""Mailboxes and outlets of a cluster of several machines: the same contract as on one, see `endpoint`.

Processes that share a runtime directory reach each other through it; all others by TCP, where CURVE keeps out whoever has not the
cluster's key, and sessions make up for connections that break. Refuses: to listen on every interface, or without keys.
"""

from __future__ import annotations

import socket as sockets
from dataclasses import dataclass
from pathlib import Path

import zmq

from soma.errors import ClusterError
from soma.ids import DAEMON
from soma.transport.endpoint import ZmqMailbox
from soma.transport.naming import SIDE, located, parse, tcp_address
from soma.transport.network_mailbox import NetworkMailbox
from soma.transport.network_outlet import NetworkOutlet, Ways
from soma.transport.receiving import Receiving
from soma.transport.security import check_endpoint
from soma.transport.tending import Tending, Told


@dataclass(frozen=True, slots=True)
class Network:
    """What a process has to know to be reached by, and to reach, those on other machines of its cluster."""

    host: str
    """Address or name of this machine, as others reach it."""
    tag: str
    """8 hex digits of this machine's runtime directory."""
    public_key: str
    secret_key: str
    """The pair of the cluster's data plane (Z85), the same at all members."""
    head: str = ""
    """The full name that `daemon` stands for; "" in the head itself, which claims the base `daemon`."""
    on_link: Told = lambda peer, up: None
    """Told by the wire's thread that the connection to a peer on another machine was lost (False), or is back (True)."""


class NetworkWire:
    """`claim`, then `mailbox` and `outlet`. Every socket must be closed before the wire is."""

    def __init__(self, directory: Path | None, network: Network) -> None:
        self._directory, self._network = directory, network
        self._public, self._secret = network.public_key.encode(), network.secret_key.encode()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._tending = Tending(self._context, self._public)
        self._aliases: dict[str, str] = {DAEMON: network.head, DAEMON + SIDE: network.head + SIDE} if network.head else {}
        self._claimed: dict[str, _Claimed] = {}

    @property
    def rejected(self) -> int:
        """Handshakes that failed at our mailboxes."""
        return self._tending.rejected

    def claim(self, base: str, ports: tuple[int, int] = (0, 0), receiving: type[Receiving] = Receiving) -> str:
        """Bind the mailboxes `base` and `base.s`, for this machine and for others; their full name. `ports`: which, if not any two;
        `receiving`: how the first one keeps its sessions.

        Raises:
            ClusterError: the name is taken, or this machine's address cannot be bound.
            SecurityError: the directory is not private, or the address means every interface.
        """
        if any(c.base == base for c in self._claimed.values()):
            raise ClusterError(f"cannot bind {base}: the name is taken")
        main = self._bound(base, base, ports[0])
        try:
            side = self._bound(base, base + SIDE, ports[1])
        except BaseException:
            main.close()
            raise
        name = located(base, self._network.tag, self._network.host, main.port, side.port)
        for box, whole in ((main, name), (side, name + SIDE)):
            place = parse(whole)
            assert place is not None
            box.open_as(place.mailbox, receiving if box is main else Receiving)
            self._claimed[whole] = box
        if base == DAEMON and not self._network.head:
            self._aliases |= {DAEMON: name, DAEMON + SIDE: name + SIDE}
        return name

    def _bound(self, base: str, file: str, port: int) -> _Claimed:
        path = None
        if self._directory is not None:
            path = f"ipc://{self._directory}/{file}"
            check_endpoint(path, curve=False)
        address = tcp_address(_bindable(self._network.host), port or "*")
        check_endpoint(address, curve=True)
        box = _Claimed(self._context, path, base, self._tending)
        box.listen(address, self._public, self._secret)
        return box

    def mailbox(self, name: str) -> ZmqMailbox:
        """A mailbox that was claimed; any other name is for this machine only."""
        found = self._claimed.get(name)
        if found is not None:
            return found
        if self._directory is None:
            raise ClusterError(f"{name} was not claimed, and there is no directory for it")
        address = f"ipc://{self._directory}/{name}"
        check_endpoint(address, curve=False)
        return ZmqMailbox(self._context, address)

    def received(self, name: str) -> Receiving:
        """The sessions of a mailbox that was claimed."""
        return self._claimed[name].received

    def outlet(self, name: str) -> NetworkOutlet:
        ways = Ways(self._directory, self._network.tag, self._public, self._secret, self._aliases)
        return NetworkOutlet(self._context, name, ways, self._tending, self._network.on_link)

    def close(self) -> None:
        """Wait until lingering messages left, then end the threads. What was claimed and never used is closed here."""
        for box in self._claimed.values():
            box.close()
        self._tending.close()
        self._context.term()


class _Claimed(NetworkMailbox):
    """A mailbox whose refused callers are counted."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str | None, base: str, tending: Tending) -> None:
        self.base, self._tending = base, tending
        self._watched = -1
        super().__init__(context, address)
        self._watched = tending.watch_mailbox(self._socket)

    def close(self) -> None:
        if not self._socket.closed:
            if self._watched >= 0:
                self._tending.forget(self._watched)
            super().close()


def _bindable(host: str) -> str:
    """An address of this machine for a name of it: sockets are not bound to names."""
    try:
        return str(sockets.getaddrinfo(host, None, type=sockets.SOCK_STREAM)[0][4][0])
    except OSError as e:
        raise ClusterError(f"cannot bind {host}: {e}") from None
