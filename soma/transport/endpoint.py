"""A process's sockets: a mailbox that others write to, and an outlet that writes to others' mailboxes.

Messages go one way. The mailbox is a bound ROUTER read by one thread at a time; the outlet is a ROUTER that connects to each
peer under that peer's name, and may be used by any thread. Neither has a high-water mark (a ROUTER drops silently past it):
what is in flight is bounded by the callers' windows. zmq never appears above this layer; its errors become soma's.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq
import zmq.backend

from soma.config import LIMITS
from soma.errors import ClusterError
from soma.transport.security import check_endpoint, private_umask

Frame = bytes | bytearray | memoryview

# pyzmq's own send_multipart and recv_multipart spend half of their time on enum arithmetic: 6 µs a message against 3
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)


class Mailbox(Protocol):
    """Where messages arrive. One reader at a time; `wake` from anywhere."""

    def recv(self, timeout: float | None) -> list[bytes] | None:
        """The next message as [sender, header, …], or None after `timeout` seconds or a `wake`."""

    def poll(self, timeout: float | None) -> bool: ...
    def take(self) -> list[bytes]: ...
    def take_nowait(self) -> list[bytes] | None: ...
    def ready(self) -> bool: ...
    def wake(self) -> None: ...
    def wake_fd(self) -> int:
        """What to write a byte to for the same effect as `wake`; -1 if there is no such thing."""

    def fileno(self) -> int:
        """For a selector: readable when something comes, once, until everything was taken (`take_nowait` gave None); -1 without one."""

    def close(self) -> None: ...


class Outlet(Protocol):
    """How messages leave. Thread-safe; never blocks."""

    def connect(self, peer: str) -> None: ...
    def send(self, peer: str, frames: Sequence[Frame]) -> None: ...
    def disconnect(self, peer: str) -> None: ...
    def near(self, peer: str) -> bool:
        """Whether the peer shares our runtime directory: what lies in shared memory need not be sent."""

    def close(self, linger: float = 0.0) -> None: ...


class Wire(Protocol):
    """A way to make mailboxes and outlets that reach each other: ZeroMQ over a directory or a network, or the in-process fake."""

    def claim(self, base: str) -> str:
        """The name under which all others reach the mailboxes `base` and `base.s` of this process; they are made right after."""

    def mailbox(self, name: str) -> Mailbox: ...
    def outlet(self, name: str) -> Outlet: ...
    def close(self) -> None: ...


class Waker:
    """A file descriptor that becomes readable when somebody calls `set`. Safe in finalizers and signal handlers.

    A pipe: unlike an eventfd it can also be Python's own wake-up descriptor for signals (see `signal.set_wakeup_fd`).
    """

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.write_fd, False)
        self._open = True

    def set(self) -> None:
        if self._open:
            try:
                os.write(self.write_fd, b"\0")
            except BlockingIOError:
                return  # it is set already

    def clear(self) -> None:
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        if self._open:
            self._open = False
            for fd in (self.fd, self.write_fd):
                os.close(fd)


class ZmqMailbox:
    """A bound ROUTER and a waker."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str | None) -> None:
        self._path = address.removeprefix("ipc://") if address is not None else ""
        if self._path and os.path.lexists(self._path):  # zmq would take the name away from its owner
            raise ClusterError(f"cannot bind {address}: the name is taken")
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # before bind: options set later do not apply
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LIMITS.message_bytes)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        if sys.platform == "linux":  # the third wall, behind the modes of directory and socket: the kernel says who connects
            self._socket.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())
        self._waker = Waker()
        self._items: Any = [(self._socket, int(zmq.POLLIN)), (self._waker.fd, int(zmq.POLLIN))]
        self._recv: Any = functools.partial(zmq.backend.Socket.recv, self._socket)
        self._get = functools.partial(zmq.backend.Socket.get, self._socket)
        if address is not None:
            self._bind(address)

    def _bind(self, address: str) -> None:
        try:
            with private_umask():
                self._socket.bind(address)
        except zmq.ZMQError as e:
            self.close()
            raise ClusterError(f"cannot bind {address}: {e}") from None

    def fileno(self) -> int:
        """For a selector. Edge-triggered: after it fires, and before every select, take until there is nothing."""
        return int(self._socket.getsockopt(zmq.FD))

    def poll(self, timeout: float | None) -> bool:
        """True when `take` has something; False after `timeout` seconds or a `wake`."""
        for item, _ in zmq.zmq_poll(self._items, -1 if timeout is None else max(0, int(timeout * 1000 + 0.999))):
            if item is self._socket:
                return True
            self._waker.clear()
        return False

    def take(self) -> list[bytes]:
        """The message that `poll` promised."""
        recv = self._recv
        parts = [recv(_NOBLOCK)]  # the sender's name, and there is always more
        more = True
        while more:
            frame = recv(_NOBLOCK, False)  # knows whether it is the last: to ask the socket costs more than to receive
            parts.append(frame.bytes)
            more = frame.more
        return parts

    def take_nowait(self) -> list[bytes] | None:
        """A message if there is one."""
        try:
            return self.take()
        except zmq.Again:
            return None

    def ready(self) -> bool:
        """Whether a message is there; a hint that costs a fifth of `poll`."""
        return bool(int(self._get(_EVENTS)) & _POLLIN)

    def recv(self, timeout: float | None) -> list[bytes] | None:
        return self.take() if self.poll(timeout) else None

    def wake(self) -> None:
        self._waker.set()

    def wake_fd(self) -> int:
        return self._waker.write_fd

    def close(self) -> None:
        if not self._socket.closed:
            self._socket.close(0)
            self._waker.close()
            if self._path:
                Path(self._path).unlink(missing_ok=True)


