"""The page at /docs asks nobody else for anything, and what is logged cannot be forged."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from typing import Any

import pytest

from soma.serve.http.access import Lines
from soma.serve.http.options import HttpOptions
from soma.serve.http.page import page_and_policy
from soma.serve.http.routes import ROUTES
from soma.serve.http.server import _describe
from soma.serve.schema import signature_of


def test_the_page_needs_nothing_but_this_server(served: Any) -> None:
    answer = served.client.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    for name in ("script", "style"):
        inside = re.findall(f"<{name}>(.*?)</{name}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert len(inside) == 1 and policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?!data:)", answer.text) == []
    assert "url(" not in answer.text and "@import" not in answer.text and " style=" not in answer.text
    assert "innerHTML" not in answer.text and "eval(" not in answer.text
    assert page_and_policy()[0] == answer.content


def test_every_id_that_the_script_uses_is_in_the_page() -> None:
    text = page_and_policy()[0].decode()
    used, there = set(re.findall(r'\$\("([\w-]+)"\)', text)), set(re.findall(r' id="([\w-]+)"', text))
    assert used and used <= there


def test_the_document_names_every_route() -> None:
    def predict(text: str, times: int = 1) -> str:
        return text * times

    class Described:
        signature = training = signature_of(predict)

    paths: Any = _describe(Described())["paths"]  # type: ignore[arg-type]
    there = {(method.upper(), re.sub(r"\{\w+\}", "{id}", path)) for path, about in paths.items() for method in about}
    assert {(r.method, r.path) for r in ROUTES} <= there


def test_lines_of_a_log() -> None:
    for form in ("json", "console", "none"):
        stream = io.StringIO()
        lines = Lines(form, stream)
        lines.request("GET", b"/predictions/a%0Ab\xff", 200, 0.0123, "a\nb\x1b[31m")
        lines.say("error", "first\nsecond", error="x\ny", left_out=None)
        told = stream.getvalue()
        assert told.count("\n") == (0 if form == "none" else 2) and "\x1b" not in told
        if form == "json":
            first, second = map(json.loads, told.splitlines())
            assert first["prediction_id"] == "a\nb\x1b[31m" and first["status"] == 200 and first["ms"] == 12.3
            assert second["message"] == "first\nsecond" and second["level"] == "error" and "left_out" not in second
    with pytest.raises(ValueError, match="log="):
        HttpOptions(log="xml")


def test_requests_are_logged(serve: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(log="json") as served:
        served.client.post("/predictions", json={"id": "a", "input": {"say": 1}})
        served.client.post("/predictions", json={"input": {"break": 1}})
        served.client.get("/nothing")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line.get("status") for line in lines] == [200, None, 500, 404]
    assert lines[0]["prediction_id"] == "a" and "ZeroDivisionError" in lines[1]["error"]
