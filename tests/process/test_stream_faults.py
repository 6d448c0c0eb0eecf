"""Streams whose processes are killed, at every phase and at random: the results are those of a stream that nothing happened to."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError, StreamBrokenError
from soma.events import Event, NodeFailed, RunFailed, StreamResumed
from soma.graph.lasting import StreamCheckpoint

pytestmark = pytest.mark.crash
CHUNKS = 24


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter(stream="evolving")
class Drift:
    """Its output depends on every chunk before, in order, to the last bit; it changes its state in place, as careless code does."""

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        state = state or {"w": np.zeros(3), "n": 0}
        state["w"] *= 0.9
        state["w"] += np.sin(x).sum(axis=0) / (state["n"] + 1)
        state["n"] += 1
        return state

    def forward(self, x: Any, state: Any) -> Any:
        return x * (state or {"w": np.ones(3)})["w"]


@soma.filter(stream="barrier")
class Ranked:
    """With a file to count in, its process ends by SIGKILL the first time that it has all chunks."""

    def __init__(self, counter: str = "") -> None:
        self.counter = counter

    def forward(self, x: Any, state: Any) -> Any:
        if self.counter and not read(self.counter):
            Path(self.counter).write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return np.sort(x, axis=0)


@soma.filter
class Fatal:
    """Passes chunks on; the first process that sees the chunk whose first number is `at` ends by SIGKILL, `times` in all."""

    def __init__(self, at: float, counter: str, times: int = 1) -> None:
        self.at, self.counter, self.times = at, counter, times

    def forward(self, x: Any, state: Any) -> Any:
        if x[0, 0] == self.at and len(lives := read(self.counter)) < self.times:
            Path(self.counter).write_text(lives + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return x


def read(path: str) -> str:
    return Path(path).read_text() if os.path.exists(path) else ""


def chunks(n: int = CHUNKS) -> list[Any]:
    draw = np.random.default_rng(5)
    made = [draw.normal(size=(4, 3)) for _ in range(n)]
    for i, chunk in enumerate(made):
        chunk[0, 0] = i
    return made


def expected(parts: list[Any], given: list[Any], *, fitted: bool = False) -> tuple[list[Any], Any]:
    """What plain Python makes of chunks: filters work without soma around them. And the state that what evolves ends with."""
    whole, last = np.concatenate(given), None
    for part in parts:
        if isinstance(part, Center):
            state = part.fit(whole)
            given, whole = [part.forward(x, state) for x in given], part.forward(whole, state)
        elif isinstance(part, Drift):
            moving, out = part.partial_fit(whole, None, {}) if fitted else {}, []
            for x in given:
                out.append(part.forward(x, moving))
                moving = part.partial_fit(x, None, moving)
            given, last = out, moving
        elif isinstance(part, Ranked):
            given = [part.forward(np.concatenate(given), {})]
    return given, last


def chain(parts: list[Any]) -> Any:
    return soma.Graph(list(itertools.accumulate(parts, lambda a, b: a >> b))[-1])


def kill(g: soma.Graph, *nodes: str) -> None:
    pids = g.pids()
    for node in nodes:
        os.kill(pids[node], signal.SIGKILL)


def same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


class Once:
    """An iterator that counts what is read of it."""

    def __init__(self, items: list[Any]) -> None:
        self._items, self.read = iter(items), 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.read += 1
        return item


@pytest.fixture
def heard(shared_cluster: Any) -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = soma.on_event(events.append)
    yield events
    stop()


@pytest.mark.parametrize("at", [0, CHUNKS - 1])
def test_a_worker_that_dies_of_a_chunk(heard: list[Event], tmp_path: Path, at: int) -> None:
    source = Once(chunks())
    wanted, state = expected([Drift()], chunks())
    with chain([Fatal(float(at), str(tmp_path / "n")), Drift()]) as g, g.stream(source, max_restarts=1, checkpoint_every=4) as stream:
        found = []
        for out in stream:
            found.append(out)
            assert source.read <= len(found) + stream.credit, "read no further ahead than chunks are under way"
            assert stream.retained <= 4 + stream.credit
        same(found, wanted)
        assert (source.read, stream.restarts, stream.states["drift"]["n"]) == (CHUNKS, 1, CHUNKS)
        np.testing.assert_array_equal(stream.states["drift"]["w"], state["w"])
    (resumed,) = (e for e in heard if isinstance(e, StreamResumed))
    assert resumed.restarts == 1 and resumed.error_type == "ActorDiedError"
    assert at - stream.credit <= resumed.chunk <= at and resumed.replayed_from == resumed.chunk // 4 * 4
    assert not any(e.final for e in heard if isinstance(e, NodeFailed))


def test_killed_from_outside_at_every_phase(shared_cluster: Any) -> None:
    """What was fitted and only the process held, and what evolves, in a graph whose own state the stream begins with and leaves alone."""
    wanted, state = expected([Center(), Drift()], chunks(), fitted=True)
    with chain([Center(), Drift()]) as g:
        g.fit(np.concatenate(chunks()))
        before = g.state()
        with g.stream(iter(chunks()), max_restarts=4, checkpoint_every=5) as stream:
            found = []
            for i, out in enumerate(stream):
                if i in (victims := {0: ["center"], 12: ["drift"], CHUNKS - 1: ["drift", "center"]}):
                    kill(g, *victims[i])
                found.append(out)
            same(found, wanted)
        np.testing.assert_array_equal(stream.states["drift"]["w"], state["w"])
        np.testing.assert_array_equal(g.state()["center"]["mean"], before["center"]["mean"])
        np.testing.assert_array_equal(g.state()["drift"]["w"], before["drift"]["w"])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_random(shared_cluster: Any, seed: int) -> None:
    draw = random.Random(seed)
    n = 40
    parts = [Center(), Drift(), Ranked()] if seed % 2 else [Center(), Drift()]
    wanted, state = expected(parts, chunks(n), fitted=True)
    with chain(parts) as g:
        g.fit(np.concatenate(chunks(n)))
        points = sorted(draw.sample(range(n), 3))

        def source() -> Iterator[Any]:
            for i, chunk in enumerate(chunks(n)):
                if i in points:
                    with contextlib.suppress(ActorDiedError):  # nobody has seen yet that the last one died
                        kill(g, draw.choice(sorted(g.pids())))
                yield chunk

        with g.stream(source(), max_restarts=10, checkpoint_every=draw.choice([1, 4, 16])) as stream:
            same(list(stream), wanted)
            assert 1 <= stream.restarts <= 3
        np.testing.assert_array_equal(stream.states["drift"]["w"], state["w"])


@pytest.mark.parametrize("when", ["collecting", "running", "behind it"])
def test_in_a_barrier(shared_cluster: Any, tmp_path: Path, when: str) -> None:
    wanted, state = expected([Drift(), Ranked()], chunks())
    parts = [Drift(), Ranked(str(tmp_path / "n") if when == "running" else "")]
    if when == "behind it":
        parts.append(Fatal(wanted[0][0, 0], str(tmp_path / "n")))
    source = Once(chunks())
    with chain(parts) as g:

        def watched() -> Iterator[Any]:
            for i, chunk in enumerate(source):
                if when == "collecting" and i == 15:
                    kill(g, "ranked")
                yield chunk

        with g.stream(watched(), max_restarts=1) as stream:
            same(list(stream), wanted)
            assert (stream.restarts, source.read) == (1, CHUNKS)
        np.testing.assert_array_equal(stream.states["drift"]["w"], state["w"])


def test_more_deaths_than_allowed(heard: list[Event], tmp_path: Path) -> None:
    with chain([Fatal(7.0, str(tmp_path / "n"), times=3), Drift()]) as g:
        found = []
        with pytest.raises(StreamBrokenError, match=r"broke at chunk \d: its processes died 3 times, and max_restarts=2") as caught:
            for out in g.stream(chunks(), max_restarts=2):
                found.append(out)
        assert 5 <= caught.value.at == len(found) <= 7, "an answer handed over just before the death may die too"
        assert isinstance(caught.value.__cause__, ActorDiedError) and caught.value.__cause__.signal == "SIGKILL"
        assert any(n.startswith("in node 'fatal', chunk ") for n in caught.value.__cause__.__notes__)
        wanted, _ = expected([Drift()], chunks())
        same(found, wanted[:len(found)])
        assert [e.error_type for e in heard if isinstance(e, RunFailed)] == ["StreamBrokenError"]
        same(list(g.stream(chunks())), wanted)


def test_chunks_that_are_not_kept_any_more(shared_cluster: Any) -> None:
    """A barrier's process had all chunks, and only the last are kept."""
    with chain([Ranked()]) as g:

        def source() -> Iterator[Any]:
            for i, chunk in enumerate(chunks()):
                if i == 20:
                    kill(g, "ranked")
                yield chunk

        with pytest.raises(StreamBrokenError, match=r"not kept any more \(retain=8\)") as caught:
            list(g.stream(source(), max_restarts=5, retain=8))
        assert 18 <= caught.value.at <= 20


