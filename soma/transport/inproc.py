"""Mailboxes in one process, without sockets: the same contract as ZeroMQ's, deterministic, for tests and simulations.

A message to a name that has no mailbox is dropped, as on the real wire. Frames are copied at `send`, so a sender may reuse
its buffers here as little as there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from soma.errors import ClusterError
from soma.transport.endpoint import Frame


class InprocMailbox:
    def __init__(self, wire: InprocWire, name: str) -> None:
        self._wire, self._name = wire, name
        self._queue: deque[list[bytes]] = deque()
        self._changed = threading.Condition()
        self._woken = False

    def deliver(self, frames: list[bytes]) -> None:
        with self._changed:
            self._queue.append(frames)
            self._changed.notify_all()

    def poll(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._queue and not self._woken:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
            if self._queue:
                return True
            self._woken = False
            return False

    def take(self) -> list[bytes]:
        return self._queue.popleft()

    def take_nowait(self) -> list[bytes] | None:
        return self._queue.popleft() if self._queue else None

    def ready(self) -> bool:
        return bool(self._queue)

    def recv(self, timeout: float | None) -> list[bytes] | None:
        return self.take() if self.poll(timeout) else None

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def wake_fd(self) -> int:
        return -1

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._wire.forget(self._name, self)


class InprocOutlet:
    def __init__(self, wire: InprocWire, name: str) -> None:
        self._wire, self._name = wire, name
        self._closed = False
        self._gone: set[str] = set()

    def connect(self, peer: str) -> None:
        return

    def send(self, peer: str, frames: Sequence[Frame]) -> None:
        if not self._closed and peer not in self._gone:
            self._wire.deliver(peer, [self._name.encode(), *(bytes(f) for f in frames)])

    def disconnect(self, peer: str) -> None:
        self._gone.add(peer)

    def near(self, peer: str) -> bool:
        return True

    def close(self, linger: float = 0.0) -> None:
        self._closed = True


class InprocWire:
    """A registry of mailboxes by name."""

    def __init__(self) -> None:
        self._boxes: dict[str, InprocMailbox] = {}

    def claim(self, base: str) -> str:
        return base

    def mailbox(self, name: str) -> InprocMailbox:
        if name in self._boxes:
            raise ClusterError(f"cannot bind {name}: the name is taken")
        box = self._boxes[name] = InprocMailbox(self, name)
        return box

    def outlet(self, name: str) -> InprocOutlet:
        return InprocOutlet(self, name)

    def deliver(self, peer: str, frames: list[bytes]) -> None:
        box = self._boxes.get(peer)
        if box is not None:
            box.deliver(frames)

    def forget(self, name: str, box: InprocMailbox) -> None:
        if self._boxes.get(name) is box:
            del self._boxes[name]

    def close(self) -> None:
        self._boxes.clear()
