"""`@soma.serve.batch`: calls that come at about the same time become one call with a list.

    class Predictor(soma.serve.BasePredictor):
        async def predict(self, text: str) -> float:
            return await self.score(text)

        @soma.serve.batch(max_size=8, wait_ms=5)
        async def score(self, texts: list[str]) -> list[float]:
            return self.model(texts)

For `async def predict` with several slots. `Gathering` decides who goes with whom; it knows no event loop, and time is an argument.

- A batch has its calls in the order in which they came, `max_size` at most, and runs alone: what comes meanwhile is gathered for the next.
- The first of a batch waits `wait_ms` at most, and for the end of the one that runs.
- A caller that is canceled leaves: its item is not in the batch, if that has not begun; a batch that all callers have left is canceled.
- A batch belongs to no prediction: what it prints goes to the log of the process, and `current_scope()` there is nobody's.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import itertools
import math
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

_MISSING = object()


@dataclass(slots=True)
class Gathering:
    """Who waits, since when, and whether a batch runs."""

    max_size: int
    wait: float
    running: bool = False
    _since: dict[int, float] = field(default_factory=dict)

    def add(self, key: int, now: float) -> None:
        self._since[key] = now

    def leave(self, key: int) -> None:
        """Does nothing if it does not wait."""
        self._since.pop(key, None)

    def due(self) -> float:
        """When the next batch is to begin; infinity if that is not known yet."""
        if self.running or not self._since:
            return math.inf
        times = list(itertools.islice(self._since.values(), self.max_size))
        return min(times[0] + self.wait, times[-1] if len(times) == self.max_size else math.inf)

    def take(self, now: float) -> list[int]:
        """The batch that begins now; empty if none is due."""
        if now < self.due():
            return []
        taken = list(itertools.islice(self._since, self.max_size))
        for key in taken:
            del self._since[key]
        self.running = True
        return taken

    def ended(self) -> None:
        self.running = False


@dataclass(frozen=True, slots=True)
class _Call:
    fn: Callable[[list[Any]], Awaitable[Sequence[Any]]]
    item: Any
    answer: asyncio.Future[Any]


class _Batches:
    """The batches of one method of one object, in one event loop."""

    def __init__(self, max_size: int, wait: float) -> None:
        self.loop = weakref.ref(asyncio.get_running_loop())  # it may be what this is kept by
        self._gathering = Gathering(max_size, wait)
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._inside: set[int] = set()

    async def ask(self, fn: Callable[[list[Any]], Awaitable[Sequence[Any]]], item: Any) -> Any:
        number = next(self._numbers)
        call = self._calls[number] = _Call(fn, item, asyncio.get_running_loop().create_future())
        self._gathering.add(number, asyncio.get_running_loop().time())
        self._go_on()
        try:
            return await call.answer
        finally:
            self._calls.pop(number, None)
            self._gathering.leave(number)
            if call.answer.cancelled() and self._task is not None and self._inside and not self._inside & self._calls.keys():
                self._task.cancel()

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        if numbers := self._gathering.take(loop.time()):
            self._inside = set(numbers)
            # A context of its own: what is said in a batch must not be taken for what one of its callers says.
            self._task = loop.create_task(self._run(numbers), context=contextvars.Context())
            self._task.add_done_callback(self._ended)
        elif (due := self._gathering.due()) < math.inf:
            self._timer = loop.call_at(due, self._go_on, context=contextvars.Context())

    async def _run(self, numbers: Sequence[int]) -> None:
        calls = [self._calls[n] for n in numbers]
        try:
            results = await calls[0].fn([call.item for call in calls])
            if not isinstance(results, Sequence) or isinstance(results, str | bytes) or len(results) != len(calls):
                said = f"{len(results)} results" if isinstance(results, Sequence) else f"a {type(results).__name__}"
                raise TypeError(f"a batch of {len(calls)} gave {said}; it is to give a list with a result for each")
        except Exception as e:
            results = [e] * len(calls)
        for call, result in zip(calls, results, strict=True):
            if call.answer.done():
                continue  # it has left
            if isinstance(result, StopIteration):
                call.answer.set_exception(RuntimeError(f"a batch raised {result!r}"))  # no future takes that one
            elif isinstance(result, BaseException):
                call.answer.set_exception(result)
            else:
                call.answer.set_result(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for number in self._inside & self._calls.keys():  # those of a batch that was canceled from elsewhere, or left by BaseException
            if not (answer := self._calls[number].answer).done():
                answer.cancel()
        self._task, self._inside = None, set()
        self._gathering.ended()
        self._go_on()


_homes: weakref.WeakKeyDictionary[Any, dict[str, _Batches]] = weakref.WeakKeyDictionary()
"""By object (or event loop, for a function) and name. Not in the decorated function, so that its class can be sent to another process."""


@overload
def batch(fn: Callable[..., Awaitable[Any]], *, max_size: int = 8, wait_ms: float = 5.0) -> Callable[..., Awaitable[Any]]: ...
@overload
def batch(fn: None = None, *, max_size: int = 8,
          wait_ms: float = 5.0) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]: ...
def batch(fn: Any = None, *, max_size: int = 8, wait_ms: float = 5.0) -> Any:
    """Make calls with one item of an async function or method that takes a list and gives one. See the module.

    Args:
        fn: `async def f(self, items)` or `async def f(items)`; called with one item, which it may not take by name. It gives as many
            results, in the same order. What it raises is raised by all of its calls; a result that is an exception by that one alone.
        max_size: of a batch.
        wait_ms: milliseconds that the first of a batch waits for others.

    Raises:
        TypeError: `fn` is not async. ValueError: a number that cannot be.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ValueError(f"batch: max_size={max_size!r}: a whole number from 1")
    if isinstance(wait_ms, bool) or not isinstance(wait_ms, int | float) or not 0 <= wait_ms < math.inf:
        raise ValueError(f"batch: wait_ms={wait_ms!r}: milliseconds from 0")
    if fn is None:
        return functools.partial(batch, max_size=max_size, wait_ms=wait_ms)
    if not inspect.iscoroutinefunction(fn):
        raise TypeError(f"@soma.serve.batch is for an async function, and {fn!r} is none")
    name = f"{fn.__module__}.{fn.__qualname__}"

    @functools.wraps(fn)
    async def ask(first: Any, second: Any = _MISSING, /) -> Any:
        method = second is not _MISSING
        batches = _batches(first if method else asyncio.get_running_loop(), name, max_size, wait_ms / 1000)
        return await batches.ask(functools.partial(fn, first) if method else fn, second if method else first)

    return ask


def _batches(home: Any, name: str, max_size: int, wait: float) -> _Batches:
    by_name = _homes.setdefault(home, {})
    found = by_name.get(name)
    if found is None or found.loop() is not asyncio.get_running_loop():
        found = by_name[name] = _Batches(max_size, wait)
    return found
