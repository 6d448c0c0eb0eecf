"""One prediction: it ends once, says what happened in order, and readers who come late get what was said before."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve.predictions import HISTORY, READERS, Prediction, stamp
from soma.serve.protocol import Refused, Request


def made(on_gone: Any = lambda: None, **request: Any) -> Prediction:
    return Prediction("x", "prediction", Request(input={"a": 1}, **request), "7", on_gone)


async def read(prediction: Prediction) -> list[tuple[str, Any]]:
    return [said async for said in prediction.events()]


HAPPENINGS = st.lists(st.sampled_from(["begin", "requeue", "log", "output", "metric", "succeed", "fail", "cancel"]), max_size=30)


@given(HAPPENINGS)
def test_the_first_end_stays_and_a_reader_hears_what_a_late_one_hears(happenings: list[str]) -> None:
    async def live() -> None:
        prediction = made()
        early = asyncio.create_task(read(prediction))
        ends: list[str] = []
        output: list[int] = []
        begun, logs = False, ""
        for i, happening in enumerate(happenings):
            open_ = not ends
            match happening:
                case "begin" if open_ and not begun:
                    prediction.begin(float(i))
                    begun = True
                case "requeue" if open_ and begun:
                    prediction.requeue()
                    begun = False
                case "log":
                    prediction.log(f"{i}\n")
                    logs += f"{i}\n" if open_ else ""
                case "output":
                    prediction.output(len(output), i)
                    output += [i] if open_ else []
                case "metric":
                    prediction.metric("a.b", 1, "increment")
                case "succeed" if begun or not open_:
                    assert prediction.finish("succeed", float(i), is_list=True) == open_
                    ends.append("succeeded")
                case "fail":
                    assert prediction.finish("fail", float(i), error="why") == open_
                    ends.append("failed")
                case "cancel":
                    assert prediction.finish("cancel", float(i)) == open_
                    ends.append("canceled")
            await asyncio.sleep(0)
        prediction.finish("cancel", 99.0)
        told = prediction.as_dict()
        assert told["status"] == (ends or ["canceled"])[0] and told["logs"] == logs
        assert (told["output"] or []) == output and told["metrics"]["predict_time"] >= 0
        assert told["completed_at"] is not None and (told["error"] == "why") == (told["status"] == "failed")
        late = await read(prediction)
        assert await early == late and late[-1] == ("error" if told["status"] == "failed" else "completed", told)
        assert [kind for kind, _ in late].count("completed") + [kind for kind, _ in late].count("error") == 1

    asyncio.run(live())


def test_who_comes_late_gets_the_last_and_who_is_slow_gets_all() -> None:
    async def live() -> None:
        prediction = made()
        slow = prediction.events()
        prediction.begin(0.0)
        assert (await anext(slow))[0] == "start"
        for i in range(5000):
            prediction.output(i, i)
        late = prediction.events()
        assert (await anext(late))[1]["index"] == 5000 - HISTORY
        await late.aclose()  # type: ignore[attr-defined]
        assert [(await anext(slow))[1]["index"] for _ in range(2500)] == list(range(2500))
        prediction.finish("succeed", 1.0)
        said = [said async for said in slow]
        assert [data["index"] for _, data in said[:-1]] == list(range(2500, 5000)) and said[-1][1]["output"] == list(range(5000))
        said = await read(prediction)
        assert len(said) == HISTORY and said[-1][0] == "completed"

    asyncio.run(live())


def test_one_reader_too_many_is_refused_and_those_who_left_count_no_more() -> None:
    async def live() -> None:
        prediction = made()
        readers = [asyncio.create_task(read(prediction)) for _ in range(READERS)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await read(prediction)
        assert refused.value.status == 429
        readers.pop().cancel()
        await asyncio.sleep(0)
        readers.append(asyncio.create_task(read(prediction)))
        await asyncio.sleep(0)
        prediction.finish("cancel", 0.0)
        assert {said[-1][0] for said in await asyncio.gather(*readers)} == {"completed"}

    asyncio.run(live())


def test_who_waits_is_woken_and_who_goes_is_told_of_only_before_the_end() -> None:
    async def live() -> None:
        gone: list[bool] = []
        prediction = made(lambda: gone.append(True))
        waits = [asyncio.create_task(prediction.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        prediction.abandoned()
        assert gone == [True] and not any(task.done() for task in waits)
        prediction.finish("cancel", 0.0)
        await asyncio.gather(*waits)
        prediction.abandoned()
        assert gone == [True]

    asyncio.run(live())


def test_what_is_said_of_it_is_what_cog_says() -> None:
    prediction = made(webhook="http://somewhere", created_at="then")
    assert set(prediction.as_dict()) == {"id", "status", "input", "output", "logs", "error", "metrics", "version", "created_at",
                                         "started_at", "completed_at", "webhook"}
    assert prediction.as_dict()["created_at"] == "then" and prediction.as_dict()["input"] == {"a": 1}
    assert prediction.as_dict()["output"] is None and "webhook" not in made().as_dict()


@given(st.floats(min_value=1e-3, max_value=4e9))
def test_a_stamp_says_when(at: float) -> None:
    text = stamp(at)
    assert text is not None and len(text) == len("2026-01-02T03:04:05.000006+00:00")
    assert abs(datetime.datetime.fromisoformat(text).timestamp() - at) < 2e-6


def test_the_stamp_of_what_has_not_been() -> None:
    assert stamp(0.0) is None
    assert stamp(1e9 - 1e-7) == "2001-09-09T01:46:40.000000+00:00", "rounded into the next second"


def test_who_waits_and_gives_up_leaves_the_others_waiting() -> None:
    async def live() -> None:
        prediction = made()
        first, second = (asyncio.create_task(prediction.wait()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled() and not second.done()
        prediction.finish("cancel", 0.0)
        await second
        await prediction.wait()

    asyncio.run(live())
