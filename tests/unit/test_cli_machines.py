"""Commands for several machines: where options come from, and what is refused before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import soma.daemon.starting
from soma.cli import main


class Stand:
    """Instead of a daemon's process: what it would have been told, and what it would have said."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the commands asked for, by "head" and "node"."""
    found: dict[str, Any] = {}

    def start_head(bind: str, **options: Any) -> Stand:
        found["head"] = {"bind": bind, **options}
        return Stand({"address": bind, "token": "soma1.aa.bb", "pid": 1})

    def start_node(address: str, token: str | None, **offered: Any) -> Stand:
        found["node"] = {"address": address, "token": token, **offered}
        capabilities = {"gpus": (), "gpu_reason": "none", "cpu_cores": 2.0, "ram_bytes": 2**30, "tags": tuple(offered["tags"])}
        return Stand({"node": offered["node"], "host": "10.0.0.2", "pid": 2, "capabilities": capabilities, "totals": {"CPU": 2.0}})

    monkeypatch.setattr(soma.daemon.starting, "start_head", start_head)
    monkeypatch.setattr(soma.daemon.starting, "start_node", start_node)
    return found


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def test_a_join_says_what_it_registered(asked: dict[str, Any]) -> None:
    done = run("join", "tcp://10.0.0.1:6380", "--token", "soma1.x", "--name", "two", "--tags", "big,ssd", "--resources", "license=2")
    assert done.exit_code == 0
    assert "node two joined as 10.0.0.2 (pid 2): 2 CPUs, 1.0 GiB, GPUs: none (none); offers CPU 2; tags: big, ssd" in done.output
    assert asked["node"]["tags"] == ["big", "ssd"] and asked["node"]["resources"] == {"license": 2.0}


def test_flags_win_over_the_environment_and_that_over_the_file(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "soma.toml"
    file.write_text('[start]\nhead = true\nbind = "tcp://10.0.0.1:1"\ngrace = 20.0\nnum-cpus = 3\ntags = "file"\n')
    done = run("--config", str(file), "start", "--tags", "flag", SOMA_START_BIND="tcp://10.0.0.1:2", SOMA_START_TAGS="environment")
    assert done.exit_code == 0, done.output
    assert asked["head"]["bind"] == "tcp://10.0.0.1:2" and asked["head"]["grace"] == 20.0
    assert asked["node"]["tags"] == ["flag"] and asked["node"]["num_cpus"] == 3.0 and asked["node"]["host"] == "10.0.0.1"


@pytest.mark.parametrize(("text", "says"), [
    ("[start]\nbnd = 1\n", "has no option 'bnd'"), ("[strt]\nbind = 1\n", "is no command"), ("start = 1\n", "is no command"),
    ("[start\n", "cannot be read")])
def test_a_file_with_a_mistake_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "soma.toml"
    file.write_text(text)
    done = run("--config", str(file), "status")
    assert done.exit_code == 1 and says in done.output and str(file) in done.output


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"), "status")
    assert done.exit_code == 1 and "cannot be read" in done.output


@pytest.mark.parametrize(("arguments", "says"), [
    (["start", "--head", "--bind", "tcp://0.0.0.0:6380"], "every interface"),
    (["start", "--head", "--bind", "tcp://*:6380"], "every interface"),
    (["start", "--head", "--grace", "1", "--heartbeat", "1"], "more than three heartbeats"),
    (["join", "tcp://127.0.0.1:1"], "join token"),
    (["join", "tcp://127.0.0.1:1", "--token", "secret-thing"], "no join token"),
    (["join", "tcp://127.0.0.1:1", "--token", "soma1.a", "--resources", "license"], "NAME=VALUE"),
    (["drain", "two"], "name one by --address"),
])
def test_what_cannot_be_is_refused_before_anything_starts(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1 and says in done.output and "secret-thing" not in done.output


def test_stop_with_nothing_running() -> None:
    done = run("stop")
    assert done.exit_code == 0 and "nothing of yours" in done.output


def test_limits_of_a_machine_come_from_flags_the_environment_and_the_file(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "soma.toml"
    file.write_text("[join]\nmax-concurrent = 3\nstop-grace = 2.5\n")
    arguments = ("--config", str(file), "join", "tcp://10.0.0.1:6380", "--token", "soma1.x")
    assert run(*arguments).exit_code == 0
    assert (asked["node"]["max_concurrent"], asked["node"]["stop_grace"]) == (3, 2.5)
    assert run(*arguments, SOMA_JOIN_MAX_CONCURRENT="2").exit_code == 0 and asked["node"]["max_concurrent"] == 2
    assert run(*arguments, "--max-concurrent", "1", SOMA_JOIN_MAX_CONCURRENT="2").exit_code == 0 and asked["node"]["max_concurrent"] == 1
    assert run("start", "--head", SOMA_START_MAX_CONCURRENT="4").exit_code == 0 and asked["node"]["max_concurrent"] == 4
    assert run(*arguments, "--max-concurrent", "0").exit_code == 2


def test_stop_says_how_long_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(soma.daemon.starting, "stop_here", lambda *how: asked.append(how) or 2)
    assert "ended 2 daemons" in run("stop", "--grace", "30", "--reason", "maintenance").output
    assert run("stop").exit_code == 0 and run("stop", "--grace", "-1").exit_code == 2
    assert asked == [(10.0, 30.0, "maintenance"), (10.0, 0.0, "soma stop")]
