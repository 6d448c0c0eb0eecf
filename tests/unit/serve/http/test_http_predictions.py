"""Predictions over a real port: what is answered when, and with what."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pytest

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_prediction_is_answered_when_it_has_ended(served: Any) -> None:
    answer = served.client.post("/predictions", json={"input": {"say": [1, "é", None]}, "id": "a"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json()["output"] == [1, "é", None] and answer.json()["status"] == "succeeded"
    assert b": " not in answer.content and b", " not in answer.content and "é".encode() in answer.content
    assert served.client.get("/predictions/a").json() == answer.json()
    assert served.client.get("/trainings/a").status_code == 404
    assert served.client.post("/trainings", json={"input": {"say": 3}}).json()["output"] == 3
    assert [kind for kind, _ in served.service.requests] == ["prediction", "training"]


def test_failed_and_canceled_are_answers_too(served: Any) -> None:
    assert served.client.put("/predictions/a", json={}, headers={"prefer": "respond-async"}).status_code == 202
    prediction = served.service.find("a")
    served.do(served.service.finish, prediction, None, "fail")
    answer = served.client.get("/predictions/a")
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]) == (200, "failed", "as the test wants")


def test_respond_async_and_cancel(served: Any) -> None:
    answer = served.client.post("/predictions", json={}, headers={"prefer": "wait=5, respond-async"})
    assert answer.status_code == 202 and answer.json()["status"] == "processing"
    path = f"/predictions/{answer.json()['id']}"
    assert served.client.get(path).json()["status"] == "processing"
    canceled = served.client.post(path + "/cancel")
    assert (canceled.status_code, canceled.json()) == (200, {})
    assert served.client.get(path).json()["status"] == "canceled"
    assert served.client.post(path + "/cancel").status_code == 200
    assert served.client.post("/predictions/nobody/cancel").status_code == 404


def test_put_is_idempotent_while_it_runs_and_afterwards(served: Any) -> None:
    later = {"prefer": "respond-async"}
    first = served.client.put("/predictions/a", json={"input": {"x": 1}}, headers=later)
    again = served.client.put("/predictions/a", json={"input": {"x": 1}, "id": "a"})
    assert (first.status_code, again.status_code) == (202, 202) and first.json() == again.json()
    served.do(served.service.finish, served.service.find("a"), 7)
    ended = served.client.put("/predictions/a", json={"input": {"x": 1}}, headers=later)
    assert (ended.status_code, ended.json()["output"]) == (200, 7)
    assert len(served.service.requests) == 1
    assert served.client.post("/predictions", json={"id": "a"}).status_code == 409
    other = served.client.put("/predictions/b", json={"id": "c"})
    assert other.status_code == 422 and other.json()["detail"][0]["loc"] == ["body", "id"]


def test_what_a_request_carries(served: Any) -> None:
    body = {"input": {"say": 1}, "webhook": "https://a.test/x", "webhook_events_filter": ["completed", "start"], "created_at": "then",
            "output_file_prefix": "p", "context": {"who": "me"}, "unknown": 1}
    sent = {"traceparent": TRACE, "tracestate": "a=b"}
    assert served.client.post("/predictions", json=body, headers=sent).status_code == 200
    request = served.service.requests[0][1]
    assert request.webhook == "https://a.test/x" and request.webhook_events_filter == ("start", "completed")
    assert (request.created_at, request.output_file_prefix, request.raw) == ("then", "p", body)
    assert request.context == {"who": "me", "traceparent": TRACE, "tracestate": "a=b"}
    served.client.post("/predictions", json={"input": {"say": 1}}, headers={"traceparent": "nonsense", "tracestate": "a=b"})
    assert served.service.requests[1][1].context == {}
    empty = served.client.post("/predictions", content=b"", headers={"prefer": "respond-async"})
    assert empty.status_code == 202 and served.service.requests[2][1].input == {}  # as Cog


WRONG: list[tuple[Any, list[str]]] = [
    ([], ["body"]), ("x", ["body"]), (3, ["body"]),
    ({"input": []}, ["body", "input"]), ({"input": "x"}, ["body", "input"]), ({"id": 3}, ["body", "id"]),
    ({"webhook": 3}, ["body", "webhook"]), ({"webhook": "ftp://x"}, ["body", "webhook"]), ({"webhook": "http://"}, ["body", "webhook"]),
    ({"webhook": "http://a b/"}, ["body", "webhook"]), ({"webhook": "http://a:99999/"}, ["body", "webhook"]),
    ({"webhook_events_filter": "start"}, ["body", "webhook_events_filter"]),
    ({"webhook_events_filter": ["x"]}, ["body", "webhook_events_filter", "0"]),
    ({"webhook_events_filter": [["x"]]}, ["body", "webhook_events_filter", "0"]),
    ({"context": {"a": 1}}, ["body", "context"]), ({"created_at": {}}, ["body", "created_at"]),
    ({"id": ""}, ["body", "id"]), ({"id": "a b"}, ["body", "id"]), ({"id": "é"}, ["body", "id"]), ({"id": "x" * 257}, ["body", "id"]),
]


def test_a_wrong_body_says_where(served: Any) -> None:
    for body, where in WRONG:
        answer = served.client.post("/predictions", json=body)
        assert answer.status_code == 422, body
        assert [set(d) for d in answer.json()["detail"]] == [{"loc", "msg", "type"}] and answer.json()["detail"][0]["loc"] == where
    assert len(served.client.post("/predictions", json={"id": 3, "input": 3, "context": 3}).json()["detail"]) == 3
    assert served.service.requests == []


BROKEN = [b"{", b'{"input":', b"\xff\xfe", b'{"input":{"x":NaN}}', b'{"input":{"x":-Infinity}}', b'{"input":{"x":1e999}}', b"[" * 100_000,
          b'{"input":' + b'{"a":' * 300 + b"1" + b"}" * 301, b'{"a":1}x', b"\x00", '{"input":1}'.encode("utf-16")]


def test_broken_json(served: Any) -> None:
    for body in BROKEN:
        answer = served.client.post("/predictions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and isinstance(answer.json()["detail"], str), body[:30]
    half = served.client.post("/predictions", content=rb'{"input":{"say":"\ud800"}}', headers={"content-type": "application/json"})
    assert half.status_code == 200 and json.loads(half.content)["output"] == "\ud800"


def test_what_is_not_json_is_refused(served: Any) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert served.client.post("/predictions", content=b"{}", headers={"content-type": kind}).status_code == 415
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        answer = served.client.post("/predictions", content=b'{"input":{"say":1}}', headers={"content-type": kind})
        assert answer.status_code == 200
    for accept, status in (("image/png", 406), ("image/png, */*;q=0.1", 200), ("application/*", 200), ("text/html", 406)):
        assert served.client.post("/predictions", json={"input": {"say": 1}}, headers={"accept": accept}).status_code == status


@pytest.mark.parametrize("id", ["../../x", "/etc/x", "..", "a/b", "%2e%2e", "x" * 256, "a?b#c", "~!@$&'()*+,;=:"])
def test_an_id_is_a_name_and_nothing_else(served: Any, id: str) -> None:
    from urllib.parse import quote

    path = f"/predictions/{quote(id, safe='')}"
    if id == "..":
        path = "/predictions/%2E%2E"
    raw = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 19\r\nconnection: close\r\n\r\n"
    answer = served.exchange(raw.encode() + b'{"input":{"say":1}}')
    assert answer.startswith(b"HTTP/1.1 200") and served.service.find(id) is not None
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["id"] == id


def test_ids_that_are_none(served: Any) -> None:
    for id in ("%00", "a%20b", "%FF", "%C3%A9", "x" * 257, ""):
        answer = served.client.put(path := f"/predictions/{id}", json={})
        assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["path", "prediction_id"], path
    for path in ("/predictions/a/b", "/predictions/a/../../x", "/predictions/a/cancel/", "//predictions"):
        head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert served.exchange(head.encode()).startswith(b"HTTP/1.1 404"), path


def test_refusals_and_breakage_are_answers(served: Any) -> None:
    for status in (409, 422, 429, 503):
        answer = served.client.post("/predictions", json={"input": {"refuse": status}})
        assert answer.status_code == status and answer.headers["retry-after"] == "1" and answer.json() == {"detail": "as the test wants"}
    broken = served.client.post("/predictions", json={"input": {"break": 1}})
    assert (broken.status_code, broken.json()) == (500, {"detail": "Internal Server Error"})
    assert served.client.post("/predictions", json={"input": {"say": 1}}).status_code == 200


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_cancels(served: Any, reset: bool) -> None:
    raw = served.connect()
    raw.sendall(b"PUT /predictions/a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    served.service.wait_until(lambda: served.service.find("a") is not None)
    if reset:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    served.service.wait_until(lambda: served.service.find("a").status == "canceled", patience=2.0)
    later = served.client.put("/predictions/b", json={}, headers={"prefer": "respond-async"})
    assert later.status_code == 202
    served.client.close()
    assert not served.do(lambda: served.service.find("b").done)


def test_the_rest(served: Any) -> None:
    index = served.client.get("/").json()
    assert index["predictions_cancel_url"] == "/predictions/{prediction_id}/cancel" and index["trainings_url"] == "/trainings"
    assert served.client.get("/health-check").json() == {"status": "READY"}
    assert served.client.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert served.client.get("/metrics").text == "# nothing\n"
    assert served.client.head("/health-check").status_code == 200
    served.service.signature = None
    assert served.client.get("/openapi.json").status_code == 503
