"""A daemon's loop: one thread, one mailbox, one selector, timers. Nothing that it calls may block."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from soma.transport.endpoint import Mailbox, Outlet, Waker


class PollableMailbox(Mailbox, Protocol):
    """A mailbox that a selector can watch."""

    def fileno(self) -> int:
        """Edge-triggered: before every select, `poll(0)` until it says False."""


class PollableWire(Protocol):
    """A wire whose mailboxes a selector can watch."""

    def mailbox(self, name: str) -> PollableMailbox: ...
    def outlet(self, name: str) -> Outlet: ...
    def close(self) -> None: ...


class Loop:
    """`run` returns after `stop`."""

    def __init__(self, mailbox: PollableMailbox, on_message: Callable[[list[bytes]], None]) -> None:
        self._mailbox, self._on_message = mailbox, on_message
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._over = False
        self._eager: list[Callable[[], None]] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._waker = Waker()
        self._selector.register(mailbox.fileno(), selectors.EVENT_READ, None)
        self._selector.register(self._waker.fd, selectors.EVENT_READ, lambda fd: self._waker.clear())

    def run(self) -> None:
        while not self._over:
            self.read_all()
            for fn in self._eager:
                fn()
            while self._soon:
                self._soon.popleft()()
            if self._over:
                break
            for key, _ in self._selector.select(self._until_next_timer()):
                if key.data is not None and self._selector.get_map().get(key.fd) is key:  # an earlier one may have closed it
                    key.data(key.fd)
            now = self.now()
            while self._timers and self._timers[0][0] <= now and not self._over:
                heapq.heappop(self._timers)[2]()

    def read_all(self) -> None:
        """Handle every message that is there."""
        while not self._over and self._mailbox.poll(0):
            self._on_message(self._mailbox.take())

    def stop(self) -> None:
        """What is at hand is the last. Also from a signal handler."""
        self._over = True
        self._waker.set()

    def soon(self, fn: Callable[[], None]) -> None:
        """Call `fn` next. From a signal handler or another thread: a wait that a signal interrupts would simply go on."""
        self._soon.append(fn)
        self._waker.set()

    def now(self) -> float:
        return time.monotonic()

    def after(self, seconds: float, fn: Callable[[], None]) -> None:
        """Call `fn` once, later."""
        heapq.heappush(self._timers, (self.now() + seconds, next(self._order), fn))

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else None

    def watch_fd(self, fd: int, fn: Callable[[int], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, fn)

    def watch_edge(self, fd: int, fn: Callable[[], None]) -> None:
        """For a descriptor that tells of changes only (a zmq socket's): `fn` is called before every wait, and takes all there is."""
        self._selector.register(fd, selectors.EVENT_READ, None)
        self._eager.append(fn)

    def before_waiting(self, fn: Callable[[], None]) -> None:
        """`fn` is called whenever everything at hand was dealt with."""
        self._eager.append(fn)

    def watches(self, fd: int) -> bool:
        return fd in self._selector.get_map()

    def unwatch_fd(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def close(self) -> None:
        self._selector.close()
        self._waker.close()
