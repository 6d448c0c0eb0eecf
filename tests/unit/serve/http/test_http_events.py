"""Event streams over a real port: readers that come early, late, too many, or that do not read."""

from __future__ import annotations

import json
from typing import Any

import httpx

STREAM = {"accept": "text/event-stream"}


def told(text: str) -> list[tuple[str, Any]]:
    """Events of a stream, read as the standard says."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            assert set(fields) == {"event", "data"}
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def fill(prediction: Any) -> None:
    prediction.log("a line\n\nevent: completed\n")
    for i in range(3):
        prediction.output(i, f"é\n{i}")
    prediction.metric("a.b", 3, "replace")


def test_all_that_is_said_is_streamed(served: Any) -> None:
    with served.client.stream("POST", "/predictions", json={"id": "a"}, headers=STREAM) as stream:
        assert stream.status_code == 200 and stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        parts = stream.iter_text()
        text = next(parts)
        served.do(fill, served.service.find("a"))
        while "output" not in text:
            text += next(parts)
        served.do(served.service.finish, served.service.find("a"))
        text += "".join(parts)
    events = told(text)
    assert [kind for kind, _ in events] == ["start", "log", "output", "output", "output", "metric", "completed"]
    assert [data for kind, data in events if kind == "output"] == [{"chunk": f"é\n{i}", "index": i} for i in range(3)]
    assert 'data: {"chunk":"é\\n0","index":0}\n' in text
    assert events[-1][1]["status"] == "succeeded" and events[-1][1]["output"] == ["é\n0", "é\n1", "é\n2"]
    late = served.client.get("/predictions/a", headers=STREAM)
    assert told(late.text) == events
    assert told(served.client.put("/predictions/a", json={}, headers=STREAM).text) == events


def test_a_failure_is_an_error_event(served: Any) -> None:
    served.client.put("/predictions/a", json={}, headers={"prefer": "respond-async"})
    served.do(served.service.finish, served.service.find("a"), None, "fail")
    kind, data = told(served.client.get("/predictions/a", headers=STREAM).text)[-1]
    assert (kind, data["status"], data["error"]) == ("error", "failed", "as the test wants")


def test_who_asked_for_it_cancels_by_leaving_and_who_listens_does_not(served: Any) -> None:
    with httpx.Client(base_url=served.client.base_url, trust_env=False) as other:
        with served.client.stream("POST", "/predictions", json={"id": "a"}, headers=STREAM) as mine:
            mine_parts = mine.iter_raw()  # closes the stream when nobody holds it
            next(mine_parts)
            with other.stream("GET", "/predictions/a", headers=STREAM) as stream:
                next(stream.iter_raw())
            other.close()
            assert not served.do(lambda: served.service.find("a").done)
        served.client.close()
    served.service.wait_until(lambda: served.service.find("a").status == "canceled", patience=2.0)


def test_async_streams_leave_it_running(served: Any) -> None:
    with served.connect() as raw:
        raw.sendall(b"POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nprefer: respond-async\r\n"
                    b"accept: text/event-stream\r\ncontent-length: 10\r\n\r\n" + b'{"id":"a"}')
        served.service.wait_until(lambda: served.service.find("a") is not None)
    with served.client.stream("GET", "/predictions/a", headers=STREAM) as stream:
        served.do(served.service.finish, served.service.find("a"))
        assert told("".join(stream.iter_text()))[-1][1]["status"] == "succeeded"


def test_silence_is_filled_with_comments(serve: Any) -> None:
    with serve(ping=0.05) as served, served.client.stream("POST", "/predictions", json={"id": "a"}, headers=STREAM) as stream:
        text = ""
        for part in stream.iter_text():
            text += part
            if text.count(": still here\n\n") == 2:
                served.do(served.service.finish, served.service.find("a"))
        assert [kind for kind, _ in told(text)] == ["start", "completed"]


def test_too_many_readers(serve: Any) -> None:
    with serve(streams=1) as served:
        with served.client.stream("POST", "/predictions", json={"id": "a"}, headers=STREAM) as stream:
            parts = stream.iter_raw()  # closes the stream when nobody holds it
            next(parts)
            assert served.client.get("/predictions/a", headers=STREAM).status_code == 429
            refused = served.client.post("/predictions", json={"id": "b"}, headers=STREAM)
            assert refused.status_code == 429 and served.service.find("b").status == "canceled"
            assert served.client.get("/predictions/a").status_code == 200
        served.service.wait_until(lambda: served.service.find("a").status == "canceled", patience=2.0)


def test_a_reader_that_does_not_read_is_cut_off(serve: Any) -> None:
    with serve(write_timeout=0.3) as served:
        served.client.put("/predictions/a", json={}, headers={"prefer": "respond-async"})
        prediction = served.service.find("a")
        with served.connect() as raw:
            raw.sendall(b"GET /predictions/a HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
            assert raw.recv(9) == b"HTTP/1.1 "
            for i in range(200):
                served.do(prediction.output, i, "x" * 100_000)
            assert served.client.get("/health-check").status_code == 200
            while served.do(lambda: served.server.app.readers.count):
                pass
            assert not served.do(lambda: prediction.done)


def test_many_readers_and_many_chunks(served: Any) -> None:
    served.client.put("/predictions/a", json={}, headers={"prefer": "respond-async"})
    prediction = served.service.find("a")
    raws = [served.connect() for _ in range(300)]
    for raw in raws:
        raw.sendall(b"GET /predictions/a HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n")
    while served.do(lambda: served.server.app.readers.count) < len(raws):
        pass
    for i in range(20):
        served.do(prediction.output, i, i)
    served.do(served.service.finish, prediction)
    for raw in raws:
        text = b""
        while part := raw.recv(65536):
            text += part
        raw.close()
        assert text.count(b"event: output") == 20 and text.endswith(b"0\r\n\r\n")
