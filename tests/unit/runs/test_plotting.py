"""The curves of recorded runs: which points, and that a picture comes of them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.cli import main
from soma.events import (
    EpochCompleted,
    Event,
    GenerationCompleted,
    GenerationStarted,
    GroupRestarted,
    MemberExploited,
    MetricReported,
    RoundCompleted,
    RoundStarted,
    StepCompleted,
)
from soma.runs import Run, RunFolder, load_run
from soma.runs.curves import Curves, Panel


def points(panel: Panel) -> dict[tuple[str, str, bool], list[tuple[float, float]]]:
    return {(s.name, s.node, s.each): list(zip(s.x, s.y, strict=True)) for s in panel.series}


class TestCurves:
    def test_losses_of_steps_and_epochs_share_an_axis(self) -> None:
        said: list[Event] = [StepCompleted(step=0, loss=4.0), StepCompleted(step=1, loss=2.0),
                             EpochCompleted(epoch=0, epochs=1, loss=3.0, metrics={"val_loss": 5.0, "accuracy": 0.5, "val_accuracy": 0.4})]
        loss, accuracy = Curves(said).panels()
        assert loss.axis == accuracy.axis == "optimizer step"
        assert points(loss) == {("loss", "", True): [(1, 4.0), (2, 2.0)], ("loss", "", False): [(2, 3.0)],
                                ("val_loss", "", False): [(2, 5.0)]}
        assert points(accuracy) == {("accuracy", "", False): [(2, 0.5)], ("val_accuracy", "", False): [(2, 0.4)]}

    def test_epochs_alone(self) -> None:
        [loss] = Curves([EpochCompleted(epoch=e, epochs=2, loss=float(e), node=n) for e in range(2) for n in "ab"]).panels()
        assert loss.axis == "epoch" and points(loss) == {("loss", n, False): [(1, 0.0), (2, 1.0)] for n in "ab"}

    @given(st.lists(st.integers(0, 30), max_size=4))
    def test_steps_that_are_done_again_are_drawn_once(self, deaths: list[int]) -> None:
        said: list[Event] = []
        begin = 0
        for generation, step in enumerate(deaths, 1):
            done = max(begin, step)
            said += [StepCompleted(step=s, loss=float(generation)) for s in range(begin, done)]
            begin = min(step, done)
            said.append(GroupRestarted(generation=generation, ranks=1, step=begin))
        said += [StepCompleted(step=s, loss=0.0) for s in range(begin, 40)]
        [loss] = Curves(said).panels()
        assert loss.series[0].x == [s + 1 for s in range(40)] and len(loss.restarts) == len(deaths)

    def test_rounds(self) -> None:
        panels = Curves([RoundStarted(round=0, rounds=1, clients=("a", "b")), MetricReported(name="loss", value=2.0, step=0, node="a"),
                         MetricReported(name="loss", value=1.0, step=0),
                         RoundCompleted(round=0, rounds=1, clients=("a",), left_out={"b": "died"}, metrics={"loss": 1.0})]).panels()
        assert [(p.title, p.axis) for p in panels] == [("loss", "round"), ("clients", "round")]
        assert points(panels[0]) == {("loss", "a", False): [(1, 2.0)], ("loss", "", False): [(1, 1.0)]}
        assert points(panels[1]) == {("clients", "took part", False): [(1, 1)], ("clients", "left out", False): [(1, 1)]}

    def test_a_population(self) -> None:
        said: list[Event] = []
        for g in range(2):
            said.append(GenerationStarted(generation=g, members=2))
            if g:
                said.append(MemberExploited(member=0, source=1, generation=g))
            said += [MetricReported(name="fitness", value=m + g, step=g, node=f"member {m}") for m in range(2)]
            said.append(GenerationCompleted(generation=g, best=1.0 + g, member=1))
        [fitness] = Curves(said).panels()
        assert points(fitness) == {("fitness", "member 0", False): [(1, 0), (2, 1)], ("fitness", "member 1", False): [(1, 1), (2, 2)],
                                   ("fitness", "best", False): [(1, 1.0), (2, 2.0)]}
        assert fitness.exploited == [(2, 1)]

    def test_reports_with_and_without_a_step(self) -> None:
        said = [MetricReported(name="a", value=1.0, step=7), MetricReported(name="b", value=2.0), MetricReported(name="b", value=3.0)]
        assert [(p.axis, *points(p).values()) for p in Curves(said).panels()] == [("step", [(7, 1.0)]), ("report", [(1, 2.0), (2, 3.0)])]

    def test_what_is_said_as_a_report_and_with_its_epoch_is_drawn_once(self) -> None:
        [loss] = Curves([StepCompleted(step=4, loss=1.0), MetricReported(name="val_loss", value=2.0, step=5),
                         EpochCompleted(epoch=0, epochs=1, loss=1.0, metrics={"val_loss": 2.0})]).panels()
        assert points(loss)["val_loss", "", False] == [(5, 2.0)]

    def test_what_is_chosen(self) -> None:
        curves = Curves([EpochCompleted(epoch=0, epochs=1, loss=1.0, metrics={"val_loss": 2.0, "f1": 3.0})])
        assert [(p.title, len(p.series)) for p in curves.panels(["loss", "f1"])] == [("loss", 1), ("f1", 1)]
        with pytest.raises(ValueError, match="metrics: nothing of f2 was recorded; there is loss, val_loss, f1"):
            curves.panels(["f2"])
        with pytest.raises(ValueError, match="nothing to draw"):
            Curves([]).panels()


def emit(run: Run, event: Event) -> None:
    run.emit(type(event), **{k: v for k, v in event.as_dict().items() if k not in ("kind", "run_id", "seq", "time")})


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib keeps the files of its fonts open once it has drawn anything."""
    if importlib.util.find_spec("matplotlib") is not None:
        from soma.runs.plotting import Figure

        figure = Figure()
        figure.suptitle("a")
        figure.subplots().set_title("b", fontweight="bold")
        figure.savefig(io.BytesIO())


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with Run("train", RunFolder.create("r1", "train", directory=tmp_path)) as run:
        for step in range(6):
            emit(run, StepCompleted(step=step, loss=1 / (step + 1)))
            if step % 3 == 2:
                emit(run, EpochCompleted(epoch=step // 3, epochs=2, loss=0.5, metrics={"val_loss": 0.6, "f1": 0.1}))
        emit(run, GroupRestarted(generation=1, ranks=1, step=5))
    return tmp_path


class TestPlot:
    def test_a_figure_and_its_files(self, recorded: Path) -> None:
        pytest.importorskip("matplotlib")
        figure = load_run("r1", recorded).plot(recorded / "a.png")
        assert [axes.get_title("left") for axes in figure.axes] == ["loss", "f1"]
        assert [axes.get_xlabel() for axes in figure.axes] == ["optimizer step"] * 2
        legend = figure.axes[0].get_legend()
        assert [t.get_text() for t in legend.get_texts()] == ["training, each step", "training, mean of an epoch", "validation",
                                                              "restarted after a death"]
        assert (recorded / "a.png").read_bytes().startswith(b"\x89PNG")
        load_run("r1", recorded).plot(str(recorded / "a.svg"), metrics=["f1"])
        assert "<svg" in (recorded / "a.svg").read_text()

    def test_a_crowd_of_members(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        with Run("train", RunFolder.create("p", "train", directory=tmp_path)) as run:
            for g in range(3):
                emit(run, GenerationStarted(generation=g, members=20))
                emit(run, MemberExploited(member=3, source=1, generation=g))
                for m in range(20):
                    emit(run, MetricReported(name="fitness", value=m + g, step=g, node=f"member {m}"))
                emit(run, GenerationCompleted(generation=g, best=19.0 + g, member=19))
            [axes] = load_run("p", tmp_path).plot().axes  # while it runs
        assert [t.get_text() for t in axes.get_legend().get_texts()] == ["best", "took over a better one's weights"]

    def test_a_crashed_run(self, recorded: Path) -> None:
        pytest.importorskip("matplotlib")
        (recorded / "r1" / "result.json").unlink()
        with open(recorded / "r1" / "events.jsonl", "a") as f:
            f.write('{"kind": "StepComp')
        info = load_run("r1", recorded)
        assert info.status == "crashed" and info.plot().get_suptitle() == "r1 (crashed)"

    def test_without_matplotlib(self, recorded: Path) -> None:
        code = (f"import sys; sys.modules['matplotlib'] = None\nfrom soma.runs import load_run\nfrom pathlib import Path\n"
                f"load_run('r1', Path({str(recorded)!r})).plot()")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})
        assert done.returncode == 1 and 'ModuleNotFoundError: plots need matplotlib: pip install "soma[viz]"' in done.stderr


class TestCommand:
    def run(self, *args: str) -> Any:
        return CliRunner().invoke(main, ["runs", "plot", *args])

    def test_where_it_goes(self, recorded: Path) -> None:
        pytest.importorskip("matplotlib")
        assert self.run("r1", "--directory", str(recorded)).output == f"{recorded / 'r1' / 'curves.png'}\n"
        assert (recorded / "r1" / "curves.png").stat().st_size > 1000
        assert self.run("r1", "--directory", str(recorded), "-o", str(recorded / "b.svg"), "-m", "f1").exit_code == 0
        assert (recorded / "b.svg").exists() and json.loads((recorded / "r1" / "result.json").read_text())["status"] == "completed"

    def test_mistakes(self, recorded: Path) -> None:
        pytest.importorskip("matplotlib")
        for args, said in ((["r2"], "no run in"), (["r1", "-m", "f9"], "nothing of f9 was recorded"),
                           (["r1", "-o", "/none/a.png"], "No such"), (["r1", "-o", "a.xyz"], "xyz")):
            result = self.run(*args, "--directory", str(recorded))
            assert result.exit_code == 1 and said in result.output, result.output
