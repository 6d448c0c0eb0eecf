"""Scalars for TensorBoard: which, and that its own reader finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import soma
from soma.events import EpochCompleted, GenerationCompleted, MetricReported, NodeStarted, RoundCompleted, RunCompleted, StepCompleted
from soma.runs.tensorboard import scalars, tensorboard_listener


def test_what_of_an_event_is_a_scalar() -> None:
    assert list(scalars(StepCompleted(step=3, loss=0.5))) == [("loss/step", 0.5, 3)]
    assert list(scalars(EpochCompleted(epoch=1, epochs=2, loss=0.5, rows=10, duration_ms=100, node="net", metrics={"f1": 0.9}))) == [
        ("loss/epoch (net)", 0.5, 1), ("speed/rows per second (net)", 100.0, 1), ("f1/epoch (net)", 0.9, 1)]
    assert list(scalars(RoundCompleted(round=0, rounds=1, clients=("a", "b"), left_out={"b": "died"}, metrics={"loss": 1.0}))) == [
        ("clients/took part", 1, 0), ("clients/left out", 1, 0), ("loss/round", 1.0, 0)]
    assert list(scalars(GenerationCompleted(generation=2, best=0.5))) == [("fitness/best", 0.5, 2)]
    assert list(scalars(MetricReported(name="f1", value=0.1, node="a"))) == [("f1/reported (a)", 0.1, None)]
    assert list(scalars(NodeStarted(node="a"))) == []


def test_its_own_reader_finds_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell = tensorboard_listener(tmp_path)
    for run in ("r1", "r2"):
        for step in range(3):
            tell(StepCompleted(run_id=run, seq=step, time=100.0 + step, step=step, loss=0.5 ** step))
            tell(MetricReported(run_id=run, name="f1", value=float(step)))
        tell(EpochCompleted(run_id=run, epoch=0, epochs=1, loss=0.25))
        read = EventAccumulator(str(tmp_path / run))
        read.Reload()  # while it runs: an epoch's end flushes
        assert read.Tags()["scalars"] == ["loss/step", "f1/reported", "loss/epoch"]
        tell(RunCompleted(run_id=run, duration_ms=1.0))
        assert [(e.wall_time, e.step, e.value) for e in read.Scalars("loss/step")] == [(100.0 + s, s, 0.5 ** s) for s in range(3)]
        assert [(e.step, e.value) for e in read.Scalars("f1/reported")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    tell(RunCompleted(run_id="r3", duration_ms=1.0))  # said nothing that is a scalar
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r1", "r2"]


def test_without_tensorboard(tmp_path: Path) -> None:
    code = ("import sys; sys.modules['tensorboard'] = None\nfrom soma.runs.tensorboard import tensorboard_listener\n"
            "tensorboard_listener('x')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})
    assert done.returncode == 1 and "ModuleNotFoundError: scalars for TensorBoard need its package: pip install tensorboard" in done.stderr
    assert list(tmp_path.iterdir()) == []
