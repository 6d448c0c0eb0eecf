"""`Outputs`: what a prediction gives, told item by item while it runs, or given at its end.

A number or a short text is told as it is, at once; where they come faster than messages are worth it, several together, and the last of
them a moment later. Everything else is told as its JSON text, in pieces that fit into messages.
"""

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from soma.serve.schema import Signature
from soma.serve.slots.encoding import encoded
from soma.serve.slots.sending import Sender

SMALL = 12_000
"""Characters of a text that surely fits into a message, of four bytes each."""
PIECE = 48_000
"""Of JSON text, which is ASCII."""
MANY = 256
"""Items in a message."""
GAP = 0.0005
"""Seconds since the last message after which the next item has one of its own."""
_WIDE = 2**63


class Outputs:
    """See the module. `give` is called by one thread, where no cancel can come in between.

    Args:
        tell: sends a message to the front end.
        sender: where files go.
        later: calls a function in a moment, by another thread perhaps.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], sender: Sender, later: Callable[[Callable[[], None]], None]) -> None:
        self._tell, self._sender, self._later = tell, sender, later
        self.count = 0
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._batch: list[Any] = []
        self._first = self._size = 0
        self._told = 0.0

    def encoded(self, value: Any) -> Any:
        """As JSON; files are sent. May take its time."""
        return encoded(value, self._sender, f"output[{self.count}]" if self.count else "output")

    def give(self, found: Any) -> None:
        """One of several, encoded."""
        index, self.count = self.count, self.count + 1
        if not is_small(found):
            self._give_in_pieces(index, found)
            return
        size = 4 * len(found) + 5 if type(found) is str else 10
        now = time.monotonic()
        with self._lock:
            if not self._batch and now - self._told > GAP:
                self._told = now
                self._tell({"kind": "output", "index": index, "value": found})
                return
            if self._size + size > PIECE or len(self._batch) >= MANY:
                self._flush()
            self._batch.append(found)
            self._size += size
            if len(self._batch) == 1:
                self._first = index
                self._later(self._flush_late)

    def flush(self) -> None:
        """All that was given is told."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._told = time.monotonic()
            self._tell({"kind": "outputs", "first": self._first, "values": self._batch})
            self._batch, self._size = [], 0

    def _flush_late(self) -> None:
        self._context.run(self.flush)

    def _give_in_pieces(self, index: int, found: Any) -> None:
        text = json.dumps(found, allow_nan=False, separators=(",", ":"))
        with self._lock:
            self._flush()
            for start in range(0, len(text), PIECE):
                self._tell({"kind": "output", "index": index, "part": text[start:start + PIECE], "last": start + PIECE >= len(text)})


def is_stream(value: Any, signature: Signature) -> bool:
    """Whether its items are to be told one by one: those of an iterator, and of a list where an iterator was declared."""
    if isinstance(value, (list, tuple)):
        return signature.output.is_stream
    return (hasattr(value, "__next__") or hasattr(value, "__anext__")) and not hasattr(value, "read")


def is_small(value: Any) -> bool:
    """Whether a message can hold it as it is: no wide integer, no half of a surrogate pair; nothing nested, which has limits of its own."""
    kind = type(value)
    if kind is str:
        text: str = value
        return len(text) <= SMALL and (text.isascii() or _encodes(text))
    if kind is int:
        return bool(-_WIDE <= value < _WIDE)
    return kind is float or kind is bool or value is None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
