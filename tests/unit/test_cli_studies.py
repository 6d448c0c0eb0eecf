"""`soma study` and `soma report` as somebody uses them."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soma
from soma.cli import main
from soma.cli.studies import command_of
from soma.errors import StudyError
from soma.runs import Run, RunFolder
from soma.study.finding import find, opened
from soma.study.place import Place

optuna = pytest.importorskip("optuna")

PROGRAM = """
import sys
import soma
def objective(trial):
    if trial.number == 1:
        raise ValueError("no [good]\\nat all")
    return (trial["x"] - 2) ** 2
soma.Study("parabola", {"x": (-4.0, 4.0), "k": ["a", "b"]}, n_trials=int(sys.argv[1]), seed=0, frozen={"k": "b"}).run(objective, n_jobs=0)
print("done", sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib keeps the files of its fonts open once it has drawn anything."""
    if importlib.util.find_spec("matplotlib") is not None:
        from matplotlib.figure import Figure

        figure = Figure()
        axes = figure.subplots()
        axes.set_title("a", fontweight="bold")
        axes.set_xlabel("$10^{-3}$")
        figure.savefig(io.BytesIO())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of runs with a study that a program made, and one that is in memory only."""
    where = tmp_path_factory.mktemp("studies")
    (where / "tune.py").write_text(PROGRAM)
    subprocess.run([sys.executable, "tune.py", "4"], cwd=where, check=True, capture_output=True, env=environment(where))
    yield where


def environment(where: Path) -> dict[str, str]:
    return {**os.environ, "SOMA_RUNS": str(where / "runs"), "PYTHONPATH": str(Path(soma.__file__).parents[1])}


def run(where: Path, *args: str) -> Any:
    return CliRunner().invoke(main, args, env={"COLUMNS": "200", "SOMA_RUNS": str(where / "runs")})


def trials(where: Path, target: str = "parabola") -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(run(where, "study", "export", target).stdout)))


def test_list(made: Path) -> None:
    out = run(made, "study", "list").output
    assert "parabola" in out and "3 completed, 1 failed of 4" in out and "value 0." in out
    [told] = json.loads(run(made, "study", "list", "--json").output)
    assert told["trials"] == {"completed": 3, "failed": 1} and told["drivers"] == [] and told["planned"] == 4 and told["error"] == ""


def test_show(made: Path) -> None:
    out = run(made, "study", "show", "parabola").output
    assert "3 completed, 1 failed" in out and "x: -4.0 to 4.0; k: a | b, frozen at b" in out and "ValueError: no [good]" in out
    assert "sampler    tpe" in out and "tune.py 4" in out
    told = json.loads(run(made, "study", "show", "parabola", "--json").output)
    assert [t["number"] for t in told["all"]] == [0, 1, 2, 3] and told["all"][0]["params_k"] == "b"
    best = min((t for t in told["all"] if t["state"] == "completed"), key=lambda t: t["values_value"])
    assert told["front"] == [best["number"]] and told["best"] == {"value": best["values_value"]}


def test_it_has_many_names(made: Path) -> None:
    place = made / "runs" / "studies" / "parabola"
    [id] = [p.name for p in (made / "runs").glob("*-study-*")]
    for target in (str(place), str(place / "study.db"), f"sqlite:///{place / 'study.db'}", id):
        assert "3 completed, 1 failed" in run(made, "study", "show", target).output, target


def test_export(made: Path) -> None:
    rows = trials(made)
    assert len(rows) == 4 and rows[1]["error"].startswith("no [good]\nat all") and rows[1]["error_type"] == "ValueError"
    assert float(rows[0]["values_value"]) == pytest.approx((float(rows[0]["params_x"]) - 2) ** 2)
    for name in ("a.csv", "a.json"):
        assert run(made, "study", "export", "parabola", "-o", str(made / name)).output == f"4 trials in {made / name}\n"
    assert list(csv.DictReader(io.StringIO((made / "a.csv").read_text()))) == rows
    assert [t["params_x"] for t in json.loads((made / "a.json").read_text())] == [float(r["params_x"]) for r in rows]
    assert run(made, "study", "export", "parabola", "-o", "a.parquet").output == "Error: a.parquet: .csv or .json\n"


