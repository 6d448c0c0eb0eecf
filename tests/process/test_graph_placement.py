"""Graphs on a real cluster: where their filters run and why, what they reserve, what is refused, and the log that replays."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import soma
from soma.actors.scheduling import replay
from soma.errors import PlacementError
from soma.events import RunFailed
from soma.runs import list_runs


@soma.filter
class Same:
    def forward(self, x: Any, state: Any) -> Any:
        return x


@soma.filter(num_cpus=2)
class Two(Same):  # type: ignore[misc, valid-type]
    def forward(self, x: Any, state: Any) -> Any:
        return x + 1


def test_the_log_of_a_run_replays_to_the_same_placements(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path))
    with soma.Graph(Two() >> (Same() | Two()) >> soma.filter(lambda x: sum(x.values()))) as g:
        assert g.forward(1, record=True) == 5
        (run,) = list_runs(tmp_path)
        entries = [json.loads(line) for line in (run.path / "schedule.jsonl").read_text().splitlines()]
        _, said = replay(entries)
        assert said == [e["instructions"] for e in entries if "event" in e]
        (placed,) = [i for i in said[-1] if i["kind"] == "Place"]
        where = {task: process["name"] for process in placed["processes"] for task in process["tasks"]}
        assert where == {row.node: row.process for row in g.explain().rows}
        assert set(where.values()) == {a["name"] for a in soma.status()["actors"] if a["class_name"] == "FilterActor"}


def test_a_plan_never_waits_for_itself(cluster: Any) -> None:
    """Three filters of two CPUs on four: two processes, one of them for two filters, and `explain` says so."""
    with soma.Graph(Two() >> Two() >> Two()) as g:
        assert g.forward(0) == 3
        assert len(set(g.pids().values())) == 2
        assert "6 CPU" in str(g.explain()) and "shares a process" in str(g.explain())
        assert soma.available_resources()["CPU"] == 0


def test_a_thousand_filters_are_not_a_thousand_processes(cluster: Any) -> None:
    expression: Any = Same()
    for _ in range(299):
        expression = expression >> Same()
    with soma.Graph(expression) as g:
        assert g.forward(7) == 7
        assert len({row.process for row in g.explain().rows}) <= 64


def test_what_nobody_has_is_refused_with_what_there_is(cluster: Any) -> None:
    @soma.filter(num_cpus=64)
    class Huge(Same):  # type: ignore[misc, valid-type]
        pass

    @soma.filter(tags=("gpu",))
    class Tagged(Same):  # type: ignore[misc, valid-type]
        pass

    for filter, match in ((Huge(), "'huge'.*64 CPU.*4"), (Tagged(), "'tagged'.*'gpu'")):
        with soma.Graph(Same() >> filter) as g, pytest.raises(PlacementError, match=f"(?s){match}"):
            g.forward(1)


def test_what_others_hold_is_refused_or_waited_for(cluster: Any) -> None:
    @soma.remote(num_cpus=3)
    class Holder:
        def pid(self) -> int:
            return os.getpid()

    holder = Holder.options(name="holder").remote()
    soma.get(holder.pid.remote())
    with soma.Graph(Two()) as g, pytest.raises(PlacementError, match="'holder'.* holds 3"):
        g.forward(1)
    with soma.Graph(Two(), wait=0.2) as g, pytest.raises(PlacementError, match=r"holds 3.*\(waited 0.2 s\)"):
        g.forward(1)
    with soma.Graph(Two(), wait=20) as g:
        out: list[Any] = []
        thread = threading.Thread(target=lambda: out.append(g.forward(1)))
        thread.start()
        soma.kill(holder)
        thread.join(20)
        assert out == [2]


def test_what_a_graph_held_is_free_when_it_is_closed_or_dropped(cluster: Any) -> None:
    for _ in range(3):
        with soma.Graph(Two() | Two()) as g:
            assert g.forward(0) == {"two": 1, "two_2": 1}
    for _ in range(3):
        g = soma.Graph(Two() | Two(), wait=10)
        assert g.forward(0) == {"two": 1, "two_2": 1}
        del g


def test_a_group_shares_a_process_and_one_cpu_set(cluster: Any) -> None:
    torch = pytest.importorskip("torch")

    @soma.filter(differentiable=True, num_cpus=1)
    class Where:
        def forward(self, x: Any, state: Any) -> Any:
            return x + torch.tensor([float(len(os.sched_getaffinity(0)))], dtype=x.dtype)

    with soma.Graph(Where() >> Where() >> Same()) as g:
        out = g.forward(torch.zeros(1))
        assert out.tolist() == [2.0], "one core each time"
        row = g.explain()
        assert row["where"].process == row["where_2"].process != row["same"].process
        assert "one autograd graph" in row["where_2"].reason or "one autograd graph" in row["where"].reason


def test_a_refusal_is_an_event_too(cluster: Any) -> None:
    heard: list[Any] = []
    stop = soma.on_event(heard.append)

    @soma.filter(num_gpus=1)
    class OnGpu(Same):  # type: ignore[misc, valid-type]
        pass

    with soma.Graph(OnGpu()) as g, pytest.raises(PlacementError, match="1 GPU"):
        g.forward(1)
    stop()
    assert [e.error_type for e in heard if isinstance(e, RunFailed)] == ["PlacementError"]
