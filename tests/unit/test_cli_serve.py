"""`soma serve`: where options come from, what they become, and what is refused before anything is started."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from soma.cli import main
from soma.serve.http.options import HttpOptions
from soma.serve.options import ServeOptions

cli = importlib.import_module("soma.cli.serve")  # the command has taken its place as soma.cli's attribute

NOT_OFFERED = {"actor", "header_limit", "header_timeout", "body_timeout", "body_rate", "bodies_limit", "write_timeout", "keep_alive",
               "ping"}
"""Of the two classes of options: `actor` is said with options of its own, the others are for those who call `soma.serve.run`."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What would have been served; and the environment that processes would have had."""
    found: dict[str, Any] = {}

    def _served(target: str, chosen: ServeOptions, http: HttpOptions, fail_fast: bool) -> int:
        found.update(target=target, chosen=chosen, http=http, fail_fast=fail_fast, environment=dict(os.environ))
        return 0

    monkeypatch.setattr(cli, "_served", _served)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predict.py").write_text("def predict(x: int) -> int:\n    return x\n")
    return found


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def test_what_is_said_arrives(served: dict[str, Any]) -> None:
    done = run("serve", "predict.py:predict", "--slots=3", "--max-queue=0", "--timeout=2.5", "--num-gpus=0.5", "--memory=1000000",
               "--tags=big,ssd", "--allowed-hosts=a.example", "--allowed-hosts=b.example", "--log=json", "--reload", "--fail-fast")
    assert done.exit_code == 0, done.output
    assert served["chosen"] == ServeOptions(slots=3, max_queue=0, timeout=2.5, reload=True,
                                            actor={"num_gpus": 0.5, "memory": 1000000, "tags": ["big", "ssd"]})
    assert served["http"] == HttpOptions(allowed_hosts=("a.example", "b.example"), log="json")
    assert served["target"] == "predict.py:predict" and served["fail_fast"]


def test_nothing_said_is_the_defaults(served: dict[str, Any]) -> None:
    assert run("serve", "predict.py").exit_code == 0
    assert (served["chosen"], served["http"], served["fail_fast"]) == (ServeOptions(), HttpOptions(), False)


def test_flags_win_over_the_environment_and_that_over_the_file(served: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "soma.toml").write_text('[serve]\nslots = 4\nport = 7000\nmax-queue = 9\nallowed-hosts = ["a.example"]\n')
    done = run("--config", "soma.toml", "serve", "predict.py", "--slots", "2", SOMA_SERVE_SLOTS="3", SOMA_SERVE_PORT="7001")
    assert done.exit_code == 0, done.output
    assert (served["chosen"].slots, served["http"].port, served["chosen"].max_queue) == (2, 7001, 9)
    assert served["http"].allowed_hosts == ("a.example",)


def test_tokens_are_taken_out_of_the_environment(served: dict[str, Any]) -> None:
    done = run("serve", "predict.py", SOMA_SERVE_TOKEN="s3cret", SOMA_SERVE_READER_TOKEN="r3ad")
    assert done.exit_code == 0 and (served["http"].token, served["http"].reader_token) == ("s3cret", "r3ad")
    assert not [v for v in served["environment"].values() if v in ("s3cret", "r3ad")] and "s3cret" not in done.output


@pytest.mark.parametrize(("arguments", "says"), [
    (["none.py"], "there is no file 'none.py'"), (["predict.py", "--reader-token", "x"], "without a token"),
    (["predict.py", "--token", ""], "not empty"), (["predict.py", "--address", "nowhere"], "nowhere")])
def test_what_cannot_be_is_one_line(served: dict[str, Any], arguments: list[str], says: str) -> None:
    done = run("serve", *arguments)
    assert done.exit_code == 1 and says in done.output and done.output.startswith("Error: ") and done.output.count("\n") == 1
    assert served == {}


@pytest.mark.parametrize("argument", ["--slots=0", "--max-queue=-1", "--port=70000", "--log=xml", "--timeout=-1"])
def test_a_value_that_cannot_be_is_a_usage_error(served: dict[str, Any], argument: str) -> None:
    assert run("serve", "predict.py", argument).exit_code == 2 and served == {}


def test_every_option_is_offered_and_has_the_default_that_the_help_says() -> None:
    fields = {f.name: f.default for kind in (ServeOptions, HttpOptions) for f in dataclasses.fields(kind)}
    options = {p.name: p for p in cli.serve.params if isinstance(p, click.Option)}
    assert set(fields) - set(options) == NOT_OFFERED
    assert {"num_cpus", "num_gpus", "memory", "tags", "fail_fast", "address"} == set(options) - set(fields)
    for name in set(fields) & set(options):
        said = options[name].show_default
        if isinstance(said, str) and name != "body_limit":
            assert said == ("none" if fields[name] is None else str(fields[name])), name
    assert fields["body_limit"] == 100 * 2**20


def test_ray_serves_names_of_slots() -> None:
    from soma.serve.serving import options_of

    assert options_of({"num_replicas": 3})[0] == ServeOptions(slots=3)
    assert options_of({"min_replicas": 1, "max_replicas": 4, "port": 1}) == (ServeOptions(min_slots=1, max_slots=4), HttpOptions(port=1))
    with pytest.raises(TypeError, match="num_replicas= and slots= are the same"):
        options_of({"num_replicas": 3, "slots": 2})
    with pytest.raises(TypeError, match="unknown option 'replicas'"):
        options_of({"replicas": 2})
