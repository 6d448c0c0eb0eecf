"""What a head says to others, and when: what led to it is on record before anybody hears of it.

In a cluster that somebody may take over, everything with an effect waits until the turn is over: so the record never holds half of one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from soma.daemon.ledger import Book
from soma.transport import messages as m
from soma.transport.endpoint import Outlet
from soma.transport.frames import pack


class Speaking:
    """A part of the head."""

    def __init__(self, outlet: Outlet, cluster: str, book: Book) -> None:
        self.outlet, self.cluster, self.book = outlet, cluster, book
        self.drivers: set[str] = set()
        self.listeners: set[str] = set()
        self.event_numbers = itertools.count()
        self._held: list[Callable[[], None]] = []

    def send(self, peer: str, msg: Any, frames: list[bytes] | None = None) -> None:
        self.send_packed(peer, pack(msg), frames)

    def send_packed(self, peer: str, header: bytes, frames: list[bytes] | None = None) -> None:
        whole = [header, *(frames or ())]
        self.effect(lambda: self.outlet.send(peer, whole))

    def connect(self, peer: str) -> None:
        self.outlet.connect(peer)

    def disconnect(self, peer: str) -> None:
        """Drop the connection to a peer that will not come back."""
        self.effect(lambda: self.outlet.disconnect(peer))

    def effect(self, do: Callable[[], None]) -> None:
        """Something that others notice: after what led to it is on record."""
        if self.book.lasting:
            self._held.append(do)
        else:
            do()

    def settle(self) -> None:
        """Everything decided until now is on record; then it has its effects."""
        self.book.flush()
        held, self._held = self._held, []
        for do in held:
            do()

    def answer(self, peer: str, request: bytes, fields: dict[str, Any] | None = None, *, error: str = "", text: str = "",
               body: bytes | None = None) -> None:
        self.send(peer, m.Answer(request, error, text, fields or {}), None if body is None else [body])

    def to_drivers(self, msg: Any) -> None:
        for driver in self.drivers:
            self.send(driver + ".s", msg)

    def event(self, fields: dict[str, Any]) -> None:
        if self.listeners:
            self.to_listeners(m.Event({**fields, "run_id": self.cluster, "seq": next(self.event_numbers), "time": time.time()}))

    def to_listeners(self, event: m.Event) -> None:
        """An event of ours, or one that a process published."""
        for peer in self.listeners:
            self.send(peer + ".s", event)
