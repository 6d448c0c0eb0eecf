"""Batches: who goes with whom (the pure core against what is promised of it), and what callers get."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import weakref
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve import batch
from soma.serve.batching import Gathering, _homes

ACTS = st.lists(st.one_of(st.tuples(st.just("add"), st.just(0)), st.tuples(st.just("leave"), st.integers(0, 40)),
                          st.tuples(st.just("pass"), st.integers(0, 5)), st.tuples(st.just("end"), st.just(0))), max_size=60)


@given(ACTS, st.integers(1, 4), st.integers(0, 6))
def test_who_goes_with_whom(acts: list[tuple[str, int]], max_size: int, wait: int) -> None:
    """Against a plain account of who waits since when."""
    gathering, now, made, waiting, running = Gathering(max_size, float(wait)), 0.0, 0, [], False
    seen: list[int] = []
    for what, n in acts:
        match what:
            case "add":
                gathering.add(made, now)
                waiting.append((made, now))
                made += 1
            case "leave":
                gathering.leave(n)
                waiting = [(k, t) for k, t in waiting if k != n]
            case "pass":
                now += n
            case "end":
                gathering.ended()
                running = False
        begins = not running and bool(waiting) and (len(waiting) >= max_size or now >= waiting[0][1] + wait)
        assert (gathering.due() <= now) == begins
        if not begins and not running and waiting:
            assert gathering.due() == waiting[0][1] + wait
        taken = gathering.take(now)
        assert taken == ([k for k, _ in waiting[:max_size]] if begins else [])
        if begins:
            waiting, running = waiting[max_size:], True
        seen += taken
    assert seen == sorted(set(seen))
    assert gathering.due() == math.inf or not running


class Model:
    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.begin = asyncio.Event()
        self.begin.set()
        self.begun = asyncio.Event()
        self.canceled = 0

    @batch(max_size=3, wait_ms=1)
    async def double(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.begun.set()
        try:
            await self.begin.wait()
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        if "all" in items:
            raise KeyError("all of them")
        return [ValueError(x) if x == "one" else x * 2 for x in items]

    @batch(max_size=2, wait_ms=10_000)
    async def pair(self, items: list[Any]) -> list[Any]:
        """A batch begins when there are two, and not before."""
        return await type(self).double.__wrapped__(self, items)  # type: ignore[attr-defined, no-any-return]

    @batch
    async def wrong(self, items: list[Any]) -> Any:
        return items + items if items[0] else "text"


def test_calls_become_one_and_get_what_is_theirs() -> None:
    async def main() -> None:
        model = Model()
        assert await asyncio.gather(*(model.pair(x) for x in range(6))) == [x * 2 for x in range(6)]
        assert model.batches == [[0, 1], [2, 3], [4, 5]]
        assert await model.double(7) == 14  # nobody else comes

    asyncio.run(main())


def test_errors_go_where_they_belong() -> None:
    async def main() -> None:
        model = Model()
        got = await asyncio.gather(model.pair("one"), model.pair(2), return_exceptions=True)
        assert isinstance(got[0], ValueError) and got[1] == 4
        got = await asyncio.gather(model.pair("all"), model.pair(2), return_exceptions=True)
        assert [type(e) for e in got] == [KeyError, KeyError] and model.batches[1] == ["all", 2]
        for item in (0, 1):
            with pytest.raises(TypeError, match="a batch of 1 gave"):
                await model.wrong(item)
        assert await model.double(3) == 6

    asyncio.run(main())


def test_who_is_canceled_leaves() -> None:
    async def main() -> None:
        model = Model()
        model.begin.clear()
        first = asyncio.ensure_future(model.double(0))
        await model.begun.wait()
        a, b = asyncio.ensure_future(model.double(1)), asyncio.ensure_future(model.double(2))
        begun = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(begun.set_result, None)
        await begun  # both wait for the batch that runs
        a.cancel()
        with pytest.raises(asyncio.CancelledError):
            await a
        model.begin.set()
        assert await first == 0 and await b == 4 and model.batches == [[0], [2]]

    asyncio.run(main())


def test_a_batch_that_all_have_left_is_canceled() -> None:
    async def main() -> None:
        model = Model()
        model.begin.clear()
        calls = [asyncio.ensure_future(model.double(x)) for x in range(3)]
        await model.begun.wait()
        calls[0].cancel()
        await asyncio.wait([calls[0]])
        assert model.canceled == 0
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        model.begin.set()
        assert await model.double(5) == 10 and model.canceled == 1

    asyncio.run(main())


said: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="nobody")


@batch(wait_ms=0)
async def whose(items: list[int]) -> list[str]:
    return [said.get() for _ in items]


def test_a_batch_is_nobodys() -> None:
    async def main() -> None:
        said.set("a caller")
        assert list(await asyncio.gather(whose(1), whose(2))) == ["nobody", "nobody"]

    asyncio.run(main())


def test_it_keeps_nothing_alive_and_can_be_sent() -> None:
    async def main() -> weakref.ref[Any]:
        model = Model()
        assert await whose(1) == "nobody"
        assert await model.double(1) == 2 and model in _homes
        cloudpickle.dumps(Model)
        return weakref.ref(model)

    model = asyncio.run(main())
    gc.collect()
    assert model() is None and len(_homes) == 0


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="async"):
        batch(lambda items: items)
    for bad in ({"max_size": 0}, {"max_size": True}, {"wait_ms": -1}, {"wait_ms": math.nan}):
        with pytest.raises(ValueError, match="batch: "):
            batch(**bad)
