"""Webhooks: what is sent when, purely; and that it arrives at a server that fails, in order."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httpx")

from soma.serve.predictions import Prediction
from soma.serve.protocol import WEBHOOK_EVENTS, Request
from soma.serve.webhooks import RETRIES, THROTTLE, Message, Schedule, Webhooks, backoff

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "other": "x"}


def test_the_end_is_tried_twelve_times_again() -> None:
    pauses = [backoff(n) for n in range(1, RETRIES + 2)]
    assert pauses[-1] is None and RETRIES == 12
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8] and pauses[-2] == 60.0
    assert 200 < sum(p for p in pauses if p) < 300


@given(st.sets(st.sampled_from(WEBHOOK_EVENTS)), st.lists(st.tuples(st.sampled_from(["output", "logs"]), st.floats(0, 2)), max_size=30))
def test_what_is_sent_when(wanted: set[str], said: list[tuple[str, float]]) -> None:
    schedule, now, sent = Schedule(tuple(wanted)), 0.0, list[tuple[float, Message]]()

    def take(now: float) -> None:
        while isinstance(message := schedule.next(now), Message):
            sent.append((now, message))
        assert message > 0

    schedule.hear("start", lambda: b"start")
    take(now)
    for event, gap in said:
        pause = schedule.next(now)
        assert isinstance(pause, float)
        if pause <= gap:
            take(now + pause + 1e-9)
        now += gap
        schedule.hear(event, lambda: b"never asked")
        take(now)
    assert not schedule.over
    schedule.hear("completed", lambda: b"never asked")
    take(now)
    assert schedule.over
    events = [m.event for _, m in sent]
    assert set(events) <= wanted and ("start" in events) == ("start" in wanted) and events.count("completed") == ("completed" in wanted)
    assert events[:1] == ["start"] or "start" not in wanted
    assert events[-1:] == ["completed"] or "completed" not in wanted
    times = [at for at, m in sent if m.event in ("output", "logs")]
    early = times[:-1] if "completed" not in wanted else times  # the last one comes with the end, at once
    assert all(b - a >= THROTTLE - 1e-6 for a, b in zip(early, early[1:], strict=False))
    if any(e in wanted for e, _ in said):
        assert "completed" in wanted or (times and max(times) >= max(0.0, now - sum(g for _, g in said)))


class Target:
    """A server that keeps what it is told, and answers the first so many with an error."""

    def __init__(self) -> None:
        self.fails: list[int] = []
        self.told: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.came = threading.Semaphore(0)
        self.slow = threading.Event()
        self.slow.set()
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                target.told.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                target.came.release()
                target.slow.wait(10)
                self.send_response(target.fails.pop(0) if target.fails else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Not on the screen of the tests."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    @property
    def statuses(self) -> list[str]:
        return [body["status"] for _, body, _ in self.told]


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    thread = threading.Thread(target=target.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield target
    target.slow.set()
    target.server.shutdown()
    target.server.server_close()
    thread.join()


def prediction_for(url: str | None, *wanted: str) -> Prediction:
    request = Request(webhook=url, webhook_events_filter=wanted or None, context=TRACE, input={"x": 1})
    return Prediction("a", "prediction", request, "1", lambda: None)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(work)


def quickly(tries: int) -> float | None:
    return None if backoff(tries) is None else 0.001


def test_they_arrive_in_order(target: Target) -> None:
    async def work() -> None:
        webhooks = Webhooks()
        prediction = prediction_for(target.url)
        webhooks.watch(prediction)
        webhooks.watch(prediction_for(None))
        prediction.begin(0.0)
        for i in range(100):
            prediction.output(i, i)
            prediction.log("x\n")
            await asyncio.sleep(0)  # workload
        prediction.finish("succeed", 1.0)
        await webhooks.close()

    run(work())
    assert target.statuses[0] == "processing" and target.told[0][1]["output"] is None
    assert target.statuses[-1] == "succeeded" and target.told[-1][1]["output"] == [*range(100)]
    assert target.statuses[1:-1] in ([], ["processing"])  # one at most: all of it took less than the throttle
    path, _, headers = target.told[0]
    assert path == "/hook" and headers["content-type"] == "application/json"
    assert headers["traceparent"] == TRACE["traceparent"] and headers["tracestate"] == "a=b" and "other" not in headers


@pytest.mark.parametrize("fails", [[503, 500, 429], [503] * 12])
def test_the_end_is_tried_again_until_it_arrives(target: Target, fails: list[int]) -> None:
    target.fails = [500, *fails]
    said: list[str] = []

    async def work() -> None:
        webhooks = Webhooks(lambda level, words: said.append(level), quickly)
        prediction = prediction_for(target.url, "start", "completed")
        webhooks.watch(prediction)
        prediction.begin(0.0)
        prediction.finish("fail", 1.0, error="as the test wants")
        await webhooks.close()

    run(work())
    assert target.statuses == ["processing"] + ["failed"] * (len(fails) + 1)
    assert said == ["warning"]  # the start, which is not tried again


@pytest.mark.parametrize(("fails", "tries"), [([503] * 20, 13), ([404], 1), ([302], 1)])
def test_it_is_given_up_at_last(target: Target, fails: list[int], tries: int) -> None:
    target.fails = [*fails]
    said: list[tuple[str, str]] = []

    async def work() -> None:
        webhooks = Webhooks(lambda *told: said.append(told), quickly)
        prediction = prediction_for(target.url, "completed")
        webhooks.watch(prediction)
        prediction.begin(0.0)
        prediction.finish("cancel", 1.0)
        await webhooks.close()

    run(work())
    assert target.statuses == ["canceled"] * tries
    assert [level for level, _ in said] == ([] if fails == [302] else ["error"])


def test_nobody_there_and_close_does_not_wait_for_ever() -> None:
    said: list[str] = []

    async def work() -> None:
        webhooks = Webhooks(lambda level, words: said.append(words))
        prediction = prediction_for("http://127.0.0.1:1/", "completed")
        webhooks.watch(prediction)
        prediction.begin(0.0)
        prediction.finish("succeed", 1.0)
        await webhooks.close(patience=0.2)

    run(work())
    assert said == ["webhooks: 1 predictions' ends were not delivered"]


def test_a_slow_one_delays_no_prediction(target: Target) -> None:
    target.slow.clear()

    async def work() -> None:
        webhooks = Webhooks()
        predictions = [prediction_for(target.url) for _ in range(20)]
        for prediction in predictions:
            webhooks.watch(prediction)
            prediction.begin(0.0)
            for i in range(1000):
                prediction.output(i, i)
            prediction.finish("succeed", 1.0)
        for _ in range(20):
            assert await asyncio.to_thread(target.came.acquire, timeout=20)
        assert all(p.done for p in predictions) and set(target.statuses) == {"processing"}
        target.slow.set()
        await webhooks.close()

    run(work())
    assert target.statuses.count("succeeded") == 20 and len(target.told) == 40
