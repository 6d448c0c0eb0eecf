"""`soma runs` as somebody reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soma
from soma.cli import main


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("SOMA_RUNS", str(where))

    @soma.filter
    class Learn:
        def fit(self, x: Any, y: Any = None) -> Any:
            soma.report("loss", 0.25, step=3)
            if x < 0:
                raise ValueError("below [zero]")
            return {}

        def forward(self, x: Any, state: Any) -> Any:
            return x

    with soma.init(local=True), soma.Graph(Learn()) as g:
        g.fit(1, seed=7)
        with pytest.raises(ValueError, match="below"):
            g.fit(-1)
    patch.undo()
    yield where


def run(*args: str) -> Any:
    return CliRunner().invoke(main, ["runs", *args], env={"COLUMNS": "200"})


def test_list(recorded: Path) -> None:
    out = run("list", "--directory", str(recorded)).output
    assert out.count("fit") >= 2 and "completed" in out and "failed" in out and "below [zero]" in out
    found = json.loads(run("list", "--json", "--directory", str(recorded)).output)
    assert sorted((r["status"], r["manifest"]["what"]) for r in found) == [("completed", "fit"), ("failed", "fit")]


def test_show(recorded: Path) -> None:
    done = next(r["id"] for r in json.loads(run("list", "--json", "--directory", str(recorded)).output) if r["status"] == "completed")
    out = run("show", done, "--directory", str(recorded)).output
    assert "completed" in out and "seed      7" in out and "loss = 0.25 at step 3" in out and "learn" in out
    told = json.loads(run("show", done, "--json", "--directory", str(recorded)).output)
    assert [e["kind"] for e in told["events"]][-1] == "RunCompleted" and told["metrics"][0]["value"] == 0.25


def test_one_that_is_not_there(recorded: Path) -> None:
    result = run("show", "nothing", "--directory", str(recorded))
    assert result.exit_code == 1 and result.output.startswith("Error: no run in") and "'nothing'" in result.output


def test_where_nothing_was_recorded(tmp_path: Path) -> None:
    assert run("list", "--directory", str(tmp_path)).output == "no run was recorded here; graph.fit(…) records itself\n"
