"""`soma job` as somebody uses it, on a cluster that this process runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import soma
import soma.jobs
from soma.cli.jobs import job


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMA_JOBS", str(where / "jobs"))
        patch.delenv("SOMA_ADDRESS", raising=False)
        yield where


@pytest.fixture(scope="module")
def shared_cluster(places: Path) -> Iterator[Any]:
    with soma.init(num_cpus=2) as context:
        yield context


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("""if True:
        import json, os, sys
        from soma.jobs import params, report
        print("trains", sys.argv[1:], os.environ.get("NAME"), params())
        report(1, 2, loss=0.5)
        open("out.json", "w").write("{}")
        sys.exit(int(sys.argv[1]))
    """)
    return tmp_path / "code"


def said(*words: object) -> Result:
    return CliRunner().invoke(job, [str(w) for w in words], catch_exceptions=False)


def test_submit_follow_and_all_that_can_be_asked(shared_cluster: Any, code: Path, tmp_path: Path) -> None:
    done = said("submit", "--entry", "train.py", "--working-dir", code, "--env", "NAME=a=b", "--param", "n=3", "--param", "s=word",
                "--output", "*.json", "--job-id", "first", "--", "0", "--epochs", "3")
    assert done.exit_code == 0
    assert done.stdout == "trains ['0', '--epochs', '3'] a=b {'n': 3, 's': 'word'}\n"
    assert done.stderr.startswith("job first\nSUCCEEDED after ") and "loss = 0.5\n  out.json (2 bytes)" in done.stderr

    failed = said("submit", "--entry", code / "train.py", "--job-id", "second", "--", "3")
    assert failed.exit_code == 1 and "FAILED after" in failed.stderr and "exit code 3" in failed.stderr

    listed = json.loads(said("list", "--json").stdout)
    assert [(s["id"], s["state"], s["progress"]["step"]) for s in listed] == [("first", "SUCCEEDED", 1), ("second", "FAILED", 1)]
    table = said("list").stdout
    assert "first" in table and "1 of 2" in table and "SUCCEEDED" in table
    assert "state     SUCCEEDED" in said("status", "first").stdout and "loss = 0.5" in said("status", "first").stdout
    assert json.loads(said("status", "second", "--json").stdout)["message"] == "train.py ended with exit code 3"
    assert said("logs", "first").stdout == said("logs", "-f", "first").stdout == done.stdout == said("logs", "-n", 1, "first").stdout

    got = said("result", "first", "--download", tmp_path / "there", "--json")
    assert got.exit_code == 0 and json.loads(got.stdout)["outputs"]["out.json"]["bytes"] == 2
    assert (tmp_path / "there" / "out.json").read_text() == "{}"
    assert said("result", "second").exit_code == 1
    for name in ("first", "second"):
        assert said("delete", name).exit_code == 0
    assert "no jobs" in said("list").stdout


def test_submit_without_waiting_and_cancel(shared_cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    started = said("submit", "--entry", tmp_path / "sleeps.py", "--no-wait", "--job-id", "sleeper")
    assert (started.exit_code, started.stdout) == (0, "sleeper\n")
    next(soma.jobs.follow("sleeper"))
    assert said("cancel", "sleeper").stdout == "cancelled\n"
    assert said("cancel", "sleeper").stdout == "it was over already: CANCELLED\n"
    assert said("delete", "sleeper").exit_code == 0


def test_what_a_user_can_mend_is_one_line(shared_cluster: Any, code: Path, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("--index-url x\n")
    for words, told in [(("status", "nobody"), "there is no job 'nobody'"),
                        (("submit", "--entry", "../x.py", "--working-dir", code), "leaves"),
                        (("submit", "--entry", tmp_path / "none.py"), "No such file"),
                        (("submit", "--entry", code / "train.py", "-r", tmp_path / "r.txt"), "line 1")]:
        done = said(*words)
        assert done.exit_code == 1 and done.stderr.startswith("Error: ") and told in done.stderr and done.stderr.count("\n") == 1
    assert said("submit", "--entry", code / "train.py", "--env", "x").exit_code == 2
    assert said("submit").exit_code == 2
