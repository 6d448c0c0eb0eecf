"""The thread of a network wire: says who may connect, and hears from libzmq which connections break and come back.

It owns the ZAP handler and one monitor for each socket that it watches. For an outlet it also reads what mailboxes answer, so that
acknowledgements do their work while nobody sends. It ends in `close`. What it watches is added and removed from any thread;
`forget` returns when the thread has let go, so that the socket may be closed.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import math
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import zmq
from zmq.utils import z85

from soma.transport.endpoint import Waker
from soma.transport.zap import Zap

log = logging.getLogger("soma")

Socket = zmq.Socket[bytes]
_EVENT = struct.Struct("=HI")
_POLLIN = int(zmq.POLLIN)
_LINKS = int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
_REFUSALS = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
REMIND = 1.0
"""Seconds after which a mailbox that has not answered is asked again."""

_numbers = itertools.count()

Told = Callable[[str, bool], None]
"""Hears (peer, whether it is there again) of connections to other machines."""


class Tended(Protocol):
    """An outlet, as this thread sees it."""

    def attend(self) -> None:
        """Read what came, if anything did."""

    def link_changed(self, address: str, up: bool) -> None:
        """A connection to `address` was made, or lost."""

    def remind(self) -> None:
        """Ask those again that have not answered."""

    @property
    def unsettled(self) -> bool:
        """Whether `remind` has something to do."""


class Tending:
    """One for each network wire."""

    def __init__(self, context: zmq.Context[Socket], public_key: bytes) -> None:
        allowed = z85.decode(public_key)
        self._context = context
        self._zap = Zap(context, lambda domain, address, key: "member" if hmac.compare_digest(key, allowed) else None)
        self._waker = Waker()
        self._lock = threading.Lock()
        self._orders: list[Callable[[], None]] = []
        self._outlets: dict[int, tuple[Tended, Socket]] = {}
        self._refusing: dict[int, Socket] = {}
        self._closed = False
        self._remind_at = math.inf
        self.rejected = 0
        """Handshakes that failed at a mailbox: a wrong key, none, or something that is not ZeroMQ."""
        self._thread = threading.Thread(target=self._loop, name="soma-wire", daemon=True)
        self._thread.start()

    # -- from any thread -------------------------------------------------------------------------------------------------------

    def watch_outlet(self, socket: Socket, outlet: Tended) -> int:
        """Tend an outlet; the socket has no connection yet. Returns what to say to `forget`."""
        monitor, fd = self._monitor(socket, _LINKS), int(socket.getsockopt(zmq.FD))
        self._order(lambda: self._outlets.__setitem__(fd, (outlet, monitor)))
        return fd

    def watch_mailbox(self, socket: Socket) -> int:
        """Count those who are refused at a mailbox."""
        monitor, fd = self._monitor(socket, _REFUSALS), int(socket.getsockopt(zmq.FD))
        self._order(lambda: self._refusing.__setitem__(fd, monitor))
        return fd

    def forget(self, key: int) -> None:
        """Let go of a socket; when this returns it may be closed."""
        done = threading.Event()

        def let_go() -> None:
            watched = self._outlets.pop(key, None)
            monitor = watched[1] if watched is not None else self._refusing.pop(key, None)
            if monitor is not None:
                monitor.close(0)
            done.set()

        if threading.current_thread() is self._thread or self._closed:
            let_go()
        else:
            self._order(let_go)
            done.wait()

    def close(self) -> None:
        """End the thread. Every socket was forgotten before."""
        if not self._closed:
            self._order(lambda: setattr(self, "_closed", True))
            self._thread.join()
            self._waker.close()

    def nudge(self) -> None:
        """An outlet became unsettled."""
        self._waker.set()

    def _order(self, order: Callable[[], None]) -> None:
        with self._lock:
            self._orders.append(order)
        self._waker.set()

    def _monitor(self, socket: Socket, events: int) -> Socket:
        address = f"inproc://soma-monitor-{next(_numbers)}"
        socket.monitor(address, events)
        pair = self._context.socket(zmq.PAIR)
        pair.setsockopt(zmq.LINGER, 0)
        pair.setsockopt(zmq.RCVHWM, 0)
        pair.connect(address)
        return pair

    # -- the thread ------------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except Exception:  # the user's `on_link`, say: without this thread no connection would ever be made again
                log.exception("the wire's thread goes on after an error")
        self._zap.close()

    def _turn(self) -> None:
        items: list[Any] = [(self._waker.fd, _POLLIN), (self._zap.socket, _POLLIN)]
        for fd, (_, monitor) in self._outlets.items():
            items += [(fd, _POLLIN), (monitor, _POLLIN)]
        items += [(monitor, _POLLIN) for monitor in self._refusing.values()]
        asking = any(outlet.unsettled for outlet, _ in self._outlets.values())
        now = time.monotonic()
        if not asking:
            self._remind_at = math.inf
        elif self._remind_at == math.inf:
            self._remind_at = now + REMIND
        elif self._remind_at <= now:
            self._remind_at = now + REMIND
            for outlet, _ in list(self._outlets.values()):
                outlet.remind()
        zmq.zmq_poll(items, int((self._remind_at - now) * 1000 + 1) if asking else -1)
        self._zap.serve()
        for monitor in list(self._refusing.values()):
            self.rejected += sum(address.startswith("tcp:") for _, address in _events(monitor))
        for outlet, monitor in list(self._outlets.values()):
            for event, address in list(_events(monitor)):
                outlet.link_changed(address, event == int(zmq.EVENT_HANDSHAKE_SUCCEEDED))
            outlet.attend()
        self._waker.clear()
        with self._lock:
            orders, self._orders = self._orders, []
        for order in orders:
            order()


def _events(monitor: Socket) -> list[tuple[int, str]]:
    """(event, address) of what a monitor has to tell."""
    found: list[tuple[int, str]] = []
    while True:
        try:
            head, address = monitor.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return found
        found.append((_EVENT.unpack(head)[0], address.decode(errors="replace")))
