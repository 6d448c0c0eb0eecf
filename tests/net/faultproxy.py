"""A TCP proxy that does what networks do: late, slow, in pieces, damaged, in one direction only, not at all.

    client ── listening socket ▸ [forward Pipe] ▸ target
                               ◂ [backward Pipe] ◂

`Faults` of each direction can be changed at any time and hold for all connections, also those that are open. Bytes keep their order
always. One thread; its choices depend on the seed, the number of the connection, the direction and the bytes' places alone, not on time.
What a connection does not read stays with who sent it: at most `faultpipe.HELD` bytes wait here for each direction.
"""

from __future__ import annotations

import collections
import ctypes
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from faultpipe import Connection, Faults

CLONE_NEWNET = 0x40000000

Way = Literal["forward", "backward", "both"]
"""Forward is from who connected to the target."""


class FaultProxy:
    """In front of one address. Use it with `with`; its methods may be called from any thread, and hold when they return.

    Args:
        target: host and port.
        host, port: where it listens; port 0 takes a free one.
        seed: of its choices.
        namespace: of the network in which it listens and connects, as `Host.namespace`; by default this process's own.
    """

    def __init__(self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0, seed: int = 0,
                 namespace: Path | None = None) -> None:
        self._target, self._listen, self._seed, self._namespace = target, (host, port), seed, namespace
        self._faults = {"forward": Faults(), "backward": Faults()}
        self._connections: list[Connection] = []
        self._accepting = True
        self._accepted = 0
        self._orders: collections.deque[tuple[Callable[[], None], threading.Event]] = collections.deque()
        self._waker, self._wake = os.pipe()
        self._over = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self.address = self._listen
        """Host and port where it listens."""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._order(lambda: None)  # so that it listens, or has failed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        return f"tcp://{self.address[0]}:{self.address[1]}"

    def set(self, faults: Faults, way: Way = "both") -> None:
        """From now on, in this direction; `Faults()` heals."""
        self._order(lambda: self._faults.update({each: faults for each in self._faults if way in (each, "both")}))

    def reset_all(self) -> int:
        """RST on both sides of each connection; how many there were."""
        open_now: list[int] = []

        def order() -> None:
            open_now.append(len(self._connections))
            while self._connections:
                self._connections.pop().close(reset=True)

        self._order(order)
        return open_now[0]

    def accept(self, yes: bool) -> None:
        """Whether new connections go through, or are reset at once."""
        self._order(lambda: setattr(self, "_accepting", yes))

    def connections(self) -> int:
        """Those that are open."""
        count: list[int] = []
        self._order(lambda: count.append(len(self._connections)))
        return count[0]

    def close(self) -> None:
        """Idempotent; connections are reset. Raises what went wrong inside, if something did."""
        if not self._over:
            self._over = True
            os.write(self._wake, b"x")
            self._thread.join()
            os.close(self._wake)
            os.close(self._waker)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _order(self, order: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((order, done))
        os.write(self._wake, b"x")
        self._await(done)

    def _await(self, done: threading.Event) -> None:
        while not done.wait(0.1):
            if not self._thread.is_alive():
                self.close()
                raise RuntimeError("the proxy has ended")

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._namespace is not None:
                enter(self._namespace)
            with socket.create_server(self._listen, backlog=256) as listener, selectors.DefaultSelector() as selector:
                listener.setblocking(False)
                self.address = listener.getsockname()
                try:
                    while not self._over:
                        self._turn(listener, selector)
                finally:
                    while self._connections:
                        self._connections.pop().close(reset=True)
        except BaseException as failure:  # told by close(), in the thread of the test
            self._failure = failure

    def _turn(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        wanted: dict[Any, int] = {self._waker: selectors.EVENT_READ, listener: selectors.EVENT_READ}
        now, first = time.monotonic(), float("inf")
        for connection in self._connections:
            for way, pipe in connection.pipes.items():
                if pipe.wants_to_read(self._faults[way]):
                    wanted[pipe.source] = wanted.get(pipe.source, 0) | selectors.EVENT_READ
                due = pipe.due(self._faults[way])
                if due is not None and due <= now:
                    wanted[pipe.sink] = wanted.get(pipe.sink, 0) | selectors.EVENT_WRITE
                elif due is not None:
                    first = min(first, due)
        for wish, events in wanted.items():
            selector.register(wish, events)
        try:
            ready = {key.fileobj: events for key, events in selector.select(None if first == float("inf") else max(0.0, first - now))}
        finally:
            for wish in wanted:
                selector.unregister(wish)
        for connection in list(self._connections):
            self._move(connection, ready)
        if listener in ready:
            self._accept(listener)
        if self._waker in ready:
            os.read(self._waker, 4096)
        while self._orders:
            order, done = self._orders.popleft()
            order()
            done.set()

    def _move(self, connection: Connection, ready: dict[Any, int]) -> None:
        now, reset = time.monotonic(), False
        try:
            for way, pipe in connection.pipes.items():
                if ready.get(pipe.source, 0) & selectors.EVENT_READ and pipe.wants_to_read(self._faults[way]):
                    pipe.read(self._faults[way], now)
                due = pipe.due(self._faults[way])
                if due is not None and due <= now:
                    reset |= pipe.write(self._faults[way], now)
        except OSError:  # one side is gone without a goodbye: so the other is told
            reset = True
        if reset or connection.over:
            self._connections.remove(connection)
            connection.close(reset)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client = listener.accept()[0]
        except BlockingIOError:
            return
        self._accepted += 1
        try:
            if not self._accepting:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, 2.0)
        except OSError:  # nobody is there, or nobody shall be
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        self._connections.append(Connection(client, server, f"{self._seed} {self._accepted}"))


def enter(namespace: Path) -> None:
    """Move this thread, and no other, into a network namespace (os.setns is there from Python 3.12 on only)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    finally:
        os.close(fd)