def test_resume_starts_the_program_again(made: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.py").write_text(PROGRAM)
    env = environment(tmp_path)
    subprocess.run([sys.executable, "tune.py", "2"], cwd=tmp_path, check=True, capture_output=True, env=env)
    Place("parabola", tmp_path / "runs" / "studies").stop()
    description = tmp_path / "runs" / "studies" / "parabola" / "description.json"
    description.write_text(description.read_text().replace('"2"', '"3"'))  # as if the program had been stopped after two of three
    soma_command = [sys.executable, "-c", "from soma.cli import main; main()", "study", "resume", str(description.parent)]
    env.pop("SOMA_RUNS")  # the study knows where it is
    done = subprocess.run(soma_command, check=True, capture_output=True, text=True, env=env, cwd="/")
    assert done.stdout == "done ['3']\n" and f"parabola: in {tmp_path}" in done.stderr
    assert [t["number"] for t in trials(tmp_path)] == ["0", "1", "2"]


@pytest.mark.parametrize(("told", "why"), [
    ({}, "interactively"), ({"argv": [""], "cwd": "/"}, "interactively"), ({"argv": ["-c", "x"], "cwd": "/"}, "interactively"),
    ({"argv": ["/x/ipykernel_launcher.py", "-f"], "cwd": "/"}, "interactively"), ({"argv": ["a.py"], "cwd": "/none"}, "made in /none"),
    ({"argv": ["none.py"], "cwd": "/"}, "made by /none.py")])
def test_what_cannot_be_resumed(told: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        command_of(told)


def test_a_program_of_its_own_is_started_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    assert command_of({"argv": ["tool", "x"], "cwd": str(tmp_path)}) == ([str(tmp_path / "tool"), "x"], tmp_path)


def test_stop(made: Path) -> None:
    place = Place("parabola", made / "runs" / "studies")
    assert "no driver of it runs on this machine" in run(made, "study", "stop", "parabola").output and place.stopping
    place.go_on()
    with place.enter() as driver:
        assert run(made, "study", "stop", "parabola").output == f"parabola: {driver.identity} will take no further trial\n"
        assert driver.identity in run(made, "study", "list").output
    assert place.stopping
    place.go_on()


class TestFinding:
    @pytest.mark.parametrize("target", ["nothing", "../parabola", ".", "", "/etc", "a/../../x"])
    def test_what_is_not_there(self, made: Path, target: str) -> None:
        for command in ("show", "stop", "resume", "export"):
            result = run(made, "study", command, target)
            assert result.exit_code == 1 and result.output.startswith("Error: ") and "Traceback" not in result.output
        assert sorted(p.name for p in (made / "runs" / "studies").iterdir()) == ["parabola"]

    def test_files_that_hold_no_study_stay_as_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("hello")
        connection = sqlite3.connect(tmp_path / "b.db")
        connection.execute("CREATE TABLE t (x)")
        connection.close()
        before = {p: p.read_bytes() for p in tmp_path.iterdir()}
        for name, why in (("a.txt", "neither a SQLite database nor a journal"), ("b.db", "no study is in it")):
            assert why in run(tmp_path, "study", "show", str(tmp_path / name)).output
        assert "no such file" in run(tmp_path, "study", "show", f"sqlite:///{tmp_path / 'c.db'}").output
        assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_a_study_that_optuna_made_stays_as_it_is(self, tmp_path: Path) -> None:
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'o.db'}")
        made = optuna.create_study(study_name="theirs", storage=storage, direction="maximize")
        made.add_trial(optuna.trial.create_trial(value=1.0, params={"x": 0.5}, distributions={
            "x": optuna.distributions.FloatDistribution(0, 1)}))
        storage.remove_session()
        storage.engine.dispose()
        before = (tmp_path / "o.db").read_bytes()
        out = run(tmp_path, "study", "show", str(tmp_path / "o.db")).output
        assert "theirs  1 completed" in out and "value (maximize)" in out and "x: 0 to 1" in out
        assert [p.name for p in tmp_path.iterdir()] == ["o.db"] and (tmp_path / "o.db").read_bytes() == before

    def test_a_directory_that_was_moved_and_a_journal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_RUNS", str(tmp_path / "runs"))
        for kind in (None, "journal"):
            soma.Study(f"s-{kind}", {"x": (0.0, 1.0)}, n_trials=2, seed=0, storage=kind).run(lambda t: t["x"], n_jobs=0)
            (tmp_path / "runs" / "studies" / f"s-{kind}").rename(tmp_path / f"s-{kind}")
            with opened(find(str(tmp_path / f"s-{kind}"))) as it:
                assert it.board.counts() == {"completed": 2}

    def test_several_in_one_storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_RUNS", str(tmp_path / "runs"))
        for name in ("one", "two"):
            soma.Study(name, {"x": (0.0, 1.0)}, n_trials=1, storage=f"sqlite:///{tmp_path / 'all.db'}").run(lambda t: t["x"], n_jobs=0)
        out = run(tmp_path, "study", "show", str(tmp_path / "all.db")).output
        assert "holds 2 studies; which? 'one', 'two'" in out
        assert "1 completed" in run(tmp_path, "study", "show", str(tmp_path / "all.db"), "--study", "two").output
        assert "1 completed" in run(tmp_path, "study", "show", "one").output

    def test_of_one_that_was_in_memory_the_events_are_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_RUNS", str(tmp_path / "runs"))
        study = soma.Study("m", {"x": (0.0, 1.0), "k": ["a", "b"]}, objectives="loss", n_trials=3, seed=1, storage="memory")

        def objective(trial: Any) -> float:
            trial.report("loss", trial["x"] + 1, 0)
            if trial.number == 1:
                raise ValueError("no")
            return float(trial["x"])

        study.run(objective, n_jobs=0)
        assert study.run_id is not None
        with opened(find(study.run_id)) as it:
            kept = {t.number: t for t in study.trials}
            for told in it.board.trials:
                known = kept[told.number]
                assert (told.state, told.params, told.values, told.metrics) == (known.state, known.params, known.values, known.metrics)
            assert [t.number for t in it.board.best()] == [study.best_trial.number]
        assert "2 completed, 1 failed" in run(tmp_path, "study", "show", study.run_id).output
        assert "only a study with a directory" in run(tmp_path, "study", "stop", study.run_id).output


def test_report(made: Path) -> None:
    out = run(made, "report", "parabola").output
    path = made / "runs" / "studies" / "parabola" / "report.html"
    assert out == f"{path}\n" and "The best: trial" in path.read_text() and "soma " in path.read_text()
    assert run(made, "report", "parabola", "-o", "/none/a.html").output.startswith("Error: [Errno 2]")


def test_report_of_another_run(tmp_path: Path) -> None:
    with Run("train", RunFolder.create("r1", "train", directory=tmp_path / "runs", params={"lr": "<b>"})):
        pass
    assert run(tmp_path, "report", "r1").output == f"{tmp_path / 'runs' / 'r1' / 'report.html'}\n"
    text = (tmp_path / "runs" / "r1" / "report.html").read_text()
    assert "train, completed" in text and "&lt;b&gt;" in text and "nothing to draw" in text
    assert "run r1 is no study but 'train'" in run(tmp_path, "study", "show", "r1").output


def test_where_there_is_none(tmp_path: Path) -> None:
    assert run(tmp_path, "study", "list").output == "there is no study here; soma.Study(…).run(…) makes one\n"
    assert json.loads(run(tmp_path, "study", "list", "--json").output) == []