def test_large_chunks_in_one_buffer_and_memory_that_does_not_grow(shared_cluster: Any) -> None:
    """The source writes each chunk into the same array: what is kept is what it was. Megabytes go by; a few are held."""
    n, size, made = 60, 2**17, chunks(60)
    buffer = np.empty((4, 3, size // 12 + 1))

    def source() -> Iterator[Any]:
        for chunk in made:
            buffer[:] = chunk[:, :, None]
            yield buffer

    @soma.filter(stream="evolving")
    class Sum:
        def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
            return {"sum": state.get("sum", np.zeros_like(x)) + x}

        def forward(self, x: Any, state: Any) -> Any:
            return x + state.get("sum", 0)

    total, most = np.zeros((4, 3)), 0
    with soma.Graph(Sum()) as g, g.stream(source(), max_restarts=2, checkpoint_every=4, retain=4) as stream:
        for i, out in enumerate(stream):
            np.testing.assert_array_equal(out[:, :, 0], made[i] + total)
            total += made[i]
            most = max(most, soma.status()["driver"]["arena_used"])
            if i in (20, 41):
                kill(g, "sum")
        assert (i, stream.restarts) == (n - 1, 2)
        assert most < (4 + stream.credit + 4) * 2**20


def test_what_the_source_raises_is_nobodys_death(shared_cluster: Any) -> None:
    def source() -> Iterator[Any]:
        yield from chunks()[:5]
        raise ActorDiedError("mine")

    with chain([Drift()]) as g, g.stream(source(), max_restarts=5) as stream, pytest.raises(ActorDiedError, match="mine"):
        for _ in stream:
            assert stream.restarts == 0


def test_a_driver_that_is_killed(shared_cluster: Any, tmp_path: Path) -> None:
    """Another program goes on from the file: every result is there, those since the file was written twice, and equal."""
    script = """
        import os, signal, sys
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        import soma
        from test_stream_faults import Drift, chunks

        with soma.init(num_cpus=2), soma.Graph(Drift()) as g:
            for i, out in enumerate(g.stream(chunks(), checkpoint_path=sys.argv[2], checkpoint_every=4, record=False)):
                np.save(f"{sys.argv[3]}/{i}", out)
                if i == 13:
                    os.kill(os.getpid(), signal.SIGKILL)
    """
    where = tmp_path / "at.safetensors"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), os.path.dirname(__file__), where, tmp_path], timeout=25)
    assert done.returncode == -signal.SIGKILL
    found = [np.load(tmp_path / f"{i}.npy") for i in range(14)]
    checkpoint = StreamCheckpoint.load(where)
    assert (checkpoint.index, checkpoint.base) == (12, 12)
    wanted, state = expected([Drift()], chunks())
    with chain([Drift()]) as g, g.stream(iter(chunks()), resume=checkpoint, max_restarts=1) as stream:
        rest = []
        for i, out in enumerate(stream):
            if i == 2:
                kill(g, "drift")
            rest.append(out)
        np.testing.assert_array_equal(stream.states["drift"]["w"], state["w"])
    same(found, wanted[:14])
    same(rest, wanted[12:])
