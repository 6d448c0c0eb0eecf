"""What the `local=True` engine keeps of its calls: slots, calls, lanes, streams, and a loop for coroutines. No decisions here.

A *lane* is a row of calls that run one after the other: an actor with `max_concurrency=1` is one lane, every other call has a
lane of its own. A lane is taken while a call runs, and held by a stream until its generator ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.actors.methods import MethodSpec
from soma.actors.options import Options
from soma.actors.refs import ObjectRef
from soma.ids import CallId
from soma.transport.values import Parcel

if TYPE_CHECKING:
    from soma.actors.local.actor import LocalActor

Outcome = Callable[[], Any]
"""Returns a fresh copy of a value, or raises the error that took its place."""


class NeedFailed(Exception):
    """An argument is a ref whose value is an error: it becomes the call's own."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass(slots=True, eq=False)
class Slot:
    """What a ref names."""

    call: Call | None = None
    """None for `put`."""
    outcome: Outcome | None = None
    refs: int = 0
    callbacks: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """One call that is not settled."""

    id: CallId
    what: MethodSpec
    actor: LocalActor | None
    """None for a task."""
    function: Callable[[], Callable[..., Any]]
    """Looked up when the call runs: a restarted actor is another object."""
    parcel: Parcel
    """(args, kwargs)."""
    needs: list[ObjectRef[Any]]
    """Refs that arrive as their values."""
    options: Options
    lane: Lane
    loop: Loop
    slots: list[Slot] = field(default_factory=list)
    stream: Stream | None = None
    attempt: int = 0
    cancelled: bool = False

    @property
    def label(self) -> str:
        return self.what.name if self.actor is None else f"{self.actor.info.class_name}.{self.what.name}"

    @property
    def producer(self) -> str:
        return "" if self.actor is None else self.actor.info.actor

    @property
    def retries(self) -> int:
        return self.options.max_retries or self.options.max_task_retries if self.actor is None else self.options.max_task_retries

    @property
    def may_repeat(self) -> bool:
        return self.stream is None and (self.retries < 0 or self.attempt < self.retries)


@dataclass(slots=True, eq=False)
class Stream:
    """A generator that runs as far as its consumer asks."""

    call: Call
    started: Slot
    """Settles when the generator exists, or never will."""
    generator: Any = None
    ready: deque[ObjectRef[Any]] = field(default_factory=deque)
    items: int = 0
    ended: bool = False


@dataclass(slots=True, eq=False)
class Lane:
    """A row of calls. `thread` runs one of them now; `stream` is the generator that must end before the next may run."""

    queue: deque[Call] = field(default_factory=deque)
    thread: int | None = None
    stream: Stream | None = None


class Loop:
    """An event loop made when the first coroutine needs it. It may run inside another one: an async method that calls an async
    method, or a driver that is itself a coroutine, is nothing special here."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        with _outside_loops():
            if self._runner.get_loop().is_running():  # the coroutine's own actor waits for it further up this stack
                with asyncio.Runner() as other:
                    return other.run(coroutine)
            return self._runner.run(coroutine)

    def close(self) -> None:
        if self._runner is not None and not self._runner.get_loop().is_running():
            with _outside_loops():
                self._runner.close()
            self._runner = None


@contextmanager
def _outside_loops() -> Iterator[None]:
    """asyncio refuses to run a loop in a thread where one runs; here the outer one simply stands still meanwhile."""
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)


def refs_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[ObjectRef[Any]]:
    """The refs that arrive as values: those at the top level."""
    return [a for a in (*args, *kwargs.values()) if isinstance(a, ObjectRef)]
