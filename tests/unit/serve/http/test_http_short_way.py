"""Requests that arrive whole are answered without a task: as the others are, to the byte. The others are sent in two pieces here."""

from __future__ import annotations

import gc
import re
from typing import Any

import pytest

from soma.serve.predictions import Prediction

JSON = b"content-type: application/json\r\n"


def request(body: bytes, headers: bytes = JSON, path: bytes = b"/predictions", method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    return b"%s %s HTTP/%s\r\nhost: localhost\r\n%scontent-length: %d\r\n\r\n%s" % (method, path, version, headers, len(body), body)


ASKED = {
    "an answer": request(b'{"input": {"say": [1, "\xc3\xa9", null, 0.1, 123456789012345678901234567890]}}'),
    "half of a surrogate pair": request(b'{"input": {"say": "\\ud800"}}'),
    "for later": request(b'{"input": {}}', JSON + b"prefer: respond-async\r\n"),
    "no more after this": request(b'{"input": {"say": 1}}', JSON + b"connection: close\r\n"),
    "an old client": request(b'{"input": {"say": 1}}', version=b"1.0"),
    "a training": request(b'{"input": {"say": 1}}', path=b"/trainings"),
    "no JSON": request(b"{"),
    "NaN": request(b'{"input": {"say": NaN}}'),
    "another type": request(b"{}", b"content-type: text/plain\r\n"),
    "no type": request(b"{}", b""),
    "an answer nobody gives": request(b"{}", JSON + b"accept: image/png\r\n"),
    "refused": request(b'{"input": {"refuse": 503}}'),
    "it breaks": request(b'{"input": {"break": 1}}'),
    "wrong fields": request(b'{"input": 3, "webhook": "ftp://x", "id": 7}'),
    "an id that is none": request(b'{"id": "a b"}'),
    "an id with a name": request(b'{"id": "../../x", "input": {"say": 1}}'),
    "not here": request(b"{}", path=b"/nowhere"),
    "not like this": request(b"{}", path=b"/health-check"),
    "another page's": request(b"{}", JSON + b"origin: http://evil.example\r\n"),
    "two types": request(b"{}", JSON + JSON),
    "too large": request(b'{"input": {"x": "%s"}}' % (b"y" * 2000)),
    "a cancel": request(b"{}", path=b"/predictions/nobody/cancel"),
    "put": request(b'{"input": {"say": 2}}', method=b"PUT", path=b"/predictions/put"),
}


def without_times(answer: bytes) -> bytes:
    return re.sub(rb'\d{4}-\d\d-\d\dT[\d:.]+\+00:00|made-\d+|(?<=\r\ndate: )[^\r]+', b"?", answer)


def exchange(served: Any, sent: bytes, *, whole: bool) -> bytes:
    """What is answered, until that is complete."""
    with served.connect() as raw:
        if whole:
            raw.sendall(sent)
        else:
            raw.sendall(sent[:-1])
            served.do(lambda: None)
            assert served.client.get("/health-check").status_code == 200  # by then it has been read
            raw.sendall(sent[-1:])
        told = b""
        while b"\r\n\r\n" not in told:
            told += raw.recv(65536)
        head, _, body = told.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length is not None
        while len(body) < int(length[1]):
            body += raw.recv(65536)
        return head + b"\r\n\r\n" + body


@pytest.mark.parametrize("what", ASKED)
def test_whole_or_in_pieces_the_answer_is_the_same(serve: Any, what: str) -> None:
    told = []
    for whole in (True, False):
        with serve(body_limit=1000) as served:
            told.append(without_times(exchange(served, ASKED[what], whole=whole)))
    short, long = told
    assert sorted(short.partition(b"\r\n\r\n")[0].split(b"\r\n")) == sorted(long.partition(b"\r\n\r\n")[0].split(b"\r\n"))
    assert short.partition(b"\r\n\r\n")[2] == long.partition(b"\r\n\r\n")[2]


def test_the_short_way_is_taken(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_task(self: Any, *args: Any) -> None:
        raise AssertionError("a task")

    monkeypatch.setattr("soma.serve.http.connection.HttpToolsProtocol._start_asgi_task", no_task)
    with served.connect() as raw:
        for n in range(3):
            raw.sendall(request(b'{"input": {"say": %d}}' % n))
            assert b'"output":%d,' % n in raw.recv(65536)


def test_requests_behind_each_other_are_answered_in_turn(served: Any) -> None:
    many = [request(b'{"input": {"say": %d}}' % n) for n in range(500)]
    last = request(b'{"input": {"say": "last"}}', JSON + b"connection: close\r\n")
    told = served.exchange(b"".join([*many, last]))
    assert re.findall(rb'"output":("last"|\d+)', told) == [*(str(n).encode() for n in range(500)), b'"last"']
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 501


def test_a_client_that_goes_cancels_what_came_whole(served: Any) -> None:
    with served.connect() as raw:
        raw.sendall(request(b'{"id": "a", "input": {}}'))
        served.service.wait_until(lambda: served.service.find("a") is not None)
    served.service.wait_until(lambda: served.service.find("a").done)
    assert served.service.find("a").status == "canceled"


def test_an_answer_that_is_no_json_is_500(served: Any) -> None:
    with served.connect() as raw:
        raw.sendall(request(b'{"id": "a", "input": {}}'))
        served.service.wait_until(lambda: served.service.find("a") is not None)
        served.do(served.service.finish, served.service.find("a"), object())
        assert raw.recv(65536).startswith(b"HTTP/1.1 500 ")


def test_nothing_is_left_to_the_garbage_collector(served: Any) -> None:
    """What a prediction knows does not know the prediction: at a thousand a second that would hold up all others again and again."""
    def ask() -> None:
        raw.sendall(request(b'{"input": {"say": 1}}'))
        assert b'"output":1,' in raw.recv(65536)

    with served.connect() as raw:
        ask()
        served.service.predictions.clear()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                ask()
            served.do(served.service.predictions.clear)
            left = sum(type(o) is Prediction for o in gc.get_objects())  # some of PyTorch warn when they are asked for more
        finally:
            gc.enable()
    assert left <= 1, "predictions keep themselves"
