"""`ObjectRef` and `ObjectRefGenerator`: what a call gives back. Plain names of values; the engine does the work.

A ref knows its owner (the process whose call or `put` made it) and the actor that computes it. Dropping the last Python
reference tells the engine; pickling one is the engine's matter (`actors.travel`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Generic, Protocol, TypeVar

from soma.errors import NotInitializedError
from soma.ids import ObjectId

T = TypeVar("T")


class RefHome(Protocol):
    """What refs need of their engine. `drop_ref` may be called from a finalizer: it takes no lock and never raises."""

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]: ...
    def on_done(self, ref: ObjectRef[Any], fn: Callable[[], None]) -> None: ...
    def drop_ref(self, ref_id: ObjectId, owner: str) -> None: ...
    def stream_next(self, stream: ObjectRefGenerator[Any], timeout: float | None) -> ObjectRef[Any]: ...
    def on_stream(self, stream: ObjectRefGenerator[Any], fn: Callable[[], None]) -> None: ...
    def drop_stream(self, stream_id: ObjectId) -> None: ...


class ObjectRef(Generic[T]):
    """A value that exists, is being computed, or will never be. `soma.get(ref)`, `await ref`, or `ref.future()`."""

    __slots__ = ("id", "owner", "producer", "_home", "__weakref__")

    def __init__(self, id: ObjectId, owner: str, producer: str, home: RefHome) -> None:
        self.id = id
        self.owner = owner
        self.producer = producer
        self._home = home

    def hex(self) -> str:
        return self.id.hex()

    def future(self) -> concurrent.futures.Future[T]:
        """A `concurrent.futures.Future` that settles with this ref."""
        out: concurrent.futures.Future[T] = concurrent.futures.Future()
        out.set_running_or_notify_cancel()

        def settle() -> None:
            try:
                value = self._home.get([self], 0)[0]
            except StopIteration as e:  # a future cannot carry it, as a coroutine cannot
                stopped = RuntimeError("the call raised StopIteration")
                stopped.__cause__ = e
                out.set_exception(stopped)
            except BaseException as e:
                out.set_exception(e)
            else:
                out.set_result(value)

        self._home.on_done(self, settle)
        return out

    def when_done(self, fn: Callable[[], None]) -> None:
        """Call `fn` once this is settled: `soma.get` does not wait any more then. In a thread of soma's; here and now if it is settled."""
        self._home.on_done(self, fn)

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self.future()).__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"ObjectRef({self.id.hex()})"

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("an ObjectRef is not the value: use soma.get(ref); for several returns say num_returns=n")

    def __del__(self) -> None:
        home = getattr(self, "_home", None)
        if home is not None:
            home.drop_ref(self.id, self.owner)


class ObjectRefGenerator(Generic[T]):
    """Refs of a generator's values, as they come. Iterate it with `for` or `async for`; dropping it stops the producer."""

    __slots__ = ("id", "producer", "_home", "__weakref__")

    def __init__(self, id: ObjectId, producer: str, home: RefHome) -> None:
        self.id = id
        self.producer = producer
        self._home = home

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return self

    def __next__(self) -> ObjectRef[T]:
        return self._home.stream_next(self, None)

    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            loop.call_soon_threadsafe(settle)

        def settle() -> None:
            if not ready.done():
                ready.set_result(None)

        self._home.on_stream(self, wake)
        await ready
        try:
            return self._home.stream_next(self, 0)
        except StopIteration:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self.id.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError("a stream belongs to the process that made the call; send its refs instead")

    def __del__(self) -> None:
        home = getattr(self, "_home", None)
        if home is not None:
            home.drop_stream(self.id)


class NoHome:
    """Stands where no engine runs (any more): every use says so."""

    def __getattr__(self, name: str) -> Any:
        raise NotInitializedError("this ref belongs to a cluster that was shut down")
