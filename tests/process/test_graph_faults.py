"""Graphs whose filters raise, die, exceed their memory or hang: what is said, what settles, what is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError, NotFittedError
from soma.events import Event, NodeCompleted, NodeFailed, NodeStarted
from soma.store import Cache

pytestmark = pytest.mark.crash
X = np.arange(12.0).reshape(4, 3)


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter
class Dies:
    """Ends its process the first `times` times that it is used, by a signal; counts in a file."""

    def __init__(self, when: str, counter: str, times: int = 1, number: int = signal.SIGKILL) -> None:
        self.when, self.counter, self.times, self.number = when, counter, times, number

    def _maybe(self, when: str) -> None:
        path = Path(self.counter)
        lives = len(path.read_text()) if path.exists() else 0
        if when == self.when and lives < self.times:
            path.write_text("x" * (lives + 1))
            os.kill(os.getpid(), self.number)

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        self._maybe("fit")
        return {"sum": x.sum()}

    def forward(self, x: Any, state: Any) -> Any:
        self._maybe("forward")
        return x + state["sum"]


@soma.filter(max_retries=1)
class DiesAndComesBack(Dies):  # type: ignore[misc, valid-type]
    pass


@pytest.fixture
def heard(shared_cluster: Any) -> Any:
    events: list[Event] = []
    stop = soma.on_event(events.append)
    yield events
    stop()


def of_nodes(events: list[Event], *kinds: type[Event]) -> list[tuple[str, Any]]:
    return [(type(e).__name__, getattr(e, "node", None)) for e in events if isinstance(e, kinds)]


@pytest.mark.parametrize("when", ["fit", "forward"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_names_node_and_signal_at_once(shared_cluster: Any, tmp_path: Path, when: str, number: int) -> None:
    with soma.Graph(Center() >> Dies(when, str(tmp_path / "n"), 1, number) >> Center()) as g:
        g.pids()
        killed = time.time()
        with pytest.raises(ActorDiedError) as caught:
            g.fit(X)
        took = time.time() - max(killed, (tmp_path / "n").stat().st_mtime)
        assert caught.value.signal == signal.Signals(number).name
        assert any(n.startswith("in node 'dies', attempt 1: Dies(") for n in caught.value.__notes__)
        if number == signal.SIGKILL:  # a segfault first writes the stack
            assert took < 0.25, "50 ms on an idle machine"
        np.testing.assert_array_equal(g.fit(X).forward(X).mean(0), 0)  # it comes back by itself, and lives


def test_a_fit_is_repeated_where_the_filter_says_so(heard: list[Event], tmp_path: Path) -> None:
    with soma.Graph(Center() >> DiesAndComesBack("fit", str(tmp_path / "n")) >> Center()) as g:
        g.fit(X)
        assert g.state()["dies_and_comes_back"]["sum"] == 0
    node = [e for e in heard if getattr(e, "node", "") == "dies_and_comes_back"]
    assert [(type(e).__name__, getattr(e, "attempt", None), getattr(e, "final", None)) for e in node] == [
        ("NodeStarted", 0, None), ("NodeFailed", 0, False), ("NodeStarted", 1, None), ("NodeCompleted", 1, None)]


def test_what_was_learnt_survives_a_death_where_the_filter_asks_for_retries(shared_cluster: Any, tmp_path: Path) -> None:
    with soma.Graph(DiesAndComesBack("forward", str(tmp_path / "n"))) as g:
        g.fit(X)
        before = g.pids()
        np.testing.assert_array_equal(g.forward(X), X + X.sum())
        assert g.pids() != before


def test_it_is_not_repeated_more_often_than_asked(shared_cluster: Any, tmp_path: Path) -> None:
    with soma.Graph(DiesAndComesBack("fit", str(tmp_path / "n"), times=2)) as g:
        with pytest.raises(ActorDiedError) as caught:
            g.fit(X)
        assert any("attempt 2" in n for n in caught.value.__notes__)
        g.fit(X)


def test_without_retries_what_was_learnt_is_gone_and_says_so(shared_cluster: Any, tmp_path: Path) -> None:
    with soma.Graph(Dies("forward", str(tmp_path / "n"))) as g:
        g.fit(X)
        with pytest.raises(ActorDiedError):
            g.forward(X)
        with pytest.raises(NotFittedError, match="node 'dies'"):
            g.forward(X)


def test_with_a_cache_nothing_is_lost(shared_cluster: Any, tmp_path: Path) -> None:
    with soma.Graph(Dies("forward", str(tmp_path / "n")), cache="disk", cache_path=tmp_path / "c") as g:
        g.fit(X)
        with pytest.raises(ActorDiedError):
            g.forward(X)
        np.testing.assert_array_equal(g.forward(X), X + X.sum())


def test_the_other_branches_settle_and_nothing_of_the_failed_node_is_kept(heard: list[Event], tmp_path: Path) -> None:
    def broken(x: Any) -> Any:
        time.sleep(0.1)  # workload: the other branches are in the middle of theirs
        raise ValueError("broken")

    def busy(x: Any) -> Any:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass

    def quick(x: Any) -> Any:
        return x

    where = tmp_path / "c"
    parts = [soma.filter(f) for f in (broken, busy, quick)]
    with soma.Graph(Center() >> parts >> soma.filter(lambda x: 1), cache="disk", cache_path=where) as g:
        g.pids()
        began = time.monotonic()
        with pytest.raises(ValueError, match="broken") as caught:
            g.fit(X).forward(X)
        assert time.monotonic() - began < 5
        assert any(n.startswith("in node 'broken', attempt 1") for n in caught.value.__notes__)
        assert "in broken" in str(caught.value.__cause__)
        forward = heard[max(i for i, e in enumerate(heard) if getattr(e, "what", "") == "forward" and hasattr(e, "plan_summary")):]
        started = of_nodes(forward, NodeStarted)
        ended = of_nodes(forward, NodeCompleted, NodeFailed)
        assert sorted(n for _, n in started) == sorted(n for _, n in ended)
        assert ("NodeFailed", "broken") in ended and ("NodeFailed", "busy") in ended and ("NodeCompleted", "quick") in ended
        assert not [n for _, n in started if n == "function"], "what depends on it never began"
        assert g.run.__self__ is g and g.pids()["busy"], "the processes live on"
    cache = Cache(path=where)
    name = f"{__name__}.test_the_other_branches_settle_and_nothing_of_the_failed_node_is_kept.<locals>"
    assert cache.last(f"{name}.quick@quick forward") is not None
    assert cache.last(f"{name}.broken@broken forward") is None


def test_a_filter_over_its_memory_is_named(shared_cluster: Any) -> None:
    @soma.filter(memory=80 * 2**20)
    class Greedy:
        def forward(self, x: Any, state: Any) -> Any:
            hoard = []
            while True:
                hoard.append(np.ones(2**20))
                time.sleep(0.002)  # workload: memory grows slowly enough to be looked at

    with soma.Graph(Greedy()) as g, pytest.raises(ActorDiedError) as caught:
        g.forward(1)
    assert caught.value.reason == "oom" and any("in node 'greedy'" in n for n in caught.value.__notes__)


def test_a_death_in_a_stream_names_the_chunk(shared_cluster: Any, tmp_path: Path) -> None:
    """It dies when the chunk before has arrived: what is on its way out of a process dies with it."""
    arrived = str(tmp_path / "arrived")

    def picky(x: int) -> int:
        if x == 5:
            while not os.path.exists(arrived):
                os.sched_yield()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with soma.Graph(soma.filter(lambda x: x) >> soma.filter(picky)) as g:
        seen = []
        with pytest.raises(ActorDiedError) as caught:
            for out in g.forward(iter(range(100)), stream=True):
                seen.append(out)
                if out == 4:
                    Path(arrived).touch()
        assert seen == list(range(5))
        assert "in node 'picky', chunk 5, attempt 1: picky()" in caught.value.__notes__


def test_a_chunk_is_repeated_where_the_filter_says_so(shared_cluster: Any, tmp_path: Path) -> None:
    with soma.Graph(soma.filter(lambda x: x) >> DiesAndComesBack("forward", str(tmp_path / "n"))) as g:
        g.fit(X)
        np.testing.assert_array_equal(np.concatenate(list(g.forward(X, stream=True, chunk_size=1))), X + X.sum())


def test_a_stream_that_is_dropped_leaves_nothing_behind(shared_cluster: Any) -> None:
    with soma.Graph(soma.filter(lambda x: x)) as g:
        stream = g.forward((np.ones(300_000) for _ in range(1000)), stream=True)
        next(stream)
        del stream
        assert g.forward(1) == 1
        assert soma.status()["driver"]["arena_used"] < 50 * 2**20


def test_ctrl_c_ends_a_run_and_the_graph_goes_on(shared_cluster: Any) -> None:
    def slow(x: Any) -> Any:
        if x:
            time.sleep(60)  # workload: ended by the interrupt
        return x

    with soma.Graph(soma.filter(slow)) as g:
        assert g.forward(0) == 0
        began = time.monotonic()
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            g.forward(1)
        timer.join()
        assert g.forward(0) == 0 and time.monotonic() - began < 10


def test_threads_run_one_graph_at_once(shared_cluster: Any) -> None:
    with soma.Graph(Center() >> Center()) as g:
        g.fit(X)
        got: list[Any] = []
        threads = [threading.Thread(target=lambda i=i: got.append((i, g.forward(X + i)[0, 0]))) for i in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sorted(got) == [(i, X[0, 0] + i - X[:, 0].mean()) for i in range(16)]
