"""Generators and coroutines."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import soma

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@soma.remote
class Source:
    def __init__(self) -> None:
        self.closed = 0

    def numbers(self, n: int) -> Iterator[int]:
        yield from range(n)

    def endless(self) -> Iterator[int]:
        try:
            i = 0
            while True:
                yield i
                i += 1
        finally:
            self.closed += 1

    def breaks(self) -> Iterator[int]:
        yield 1
        raise ValueError("in the middle")

    def bad_item(self) -> Iterator[Any]:
        import threading

        yield 1
        yield threading.Lock()

    def as_list(self) -> list[int]:
        return [1, 2]

    def times_closed(self) -> int:
        return self.closed


@soma.remote
class Coroutines:
    def __init__(self) -> None:
        self.n = 0

    async def add(self, k: int) -> int:
        await asyncio.sleep(0)  # workload
        self.n += k
        return self.n

    async def fail(self) -> None:
        raise ValueError("async")

    async def numbers(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)  # workload
            yield i

    async def ask(self, other: Any) -> int:
        a, b = await asyncio.gather(other.add.remote(10), other.add.remote(0))
        return max(a, b)

    def plain(self) -> int:
        return self.n


def values(stream: Any) -> list[Any]:
    return [get(ref) for ref in stream]


def test_a_generator_streams_without_being_told() -> None:
    stream = Source.remote().numbers.remote(100)
    assert isinstance(stream, soma.ObjectRefGenerator)
    assert values(stream) == list(range(100))
    assert next(stream, "end") == "end"


def test_streams_of_tasks() -> None:
    @soma.remote
    def squares(n: int) -> Iterator[int]:
        for i in range(n):
            yield i * i

    assert values(squares.remote(5)) == [0, 1, 4, 9, 16]
    assert values(squares.options(num_returns="streaming").remote(0)) == []


def test_items_are_snapshots() -> None:
    @soma.remote
    def grow() -> Iterator[Any]:
        x = np.zeros(3)
        for i in range(3):
            x[i] = 1
            yield x

    assert [a.tolist() for a in values(grow.remote())] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_items_travel_as_refs() -> None:
    @soma.remote
    def total(*xs: int) -> int:
        return sum(xs)

    assert get(total.remote(*Source.remote().numbers.remote(5))) == 10


def test_an_error_ends_the_stream() -> None:
    stream = Source.remote().breaks.remote()
    assert get(next(stream)) == 1
    with pytest.raises(ValueError, match="in the middle"):
        get(next(stream))
    assert next(stream, "end") == "end"


def test_an_item_that_cannot_be_pickled() -> None:
    stream = Source.remote().bad_item.remote()
    assert get(next(stream)) == 1
    with pytest.raises(soma.ResultNotSerializableError):
        get(next(stream))
    assert next(stream, "end") == "end"


def test_streaming_needs_a_generator() -> None:
    source = Source.remote()
    stream = source.times_closed.options(num_returns="streaming").remote()
    with pytest.raises(TypeError, match="int"):
        get(next(stream))
    assert get(source.as_list.remote()) == [1, 2]


def test_a_dropped_stream_stops_its_producer() -> None:
    source = Source.remote()
    stream = source.endless.remote()
    assert [get(next(stream)) for _ in range(3)] == [0, 1, 2]
    del stream
    gc.collect()
    assert get(source.times_closed.remote()) == 1


def test_calls_after_a_stream_wait_for_its_end() -> None:
    source = Source.remote()
    stream = source.numbers.remote(5)
    later = source.times_closed.remote()
    assert values(stream) == [0, 1, 2, 3, 4]
    assert get(later) == 0


def test_a_stream_cannot_be_sent() -> None:
    stream = Source.remote().numbers.remote(1)
    with pytest.raises(TypeError, match="send its refs"):
        soma.put([stream])
    assert values(stream) == [0]


def test_coroutines() -> None:
    c = Coroutines.remote()
    assert get([c.add.remote(1) for _ in range(10)]) == list(range(1, 11))
    assert get(c.plain.remote()) == 10
    with pytest.raises(ValueError, match="async"):
        get(c.fail.remote())


def test_async_generators() -> None:
    c = Coroutines.remote()
    assert values(c.numbers.remote(20)) == list(range(20))

    async def main() -> list[int]:
        return [await ref async for ref in c.numbers.remote(3)]

    assert asyncio.run(main()) == [0, 1, 2]


def test_coroutines_await_other_actors() -> None:
    a, b = Coroutines.remote(), Coroutines.remote()
    assert get(a.ask.remote(b)) == 10


def test_async_functions() -> None:
    @soma.remote
    async def later(x: int) -> int:
        await asyncio.sleep(0)  # workload
        return x

    assert get(later.remote(4)) == 4


def test_a_coroutine_as_driver() -> None:
    async def main() -> list[int]:
        c = Coroutines.remote()
        return list(await asyncio.gather(*(c.add.remote(1) for _ in range(5))))

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


def test_threads_with_max_concurrency() -> None:
    source = Source.options(max_concurrency=4).remote()
    assert get([source.as_list.remote() for _ in range(8)]) == [[1, 2]] * 8
