"""The command line: what it prints without a cluster, and how a status is drawn."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import soma
from soma.cli import main, render_status

STATUS: dict[str, Any] = {
    "node_id": "3fa9c1d2", "pid": 77, "directory": "/run/soma-921aa515",
    "resources": {"CPU": 4.0, "memory": 2.0 * 2**30}, "available": {"CPU": 3.0, "memory": 2.0**30},
    "actors": [{"actor_id": "aa", "class_name": "FilterActor", "name": "scaler-[x]", "state": "ready", "pid": 78, "restarts": 0,
                "resources": {"CPU": 1.0}},
               {"actor_id": "bb", "class_name": "Counter", "name": None, "state": "starting", "pid": None, "restarts": 2,
                "memory_bytes": 3 * 2**20}],
    "driver": {"refs": 5, "arena_used": 2048},
}
WORDS = ("cluster soma-921aa515", "3 of 4 CPU, 1.0 GiB of 2.0 GiB memory", "scaler-[x]", "1 CPU", "Counter", "starting", "3 MiB",
         "driver's refs       5", "2 KiB")


def drawn(status: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(render_status(status))
    return out.getvalue()


def test_a_status_shows_what_is_there() -> None:
    text = drawn(STATUS)
    for said in WORDS:
        assert said in text


def test_what_the_control_port_refused_is_shown_and_what_is_limited() -> None:
    quiet = {**STATUS, "control": {"address": "tcp://10.0.0.1:6380", "refused": 0, "limited": 0, "connections": 3}}
    assert "control port" not in drawn(quiet) and "running" not in drawn(quiet)
    assert "at the control port 2 messages refused, 7 messages too many" in drawn(
        {**quiet, "control": {**quiet["control"], "refused": 2, "limited": 7}})
    nodes = [{"node_id": "one", "state": "open"}, {"node_id": "two", "state": "suspected", "max_concurrent": 4, "running": 1}]
    text = drawn({**STATUS, "nodes": nodes})
    assert "suspected" in text and "1 of 4" in text and "open" not in text


@pytest.mark.parametrize("status", [{}, {"cluster": "x"}, {"resources": None, "actors": [{}], "driver": None}])
def test_a_status_with_holes_is_drawn(status: dict[str, Any]) -> None:
    assert "cluster" in drawn(status)


def test_version() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert done.exit_code == 0 and soma.__version__ in done.output


def test_help_loads_nothing_large() -> None:
    code = ("import sys\nfrom soma.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'numpy', 'zmq', 'rich', 'sklearn', 'cloudpickle'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "demo" in done.stdout and "status" in done.stdout


def test_the_demo_without_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.datasets", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == 1
    assert done.output == 'Error: the demo needs scikit-learn: pip install "soma[ml]"\n'
