"""`soma serve` as somebody starts it in a shell: it listens, answers, ends on SIGTERM with what it promised, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import soma

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

PREDICTOR = """
import os, time
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def setup(self):
        print("weights are loaded")
        assert not os.environ.get("SOMA_SERVE_TOKEN")
        if os.path.exists("broken"):
            raise OSError("no weights here")

    def predict(self, x: int = Input(ge=0), seconds: float = 0.0) -> int:
        print("seen", x)
        time.sleep(seconds)
        return x + 1
"""


class Served:
    """A server of that command."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextlib.contextmanager
def serving(where: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    (where / "predict.py").write_text(PREDICTOR)
    env = {**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1]), **environment}
    command = [sys.executable, "-c", "from soma.cli import main; main()", "serve", "predict.py:Predictor", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=where, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            said = json.loads(process.stderr.readline())["message"] if "json" in arguments else process.stdout.readline().rstrip()
            found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+) \(pid (\d+)\)", said)
            assert found is not None and int(found[2]) == process.pid
            yield Served(process, int(found[1]))
        finally:
            process.kill()


def rest(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.read()


def test_it_serves_and_ends(tmp_path: Path) -> None:
    """What runs when SIGTERM comes is finished and answered; nobody else is let in."""
    with serving(tmp_path, "--log", "json", SOMA_SERVE_TOKEN="s3cret", SOMA_SERVE_SLOTS="2") as served:
        with httpx.Client(base_url=served.url, headers={"authorization": "Bearer s3cret"}, timeout=20) as client:
            while client.get("/health-check").json()["status"] == "STARTING":
                pass
            health = client.get("/health-check").json()
            assert health["status"] == "READY" and health["slots"]["ready"] >= 1 and "weights are loaded" in health["setup"]["logs"]
            assert httpx.post(f"{served.url}/predictions", json={"input": {"x": 1}}).status_code == 401
            done = client.post("/predictions", json={"input": {"x": 1}}).json()
            assert (done["status"], done["output"], done["logs"]) == ("succeeded", 2, "seen 1\n")
            assert client.post("/predictions", json={"input": {"x": -1}}).status_code == 422
            asked = {"json": {"input": {"x": 5, "seconds": 0.5}}, "headers": {"accept": "text/event-stream"}}
            with client.stream("POST", "/predictions", **asked) as stream:
                events = stream.iter_lines()
                assert any("seen 5" in line for line in events)  # it runs
                code = served.end()
                assert any('"output":6' in line for line in events)
        assert code == 0
        lines = [json.loads(line) for line in rest(served.process.stderr).splitlines()]
        assert all("s3cret" not in str(line) for line in lines) and any(line["message"].startswith("READY after ") for line in lines)
        with socket.socket() as s, pytest.raises(ConnectionRefusedError):
            s.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))


def test_a_webhook_that_nobody_hears_is_said(tmp_path: Path) -> None:
    """In the log, with the prediction's id; the prediction is as well as any."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and does not listen
        hook = f"http://127.0.0.1:{s.getsockname()[1]}/"
        with serving(tmp_path, "--log", "json") as served:
            while httpx.get(f"{served.url}/health-check").json()["status"] == "STARTING":
                pass
            asked = {"id": "mine", "input": {"x": 1}, "webhook": hook, "webhook_events_filter": ["start"]}
            assert httpx.post(f"{served.url}/predictions", json=asked).json()["status"] == "succeeded"
            assert served.process.stderr is not None
            line: dict[str, str] = {"message": ""}
            while not line["message"].startswith("webhook of 'mine': "):
                line = json.loads(served.process.stderr.readline())
            assert line["level"] == "warning" and line["message"].endswith("given up after 1 tries")
            assert served.end() == 0


def test_a_setup_that_fails(tmp_path: Path) -> None:
    """The server says so and stays, until it is ended: with code 1."""
    (tmp_path / "broken").touch()
    with serving(tmp_path) as served:
        assert served.process.stderr is not None
        said = ""
        while "OSError: no weights here" not in said:
            said += served.process.stderr.readline()
        assert said.startswith("SETUP_FAILED; GET /health-check says so too") and "weights are loaded\n" in said and "Traceback" in said
        health = httpx.get(f"{served.url}/health-check").json()
        assert health["status"] == "SETUP_FAILED" and "no weights here" in health["setup"]["logs"]
        assert httpx.post(f"{served.url}/predictions", json={"input": {"x": 1}}).status_code == 503
        assert served.end() == 1
    with serving(tmp_path, "--fail-fast") as served:
        assert served.process.wait(20) == 1 and rest(served.process.stderr).startswith("SETUP_FAILED. What the setup said:\n")


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text(PREDICTOR)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run([sys.executable, "-c", "from soma.cli import main; main()", "serve", "predict.py", "--port",
                               str(taken.getsockname()[1])], cwd=tmp_path, capture_output=True, text=True, timeout=20,
                              env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})
    assert done.returncode == 1 and done.stderr.startswith("Error: cannot listen at 127.0.0.1:") and done.stderr.count("\n") == 1
