"""Cancelling what a graph does, from another thread: every verb, also in C that does not return; what is freed, and that it goes on."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.cluster import scheduler
from soma.errors import TaskCancelledError
from soma.events import Event, NodeCompleted, RunFailed

BOUND = 1.0
"""Seconds from `cancel` until it returned and who waited was told."""


@soma.filter(num_cpus=1)
class Sleeps:
    """Says through a named pipe that it has begun, and sleeps: where signals interrupt it, or in C, deaf and with the GIL."""

    def __init__(self, pipe: str, how: str) -> None:
        self.pipe, self.how = pipe, how

    def _sleep(self, x: Any) -> Any:
        if np.ndim(x) == 0 or x[0] < 0:
            return x
        if self.how == "c":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        open(self.pipe, "w").close()
        if self.how == "python":
            time.sleep(60)  # workload
        ctypes.PyDLL(None).sleep(60)  # workload, keeps the GIL

    def fit(self, x: Any, y: Any = None) -> Any:
        self._sleep(x)
        return {"n": len(x)}

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        self._sleep(x)
        return {"n": len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return self._sleep(x)


@soma.filter(stream="evolving")
class Adding:
    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"n": state.get("n", 0) + 1}

    def forward(self, x: Any, state: Any) -> Any:
        return x + state.get("n", 0)


X = np.arange(5.0)
QUIET = -1 - X
VERBS: dict[str, Callable[[soma.Graph], Any]] = {
    "fit": lambda g: g.fit(X),
    "fit on a stream": lambda g: g.fit(X, stream=True, chunk_size=2),
    "forward": lambda g: g.forward(X),
    "run": lambda g: g.run(X),
    "aforward": lambda g: asyncio.run(g.aforward(X)),
    "stream": lambda g: list(g.stream(X, chunk_size=2)),
    "lasting stream": lambda g: list(g.stream(X, chunk_size=2, max_restarts=3)),
}


@pytest.fixture
def heard(shared_cluster: Any) -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = soma.on_event(events.append)
    yield events
    stop()


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "begun")
    return str(tmp_path / "begun")


class Running:
    """A verb in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.ended = 0.0
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as e:
            self.error = e
        self.ended = time.monotonic()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(("verb", "how"), [*((v, "c") for v in VERBS), *((v, "python") for v in ("fit", "forward", "stream"))])
def test_every_verb_ends_within_a_second(heard: list[Event], pipe: str, verb: str, how: str) -> None:
    before = soma.available_resources()
    g = soma.Graph(soma.filter(lambda x: x) >> Sleeps(pipe, how) >> soma.filter(lambda x: x))
    if "fit" not in verb:
        g.fit(QUIET)
        before = soma.available_resources()
    pids = g.pids() if "fit" not in verb else {}
    running = Running(lambda: VERBS[verb](g))
    open(pipe).close()
    asked = time.monotonic()
    assert g.cancel() == 1
    running.join()
    assert isinstance(running.error, TaskCancelledError)
    assert max(running.ended, time.monotonic()) - asked < BOUND
    failed = [e for e in heard if isinstance(e, RunFailed)]
    assert [e.error_type for e in failed] == ["TaskCancelledError"]
    if "fit" in verb:
        assert g.running() == [], "what the run began is ended"
        assert soma.available_resources() == before
    g.fit(QUIET)
    np.testing.assert_array_equal(g.forward(QUIET), QUIET)
    if pids:
        now = g.pids()
        assert [id for id in pids if pids[id] != now[id]] == ([] if how == "python" else ["sleeps"])
        assert soma.available_resources() == before
    g.close()


def test_nothing_under_way(shared_cluster: Any) -> None:
    with soma.Graph(soma.filter(abs)) as g:
        assert g.cancel() == 0
        assert g.forward(-1) == 1
        assert g.cancel() == 0


