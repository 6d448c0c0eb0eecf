"""What does not come from a client of ours, over a real port: other pages, no tokens, no HTTP, too much, too slow, too many."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soma.serve.http.options import HttpOptions
from soma.serve.http.requests import DEPTH, parse
from soma.serve.http.routes import ROUTES, Access, find
from soma.serve.protocol import Refused

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PATHS = sorted({r.path.replace("{id}", "a") for r in ROUTES} | {"/nothing", "/predictions/..%2Fx"})
JSON = "content-type: application/json\r\n"


def ask(method: str, path: str, headers: str, body: bytes = b"") -> bytes:
    length = f"content-length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\n{headers}{length}\r\n".encode() + body


def statuses(told: bytes) -> list[int]:
    return [int(part[:3]) for part in told.split(b"HTTP/1.1 ")[1:]]


def everywhere(served: Any, headers: str) -> dict[tuple[str, str], int]:
    """What every method on every path answers, each twelve on one connection."""
    found, cases = {}, list(itertools.product(METHODS, PATHS))
    with served.connect() as raw, raw.makefile("rb") as file:
        for method, path in cases:
            body = b'{"input":{"say":1}}' if method in ("POST", "PUT") else b""
            raw.sendall(ask(method, path, headers + JSON, body))
            found[method, path] = int(file.readline().split()[1])
            length = 0
            while (line := file.readline().strip().lower()):
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if method != "HEAD":
                file.read(length)
    return found


FOREIGN = [
    ("host: evil.test\r\n", 421), ("host: evil.test\r\norigin: http://evil.test\r\n", 421), ("host: localhost.evil.test\r\n", 421),
    ("host: localhost@evil.test\r\n", 421), ("host: \r\n", 421), ("host: 127.0.0.1:5000:1\r\n", 421), ("host: 10.0.0.1\r\n", 421),
    ("host: localhost\r\norigin: http://evil.test\r\n", 403), ("host: localhost\r\norigin: null\r\n", 403),
    ("host: localhost:5000\r\norigin: http://localhost:5001\r\n", 403), ("host: localhost\r\norigin: \r\n", 403),
    ("", 400), ("host: localhost\r\nhost: evil.test\r\n", 400), ("host: localhost\r\norigin: a\r\norigin: b\r\n", 400),
]


@pytest.mark.parametrize(("headers", "status"), FOREIGN)
def test_no_route_answers_to_a_foreign_page(served: Any, headers: str, status: int) -> None:
    assert set(everywhere(served, headers).values()) == {status}
    assert served.service.requests == [] and served.service.stopped == []


def test_our_own_page_and_names_are_let_in(serve: Any) -> None:
    with serve(allowed_hosts=("model.example",), allowed_origins=("https://app.example",)) as served:
        for headers in ({"host": "localhost:1"}, {"host": "LOCALHOST"}, {"host": "[::1]:5000"}, {"host": "localhost."},
                        {"host": "model.example"}, {"host": "model.example:80", "origin": "https://model.example:80"},
                        {"origin": "https://app.example"}, {"origin": f"http://127.0.0.1:{served.port}"}):
            assert served.client.post("/predictions", json={"input": {"say": 1}}, headers=headers).status_code == 200, headers
    with serve(host="0.0.0.0") as served:
        for host, status in (("10.0.0.1:80", 200), ("[fe80::1]", 200), ("evil.test", 421), ("10.0.0.1.evil.test", 421)):
            assert served.client.get("/health-check", headers={"host": host}).status_code == status


def test_every_route_has_its_methods_and_get_changes_nothing(served: Any) -> None:
    """Against the table, looked up another way."""
    there = {path: {r.method for r in ROUTES if r.path.replace("{id}", "a") == path.replace("..%2Fx", "a")} for path in PATHS}
    for method, path in itertools.product(("GET", "HEAD", "PATCH", "DELETE", "OPTIONS", "TRACE"), PATHS):
        answer = served.client.request(method, path)
        expected = 404 if not there[path] else 405
        if ("GET" if method == "HEAD" else method) in there[path]:
            expected = 404 if "/a" in path or "Fx" in path else 200
        assert answer.status_code == expected, (method, path)
        if expected == 405:
            assert {m.strip() for m in answer.headers["allow"].split(",")} - {"HEAD"} == there[path]
    assert served.service.requests == [] and served.service.stopped == [] and served.client.get("/health-check").status_code == 200


def test_tokens(serve: Any) -> None:
    with serve(token="control", reader_token="reader") as served:
        for route in ROUTES:
            if route.name == "shutdown":
                continue  # works, below
            path = route.path.replace("{id}", "a")
            body = {"json": {"input": {"say": 1}}} if route.method in ("POST", "PUT") else {}

            def status(said: str | None, route: Any = route, path: str = path, body: Any = body) -> int:
                headers = {} if said is None else {"authorization": said}
                return int(served.client.request(route.method, path, headers=headers, **body).status_code)

            for wrong in (None, "Bearer", "Bearer x", "Basic control", "control", "Bearer controlx", "Bearer control reader"):
                assert status(wrong) == (200 if route.access is Access.OPEN else 401), (route, wrong)
            assert status("Bearer control") in (200, 404) and status("bearer  control") in (200, 404, 409)
            assert status("Bearer reader") == (403 if route.access is Access.CONTROL else status("Bearer control"))
        assert served.client.get("/", headers={"cookie": "token=control"}).headers["www-authenticate"] == "Bearer"
        assert served.client.post("/shutdown", headers={"authorization": "Bearer reader"}).status_code == 403
    with pytest.raises(ValueError, match="reader_token"):
        HttpOptions(reader_token="x")
    for wrong in ({"allowed_hosts": ("http://x",)}, {"allowed_hosts": ("x:80",)}, {"allowed_origins": ("x",)}, {"allowed_origins": ("http://x/",)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HttpOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token=: printable"):
        HttpOptions(token="")


NOT_HTTP = [
    b"\x00" * 100, b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + b"\x00" * 44, os.urandom(1000), b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\n folded: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def test_what_is_no_http_closes_its_connection_and_nothing_else(served: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for sent in NOT_HTTP:
        with served.connect(3.0) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            told = b""
            try:
                while part := raw.recv(65536):
                    told += part
            except ConnectionResetError:
                pass  # what it sent was not even read
        assert told == b"" or statuses(told)[0] in (400, 404), sent
    assert served.client.get("/health-check").status_code == 200
    assert capfd.readouterr() == ("", "")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_bytes(served: Any, sent: bytes) -> None:
    with served.connect(3.0) as raw:
        raw.sendall(b"POST /predictions HTTP/1.1\r\nhost: localhost\r\n" + JSON.encode() + b"connection: close\r\nprefer: respond-async\r\n"
                    + b"content-length: %d\r\n\r\n" % len(sent) + sent)
        told = raw.recv(65536)
    assert statuses(told)[0] in (200, 202, 400, 415, 422)


def test_upgrades_are_not_done(served: Any) -> None:
    for headers in ("connection: upgrade\r\nupgrade: websocket\r\n", "connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"):
        told = served.exchange(ask("GET", "/health-check", "host: localhost\r\n" + headers) + b"more" * 100)
        assert statuses(told)[0] == 200
    assert served.client.get("/health-check").status_code == 200


def test_large_heads(served: Any) -> None:
    cases = [ask("GET", "/" + "x" * 70_000, "host: localhost\r\n"), ask("GET", "/", "host: localhost\r\na: " + "x" * 70_000 + "\r\n"),
             ask("GET", "/", "host: localhost\r\n" + "a: b\r\n" * 40_000), b"GET / HTTP/1.1\r\na: " + b"x" * 300_000]
    for sent in cases:
        told = served.exchange(sent)
        assert told == b"" or statuses(told) == [431]
    assert served.client.get("/", headers={"a": "x" * 30_000}).status_code == 200


def test_large_bodies(serve: Any) -> None:
    with serve(body_limit=100_000) as served:
        fits = json.dumps({"input": {"say": 1, "x": "y" * 99_000}}).encode()
        large = json.dumps({"input": {"say": 1, "x": "y" * 100_001}}).encode()
        for body, status in ((fits, 200), (large, 413)):
            sent = {"content-type": "application/json"}
            assert served.client.post("/predictions", content=body, headers=sent).status_code == status
            parts = [body[i:i + 7000] for i in range(0, len(body), 7000)]
            assert served.client.post("/predictions", content=iter(parts), headers=sent).status_code == status  # chunked: nothing announced
        waits = ask("POST", "/predictions", "host: localhost\r\nexpect: 100-continue\r\ncontent-length: 100001\r\n" + JSON)
        assert statuses(served.exchange(waits)) == [413]
        assert len(served.service.requests) == 2


def test_a_body_over_the_default_limit(served: Any) -> None:
    """101 MiB; the client sends all of it before it listens."""
    with served.connect(20.0) as raw:
        raw.sendall(ask("POST", "/predictions", f"host: localhost\r\ncontent-length: {101 * 2**20}\r\n" + JSON))
        part = b"x" * 2**20
        for _ in range(101):
            raw.sendall(part)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_too_many_bodies_at_once(serve: Any) -> None:
    with serve(bodies_limit=150_000) as served, served.connect() as first:
        head = ask("POST", "/predictions", "host: localhost\r\ncontent-length: 200000\r\n" + JSON)
        first.sendall(head + b"x" * 100_000)
        while served.do(lambda: served.server.app._bodies._held) < 90_000:
            pass
        assert statuses(served.exchange(head + b"x" * 100_000)) == [503]
        assert served.client.post("/predictions", json={"input": {"say": 1}}).status_code == 200


def test_slow_clients_are_closed_and_others_served_meanwhile(serve: Any) -> None:
    slow = [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\na: ", b"\r\n\r\n",
            ask("GET", "/", "host: localhost\r\n") + b"\r\n", ask("GET", "/", "host: localhost\r\n"),
            ask("POST", "/predictions", "host: localhost\r\ncontent-length: 10\r\n" + JSON) + b"{",
            ask("POST", "/predictions", "host: localhost\r\ntransfer-encoding: chunked\r\n" + JSON) + b"1\r\n{\r\n",
            ask("POST", "/nothing", "host: localhost\r\ncontent-length: 10\r\n" + JSON) + b"{"]
    expected = [[408], [408], [408], [408], [408], [200, 408], [200], [408], [408], [404, 408]]
    with serve(header_timeout=0.5, body_timeout=0.5, keep_alive=1) as served:
        raws = [served.connect(5.0) for _ in range(20) for _ in slow]
        for raw, sent in zip(raws, slow * 20, strict=True):
            raw.sendall(sent)
        for _ in range(20):
            assert served.client.post("/predictions", json={"input": {"say": 1}}).status_code == 200
        for raw, wanted in zip(raws, expected * 20, strict=True):
            told = b""
            while part := raw.recv(65536):
                told += part
            raw.close()
            assert statuses(told) in (wanted, wanted[:1])  # after an answer, an idle connection may close without another


def test_an_answer_that_nobody_takes_is_not_kept_for_ever(serve: Any) -> None:
    with serve(write_timeout=0.2, keep_alive=1) as served, served.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"input": {"say": "x" * 20_000_000}}).encode()
        raw.sendall(ask("POST", "/predictions", "host: localhost\r\n" + JSON, body))
        assert raw.recv(12) == b"HTTP/1.1 200"
        while served.do(lambda: len(served.server._server.server_state.connections)):
            pass
        assert served.client.get("/health-check").status_code == 200


def test_dripping_does_not_help(serve: Any) -> None:
    with serve(header_timeout=0.3) as served, served.connect(0.02) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n")
        sent, told = 0, b""
        while not told:
            try:
                raw.sendall(b"a")
                sent += 1
                told = raw.recv(1000)
            except TimeoutError:
                assert sent < 200
        assert statuses(told) == [408]


def test_connections_are_counted(serve: Any) -> None:
    with serve(connections=5) as served:
        raws = [served.connect() for _ in range(5)]
        for raw in raws:
            raw.sendall(ask("GET", "/health-check", "host: localhost\r\n"))
            assert raw.recv(12) == b"HTTP/1.1 200"
        told = served.exchange(b"")
        assert statuses(told) == [503] and b"retry-after: 1\r\n" in told
        raws.pop().close()
        while statuses(served.exchange(ask("GET", "/health-check", "host: localhost\r\nconnection: close\r\n"))) != [200]:
            pass
        for raw in raws:
            raw.close()


def test_pipelined_requests_are_answered_in_order(served: Any) -> None:
    sent = b"".join(ask("PUT", f"/predictions/p{i}", "host: localhost\r\n" + JSON, b'{"input":{"say":%d}}' % i) for i in range(50))
    told = served.exchange(sent + ask("GET", "/", "host: localhost\r\nconnection: close\r\n"))
    assert statuses(told) == [200] * 51
    assert [int(part.split(b",")[0]) for part in told.split(b'"output":')[1:]] == [*range(50)]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)))
def test_json_is_read_as_json_reads_it(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


def test_how_deep_json_may_be() -> None:
    assert parse(b"[" * DEPTH + b"]" * DEPTH)
    with pytest.raises(Refused, match="nested"):
        parse(b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1))
    assert parse(b'{"a":"' + b"[" * 1000 + b'"}') and parse(b"[" + b",".join([b"[]"] * 1000) + b"]")


@given(st.text(alphabet="/abc%2F.?#~", max_size=30))
def test_any_path_is_found_or_refused(path: str) -> None:
    try:
        route, id = find("GET", path.encode())
    except Refused as e:
        assert e.status in (404, 405)
    else:
        assert (route.kind == "") == (id == "") or path.endswith("s/")


PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from conftest import FakeService
from soma.serve.http.options import HttpOptions
from soma.serve.http.server import new_loop, serve_http

async def main():
    service = FakeService()
    await serve_http(service, HttpOptions(port=0, log="none"), lambda port: print(port, flush=True))
    print("ended", service.stopped, flush=True)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_finishes_what_runs(signals: int) -> None:
    program = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        address = ("127.0.0.1", port)
        with socket.create_connection(address, timeout=10) as waits, socket.create_connection(address, timeout=10) as other:
            waits.sendall(ask("PUT", "/predictions/a", "host: localhost\r\n" + JSON, b"{}"))
            other.sendall(ask("GET", "/predictions/a", "host: localhost\r\naccept: text/event-stream\r\nconnection: close\r\n"))
            assert other.recv(12) == b"HTTP/1.1 200"
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                while True:
                    try:
                        socket.create_connection(address, timeout=10).close()
                    except (ConnectionRefusedError, ConnectionResetError):
                        break  # it accepts nothing more
            if signals == 1:
                other.settimeout(0.2)
                told = b""
                try:
                    while b"completed" not in told:
                        told += other.recv(65536)
                except TimeoutError:
                    assert b"completed" not in told  # it waits for the prediction
                waits.close()  # the client goes, so it is canceled, and that is an end
            else:
                with waits.makefile("rb") as file:
                    assert b'"status":"canceled"' in file.read()
            other.settimeout(10)
            text = b""
            while part := other.recv(65536):
                text += part
            assert b"event: completed" in text
        assert process.wait(10) == 0
        assert process.stdout.read() == f"ended {[None] if signals == 1 else [None, 0.0]}\n"


def test_shutdown_by_request(served: Any) -> None:
    answer = served.client.post("/shutdown")
    assert (answer.status_code, answer.json()) == (200, "ok")
    with pytest.raises(httpx.TransportError):
        while True:
            served.client.get("/", headers={"connection": "close"})
    assert served.service.stopped == [None]
