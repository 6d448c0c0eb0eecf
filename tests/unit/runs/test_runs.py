"""Runs: events in order and complete, a directory that tells how it ended, also when nobody could say it."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma import events
from soma.cluster.hub import Hub
from soma.events import (
    KINDS,
    Custom,
    Event,
    MetricReported,
    NodeCompleted,
    NodeStarted,
    RunCompleted,
    RunFailed,
    RunStarted,
    event_of,
)
from soma.runs import Run, RunFolder, list_runs, load_run

ROOT = Path(soma.__file__).parents[1]
GIVEN: dict[str, Any] = {"node": "a", "what": "fit", "error": "e", "error_type": "E", "duration_ms": 1.0, "done": 1.0,
                         "epoch": 0, "epochs": 1, "round": 0, "rounds": 2, "ranks": 2,
                         "loss": 0.5, "step": 1, "name": "n", "value": 2.0, "generation": 0, "best": {"x": 1.0}, "member": 1, "source": 0,
                         "study": "s", "trial": 3, "actor_id": "aa", "node_id": "n1", "tier": "disk", "load_ms": 0.1, "why": "w",
                         "chunk": 4, "replayed_from": 2, "restarts": 1, "phase": "running", "state": "FAILED"}


def made(kind: type[Event]) -> Event:
    import dataclasses

    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return kind(run_id="r", seq=4, time=1.5, **{n: GIVEN[n] for n in needed})


class TestEvents:
    NAMES = ("RunStarted NodeStarted NodeProgress NodeCacheHit NodeCacheMiss NodeCompleted NodeFailed RunCompleted RunFailed StudyStarted "
             "TrialStarted TrialMetric TrialPruned TrialCompleted TrialFailed BestUpdated StudyProgress StudyCompleted EpochStarted "
             "EpochCompleted StepCompleted MetricReported GenerationStarted GenerationCompleted MemberExploited ActorStarted ActorDied "
             "ActorRestarted NodeJoined NodeLost").split()

    def test_all_are_there(self) -> None:
        assert set(self.NAMES) <= KINDS <= set(dir(events))

    def test_every_one_that_is_written_is_known(self) -> None:
        for file in (ROOT / "soma" / "events").glob("[!_]*.py"):
            home = importlib.import_module(f"soma.events.{file.stem}")
            for name, kind in vars(home).items():
                if isinstance(kind, type) and issubclass(kind, Event):
                    assert getattr(events, name) is kind
                    assert name in KINDS or kind in (Event, Custom, events.ActorEvent)
        with pytest.raises(AttributeError, match="no event 'Nothing'"):
            events.Nothing  # noqa: B018

    @pytest.mark.parametrize("name", sorted(KINDS))
    def test_they_are_plain_frozen_data(self, name: str) -> None:
        event = made(getattr(events, name))
        assert event_of(json.loads(json.dumps(event.as_dict()))) == event
        with pytest.raises(AttributeError):
            event.seq = 5  # type: ignore[misc]

    def test_kinds_that_are_not_known(self) -> None:
        assert event_of({"kind": "Mine", "x": 1, "seq": 3}) == Custom(name="Mine", fields={"x": 1}, seq=3)
        assert event_of(Custom(name="Mine", fields={"x": 1}).as_dict()) == Custom(name="Mine", fields={"x": 1})
        assert event_of({"kind": "NodeStarted", "node": "a", "later": True}) == NodeStarted(node="a")


class TestRun:
    def run(self, *heard: list[Event], folder: RunFolder | None = None) -> Run:
        hub = Hub()
        for some in heard:
            hub.subscribe(some.append)
        return Run("fit", folder, hub=hub)

    def test_events_are_numbered_and_the_end_is_told(self) -> None:
        heard: list[Event] = []
        with self.run(heard) as run:
            run.emit(RunStarted, what="fit")
            run.told({"kind": "MetricReported", "name": "loss", "value": 1.0, "node": "a", "run_id": "other", "seq": 99})
        assert [type(e) for e in heard] == [RunStarted, MetricReported, RunCompleted]
        assert [e.seq for e in heard] == [0, 1, 2] and {e.run_id for e in heard} == {run.id}

    def test_an_exception_makes_it_a_failed_one(self) -> None:
        heard: list[Event] = []
        with pytest.raises(KeyError), self.run(heard) as run:
            run.failed_node = "scale"
            raise KeyError("x")
        (failed,) = heard
        assert isinstance(failed, RunFailed)
        assert (failed.error_type, failed.error, failed.node) == ("KeyError", "'x'", "scale")

    def test_a_listener_may_make_events_and_wait_for_threads_that_do(self) -> None:
        heard: list[Event] = []

        def listener(event: Event) -> None:
            if isinstance(event, RunStarted):
                run.emit(NodeStarted, node="mine")
                thread = threading.Thread(target=run.emit, args=(NodeStarted,), kwargs={"node": "a thread's"})
                thread.start()
                thread.join(5)
                assert not thread.is_alive(), "it waits for who waits for it"
            heard.append(event)

        with Run("fit", None, (listener,), Hub()) as run:
            run.emit(RunStarted, what="fit")
        assert [e.seq for e in heard] == [0, 1, 2, 3]
        assert [getattr(e, "node", "") for e in heard[1:3]] == ["mine", "a thread's"] and isinstance(heard[3], RunCompleted)

    def test_threads_share_one_order(self) -> None:
        heard: list[Event] = []
        with self.run(heard) as run:
            threads = [threading.Thread(target=lambda: [run.emit(NodeStarted, node="a") for _ in range(200)]) for _ in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        assert [e.seq for e in heard] == list(range(801))

    def test_a_subscriber_that_raises_keeps_its_place(self, caplog: pytest.LogCaptureFixture) -> None:
        heard: list[Event] = []
        hub = Hub()

        def broken(event: Event) -> None:
            heard.append(event)
            raise ValueError("no")

        stop = hub.subscribe(broken)
        with caplog.at_level(logging.ERROR), Run("fit", hub=hub) as run:
            run.emit(NodeStarted, node="a")
            run.emit(NodeStarted, node="b")
            stop()
        assert len(heard) == 2 and caplog.text.count("an event subscriber raised") == 2
        stop()

    def test_nobody_hears_and_nothing_is_made(self) -> None:
        run = Run("fit", hub=Hub())
        assert not run.wanted
        run.emit(NodeStarted, nonsense=True)  # not even looked at


class TestFolder:
    def folder(self, where: Path, id: str = "r1", **more: Any) -> RunFolder:
        made = RunFolder.create(id, "fit", directory=where, **more)
        assert made is not None
        return made

    def test_what_it_holds(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, seed=7, params={"batch": 3})
        folder.add_plan('{"a": 1}')
        with Run("fit", folder, hub=Hub()) as run:
            run.emit(RunStarted, what="fit")
            run.emit(MetricReported, name="loss", value=math.inf, step=2, node="net")
            assert load_run("r1", tmp_path).status == "running"
        info = load_run("r", tmp_path)
        assert info.status == "completed"
        assert [(e.seq, type(e).__name__) for e in info.events()] == [(0, "RunStarted"), (1, "MetricReported"), (2, "RunCompleted")]
        (metric,) = info.metrics()
        assert (metric["name"], metric["value"], metric["step"], metric["node"]) == ("loss", math.inf, 2, "net")
        assert info.manifest["seed"] == 7 and info.manifest["params"] == {"batch": 3} and info.manifest["argv"] == sys.argv
        assert info.manifest["versions"]["numpy"] and info.manifest["python"] and info.manifest["pid"] == os.getpid()
        assert (tmp_path / "r1" / "plan.json").read_text() == '{"a": 1}'

    def test_a_failed_run_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), Run("fit", self.folder(tmp_path), hub=Hub()):
            raise ZeroDivisionError("by zero")
        info = load_run("r1", tmp_path)
        assert (info.status, info.error) == ("failed", "by zero")

    def test_a_crash_shows_as_crashed(self, tmp_path: Path) -> None:
        """A process that is killed says nothing; the kernel does."""
        code = ("import sys, os, signal; from pathlib import Path; from soma.runs import Run, RunFolder; from soma.cluster.hub import Hub\n"
                "from soma.events import NodeStarted\n"
                "f = RunFolder.create('r1', 'fit', directory=Path(sys.argv[1]))\n"
                "r = Run('fit', f, hub=Hub()).__enter__()\n"
                "[r.emit(NodeStarted, node='a') for _ in range(5)]\n"
                "os.write(f._events, b'{\"torn')\n"
                "print('ready', flush=True); sys.stdin.read()")
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        assert load_run("r1", tmp_path).status == "running"
        child.send_signal(signal.SIGKILL)
        child.wait()
        info = load_run("r1", tmp_path)
        assert info.status == "crashed" and [e.seq for e in info.events()] == list(range(5))
        child.stdin.close()
        child.stdout.close()

    def test_a_disk_that_is_full_ends_the_recording_and_not_the_run(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
            heard: list[Event] = []
            hub = Hub()
            hub.subscribe(heard.append)
            warned = pytest.warns(RuntimeWarning, match="run r1 is not recorded any further: .*File too large")
            with warned, Run("fit", folder, hub=hub) as run:
                for _ in range(100):
                    run.emit(NodeStarted, node="a" * 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert len(heard) == 101

    def test_where_nothing_can_be_written_there_is_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.warns(RuntimeWarning, match="run r1 is not recorded"):
            assert RunFolder.create("r1", "fit", directory=tmp_path / "file") is None

    def test_which_runs_there_are(self, tmp_path: Path) -> None:
        assert list_runs(tmp_path / "none") == []
        for id in ("r2", "r1", "s"):
            self.folder(tmp_path, id).close("completed", None)
        assert [r.id for r in list_runs(tmp_path)] == ["r1", "r2", "s"]
        with pytest.raises(ValueError, match="2 runs in .* are called 'r'"):
            load_run("r", tmp_path)
        with pytest.raises(ValueError, match="no run in .* is called 'x'"):
            load_run("x", tmp_path)

    @given(st.lists(st.text(max_size=20), max_size=5))
    def test_any_text_comes_back(self, texts: list[str]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            folder = self.folder(Path(name))
            with Run("fit", folder, hub=Hub()) as run:
                for text in texts:
                    run.emit(NodeCompleted, node=text, duration_ms=1.0)
            assert [e.node for e in load_run("r1", Path(name)).events() if isinstance(e, NodeCompleted)] == texts


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path / "runs"))
    with soma.init(local=True):
        yield tmp_path / "runs"


class TestRunsOfGraphs:
    @staticmethod
    def learner() -> Any:
        @soma.filter
        class Learner:
            def fit(self, x: Any, y: Any = None) -> Any:
                for i in range(3):
                    soma.report("loss", 1 / (i + 1), step=i)
                    soma.progress(i + 1, 3, "learning")
                return {"x": x}

            def forward(self, x: Any, state: Any) -> Any:
                return x + state["x"]

        return Learner()

    def test_a_fit_leaves_its_events(self, recorded: Path) -> None:
        with soma.Graph(self.learner() >> self.learner()) as g:
            g.fit(1, seed=3)
            g.forward(1)
        (run,) = list_runs(recorded)
        assert run.status == "completed" and run.manifest["what"] == "fit" and run.manifest["seed"] == 3
        events = list(run.events())
        assert [e.seq for e in events] == list(range(len(events)))
        said = [(type(e).__name__, getattr(e, "node", "")) for e in events]
        per_node = ["NodeStarted", *["MetricReported", "NodeProgress"] * 3, "NodeCompleted"]
        assert said == [
            ("RunStarted", ""), *((k, "learner") for k in per_node), *((k, "learner_2") for k in per_node), ("RunCompleted", "")]
        assert [m["value"] for m in run.metrics() if m["node"] == "learner"] == [1, 0.5, 1 / 3]
        assert soma.graph.Plan.from_json((run.path / "plan.json").read_text()) == g.compile()

    def test_what_is_recorded(self, recorded: Path) -> None:
        with soma.Graph(self.learner()) as g:
            g.fit(1, record=False)
            g.forward(1, record=True)
            g.run(1)
            list(g.forward([1, 2], stream=True))
        assert [r.manifest["what"] for r in list_runs(recorded)] == ["forward", "stream"]
        with soma.Graph(self.learner(), record=True) as g:
            g.fit(1)
            g.forward(1)
        with soma.Graph(self.learner(), record=False) as g:
            g.fit(1)
        assert len(list_runs(recorded)) == 4

    def test_a_failure_is_told_with_its_node(self, recorded: Path) -> None:
        def broken(x: Any) -> Any:
            raise ValueError("broken")

        with soma.Graph(soma.filter(broken)) as g, pytest.raises(ValueError, match="broken"):
            g.forward(1, record=True)
        (run,) = list_runs(recorded)
        failed = [e.as_dict() for e in run.events() if type(e).__name__ in ("NodeFailed", "RunFailed")]
        assert [(e["kind"], e["node"], e["error_type"], e["error"]) for e in failed] == [
            ("NodeFailed", "broken", "ValueError", "broken"), ("RunFailed", "broken", "ValueError", "broken")]
        assert run.status == "failed"
