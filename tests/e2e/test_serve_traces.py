"""`soma serve` with a collector of OpenTelemetry's: what arrives there, and what becomes of it when there is none."""

from __future__ import annotations

import http.server
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import soma

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

PREDICTOR = """
from soma.serve import current_scope

def predict(fails: bool = False) -> str:
    if fails:
        raise ValueError("no good")
    return current_scope().context["traceparent"]
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[tuple[str, queue.SimpleQueue[bytes]]]:
    """Its address, and what it was sent."""
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def served(where: Path, asked: list[dict[str, bool]], **environment: str) -> tuple[list[dict[str, object]], str, float]:
    """What the predictions came to, what the server said, and how long it took to end."""
    (where / "predict.py").write_text(PREDICTOR)
    env = {**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1]), **environment}
    command = [sys.executable, "-c", "from soma.cli import main; main()", "serve", "predict.py:predict", "--port", "0", "--log", "json"]
    with subprocess.Popen(command, cwd=where, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while "READY after" not in said:
                assert process.poll() is None
                said += process.stderr.readline()
            port = next(line["port"] for line in map(json.loads, said.splitlines()) if "port" in line)
            told = [httpx.post(f"http://127.0.0.1:{port}/predictions", json={"input": input}, headers={"traceparent": PARENT}).json()
                    for input in asked]
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            said += process.stderr.read()
            assert process.wait(20) == 0
            return told, said, time.monotonic() - begin
        finally:
            process.kill()


def test_the_collector_has_the_spans_of_every_prediction(tmp_path: Path, collector: tuple[str, queue.SimpleQueue[bytes]]) -> None:
    address, got = collector
    told, _, _ = served(tmp_path, [{}, {"fails": True}], OTEL_EXPORTER_OTLP_ENDPOINT=address)
    spans, services = [], set()
    while not got.empty():
        for resource in messages.ExportTraceServiceRequest.FromString(got.get()).resource_spans:
            services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    assert services == {"soma"} and [s.name for s in spans] == ["prediction in its slot", "prediction"] * 2
    assert {s.trace_id.hex() for s in spans} == {PARENT.split("-")[1]}
    run, whole = spans[:2]
    assert whole.parent_span_id.hex() == PARENT.split("-")[2] and run.parent_span_id == whole.span_id
    assert told[0]["output"] == f"00-{run.trace_id.hex()}-{run.span_id.hex()}-01", "the user's code continues it"
    assert whole.start_time_unix_nano <= run.start_time_unix_nano <= run.end_time_unix_nano <= whole.end_time_unix_nano
    assert told[1]["status"] == "failed" and spans[3].status.code == 2 and "no good" in spans[3].status.message


def test_a_collector_that_is_not_there_keeps_nobody_waiting(tmp_path: Path) -> None:
    told, _, took = served(tmp_path, [{}], OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert told[0]["status"] == "succeeded" and took < 15, "its own tries go on for a minute"


def test_what_cannot_be_followed_is_said_and_it_serves(tmp_path: Path) -> None:
    told, said, _ = served(tmp_path, [{}], OTEL_TRACES_EXPORTER="zipkin")
    assert told[0]["status"] == "succeeded"
    assert "no traces: OTEL_TRACES_EXPORTER='zipkin': there are otlp (over HTTP), console and none" in said