def test_all_runs_of_a_graph_and_one_stream_alone(shared_cluster: Any, pipe: str) -> None:
    with soma.Graph(soma.filter(lambda x: x)) as g:
        first, second = g.stream(iter(range(100))), g.stream(iter(range(100)))
        assert (next(first), next(second)) == (0, 0)
        first.cancel()
        with pytest.raises(TaskCancelledError):
            next(first)
        assert next(second) == 1
    with soma.Graph(Sleeps(pipe, "python")) as g:
        g.fit(QUIET)
        many = [Running(lambda: g.forward(X)) for _ in range(3)]
        open(pipe).close()
        while g._underway.count < 3:
            os.sched_yield()
        assert g.cancel() == 3
        for running in many:
            running.join()
            assert isinstance(running.error, TaskCancelledError)
        np.testing.assert_array_equal(g.forward(QUIET), QUIET)


def test_a_stream_that_pauses(heard: list[Event]) -> None:
    """Nobody waits for it: what it held is free when `cancel` returns, and who asks for more is told."""
    read = 0

    def source() -> Iterator[Any]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield np.ones(300_000)

    with soma.Graph(Adding() >> soma.filter(lambda x: x[0])) as g:
        used = soma.status()["driver"]["arena_used"]
        stream = g.stream(source(), max_restarts=1)
        assert [next(stream), next(stream)] == [1, 2]
        before = read
        g.cancel()
        assert g.running() == []
        with pytest.raises(TaskCancelledError):
            next(stream)
        with pytest.raises(TaskCancelledError):
            next(stream)
        assert read == before
        assert [e.error_type for e in heard if isinstance(e, RunFailed)] == ["TaskCancelledError"]
        del stream
        until = time.monotonic() + BOUND
        while soma.status()["driver"]["arena_used"] > used:  # what its processes read is free when their death is known
            assert time.monotonic() < until
        assert next(g.stream(source())) == 1, "it begins anew"
        stream = g.stream(source())
        next(stream)
        stream.close()
        with pytest.raises(StopIteration):
            next(stream)


@pytest.mark.parametrize("how", ["forward", "stream"])
def test_from_a_listener_in_the_same_thread(shared_cluster: Any, how: str) -> None:
    with soma.Graph(soma.filter(lambda x: x) >> soma.filter(abs)) as g:
        assert g.forward(-1) == 1

        def on(event: Event) -> None:
            if isinstance(event, NodeCompleted) and event.node == "function":
                g.cancel()

        stop = soma.on_event(on)
        began = time.monotonic()
        with pytest.raises(TaskCancelledError):
            list(g.stream([-1, -2])) if how == "stream" else g.forward(-1)
        stop()
        assert time.monotonic() - began < BOUND
        assert g.forward(-1) == 1


def test_without_force_what_does_not_end_goes_on(shared_cluster: Any, pipe: str) -> None:
    with soma.Graph(Sleeps(pipe, "c")) as g:
        g.fit(QUIET)
        pid = g.pids()["sleeps"]
        running = Running(lambda: g.forward(X))
        open(pipe).close()
        assert g.cancel(force=False) == 1
        assert not running.ended and os.path.exists(f"/proc/{pid}")
        assert g.cancel() == 1
        running.join()
        assert isinstance(running.error, TaskCancelledError)


def test_who_waits_for_resources(shared_cluster: Any) -> None:
    asked = soma.available_resources()
    with soma.Graph(soma.filter(abs, num_cpus=4)) as holder, soma.Graph(soma.filter(abs, num_cpus=4), wait=60) as g:
        assert holder.forward(-1) == 1
        running = Running(lambda: g.forward(-2))
        while not soma.get(scheduler().state.remote())["waiting"]:
            os.sched_yield()
        began = time.monotonic()
        assert g.cancel() == 1
        running.join()
        assert isinstance(running.error, TaskCancelledError) and time.monotonic() - began < BOUND
        assert soma.get(scheduler().state.remote())["waiting"] == []
        holder.close()
        assert g.forward(-2) == 2
    assert soma.available_resources() == asked


def test_what_others_of_the_graph_do_is_left_alone(shared_cluster: Any, pipe: str) -> None:
    """A process that is slow, not stuck, keeps what it learnt."""
    with soma.Graph(Adding() >> Sleeps(pipe, "python")) as g:
        g.fit(QUIET - 5)
        state, pids = g.state(), g.pids()
        running = Running(lambda: g.forward(X))
        open(pipe).close()
        g.cancel()
        running.join()
        assert (g.state(), g.pids()) == (state, pids)