class ZmqOutlet:
    """One ROUTER with a named connection to each peer."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, address_of: Callable[[str], str]) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IDENTITY, name.encode())
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._address_of = address_of
        self._send = functools.partial(zmq.backend.Socket.send, self._socket)
        self._peers: dict[str, bytes | None] = {}
        """None marks a peer that is gone; names are never used twice."""
        self._lock = threading.Lock()

    def connect(self, peer: str) -> None:
        """Make a connection ahead of the first message; idempotent."""
        with self._lock:
            if peer not in self._peers and not self._socket.closed:
                self._connect(peer)

    def _connect(self, peer: str) -> bytes:
        name = peer.encode()
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, name)
        self._socket.connect(self._address_of(peer))
        self._peers[peer] = name
        return name

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        """Hand a message over; what is sent to a peer that is gone is dropped (its death is the supervisor's word)."""
        with self._lock:
            if self._socket.closed:
                return
            name = self._peers.get(peer)
            if name is None:
                if peer in self._peers:
                    return
                name = self._connect(peer)
            try:
                send = self._send
                send(name, _MORE)
                for frame in frames[:-1]:
                    send(frame, _MORE)
                send(frames[-1], _NOBLOCK)
            except zmq.ZMQError as e:
                if e.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    raise ClusterError(f"cannot send to {peer}: {e}") from None

    def disconnect(self, peer: str) -> None:
        """The peer is gone for good: end the connection, drop what is sent to it from now on."""
        with self._lock:
            known = self._peers.get(peer)
            self._peers[peer] = None
            if known is not None and not self._socket.closed:
                self._socket.disconnect(self._address_of(peer))

    def near(self, peer: str) -> bool:
        return True

    def close(self, linger: float = 0.0) -> None:
        with self._lock:
            self._socket.close(int(linger * 1000))


class ZmqWire:
    """Mailboxes as sockets in one private directory: `ipc://<directory>/<name>`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def address_of(self, name: str) -> str:
        return f"ipc://{self._directory}/{name}"

    def claim(self, base: str) -> str:
        return base

    def mailbox(self, name: str) -> ZmqMailbox:
        check_endpoint(self.address_of(name), curve=False)
        return ZmqMailbox(self._context, self.address_of(name))

    def outlet(self, name: str) -> ZmqOutlet:
        return ZmqOutlet(self._context, name, self.address_of)

    def close(self) -> None:
        """Wait until lingering messages left, then end the I/O thread. Every socket must be closed before."""
        self._context.term()
