"""What a child that the user's code forked may do with its parent's cluster: nothing.

The child has copies of the parent's sockets, tables and finalizers; using them would corrupt both. So each runtime is told, and
refuses from then on.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from soma.errors import ForkedClientError

_told: list[weakref.WeakMethod[Callable[[], None]]] = []


def watch(fn: Callable[[], None]) -> None:
    """Call the bound method `fn` in every child that is forked from now on, as long as its object lives."""
    _told[:] = [r for r in _told if r() is not None]
    _told.append(weakref.WeakMethod(fn))


def refusal() -> ForkedClientError:
    return ForkedClientError(
        f"process {os.getpid()} was forked from one that uses soma; use actors instead of fork, or call soma.init() here")


class NoOutlet:
    """In a forked child: whatever would be sent raises."""

    def __init__(self, why: BaseException) -> None:
        self._why = why

    def send(self, peer: str, frames: Sequence[Any]) -> None:
        raise self._why

    def connect(self, peer: str) -> None:
        raise self._why

    disconnect = connect

    def near(self, peer: str) -> bool:
        raise self._why

    def close(self, linger: float = 0.0) -> None:
        return


def _in_child() -> None:
    for ref in _told:
        fn = ref()
        if fn is not None:
            fn()


os.register_at_fork(after_in_child=_in_child)
