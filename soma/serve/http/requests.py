"""From what a client sent to a `Request`. Pure.

Takes what Cog takes, and ignores fields it does not know. Refuses JSON that Python would read but nobody could write again: NaN, infinity,
numbers out of range, nesting without end. An id is a name and nothing else: no path is ever made of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from soma.serve.protocol import WEBHOOK_EVENTS, Refused, Request

ID = re.compile(r"[!-~]{1,256}")
"""Printable ASCII without the space."""
DEPTH = 200
"""How deep lists and objects may be nested."""
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[ -~]{1,512}")


def parse(body: bytes) -> Any:
    """Refused with 400 if it is not JSON in UTF-8, or not JSON that could be sent back."""
    try:
        told = _decode(body.decode())
    except RecursionError:
        raise Refused(400, f"the body is nested more than {DEPTH} deep") from None
    except ValueError as e:
        raise Refused(400, f"the body is not JSON: {e}") from None
    if body.count(b"[") + body.count(b"{") > DEPTH and _depth(told) > DEPTH:
        raise Refused(400, f"the body is nested more than {DEPTH} deep")
    return told


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode


def _depth(value: Any) -> int:
    deep, level = 0, [value]
    while (outer := [v for v in level if isinstance(v, dict | list)]) and deep <= DEPTH:
        deep += 1
        level = [v for o in outer for v in (o.values() if isinstance(o, dict) else o)]
    return deep


def check_id(id: str, *where: str) -> str:
    """Refused with 422 if it cannot be an id."""
    if ID.fullmatch(id) is None:
        raise Refused(422, [problem("an id is 1 to 256 printable ASCII characters, none of them a space", "value_error", *where)])
    return id


def problem(msg: str, type: str, *where: str) -> dict[str, Any]:
    """One item of what a 422 says."""
    return {"loc": [*where], "msg": msg, "type": type}


def request_of(told: Any, path_id: str | None, headers: Mapping[bytes, bytes]) -> Request:
    """The request in a body.

    Args:
        told: the body, read; None for an empty one.
        path_id: of a PUT; the body may repeat it and nothing else.
        headers: of which those of traces are taken.

    Raises:
        Refused: with 422, and all that is wrong.
    """
    if told is None:
        told = {}
    if not isinstance(told, dict):
        raise Refused(422, [problem("Input should be a valid dictionary", "dict_type", "body")])
    wrong: list[dict[str, Any]] = []
    texts = {name: _text(told, name, wrong) for name in ("id", "created_at", "output_file_prefix", "webhook")}
    if texts["webhook"] is not None and not _is_url(texts["webhook"]):
        wrong.append(problem("Input should be a valid URL with http or https", "url_parsing", "body", "webhook"))
    input = told.get("input")
    if input is None:
        input = {}
    elif not isinstance(input, dict):
        wrong.append(problem("Input should be a valid dictionary", "dict_type", "body", "input"))
    events, context = _events(told, wrong), _context(told, wrong)
    if path_id is not None and texts["id"] not in (None, path_id):
        wrong.append(problem("prediction ID must match the ID supplied in the URL", "value_error", "body", "id"))
    if wrong:
        raise Refused(422, wrong)
    id = texts["id"] if path_id is None else path_id
    if id is not None and path_id is None:
        check_id(id, "body", "id")
    return Request(id, input, texts["webhook"], events, texts["created_at"], texts["output_file_prefix"],
                   {**context, **traces(headers)}, told)


def _text(told: Mapping[str, Any], name: str, wrong: list[dict[str, Any]]) -> str | None:
    value = told.get(name)
    if value is None or isinstance(value, str):
        return value
    wrong.append(problem("Input should be a valid string", "string_type", "body", name))
    return None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable() and " " not in text
    except ValueError:
        return False


def _events(told: Mapping[str, Any], wrong: list[dict[str, Any]]) -> tuple[str, ...] | None:
    value = told.get("webhook_events_filter")
    if value is None:
        return None
    if not isinstance(value, list):
        wrong.append(problem("Input should be a valid list", "list_type", "body", "webhook_events_filter"))
        return None
    for i, name in enumerate(value):
        if name not in WEBHOOK_EVENTS:
            choices = ", ".join(repr(n) for n in WEBHOOK_EVENTS)
            wrong.append(problem(f"Input should be one of {choices}", "enum", "body", "webhook_events_filter", str(i)))
    return tuple(n for n in WEBHOOK_EVENTS if n in value)


def _context(told: Mapping[str, Any], wrong: list[dict[str, Any]]) -> dict[str, str]:
    value = told.get("context")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        wrong.append(problem("Input should be a dictionary of strings", "dict_type", "body", "context"))
        return {}
    return value


def traces(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What the headers of W3C Trace Context say, where they are well formed."""
    parent, state = headers.get(b"traceparent"), headers.get(b"tracestate")
    if parent is None or _TRACEPARENT.fullmatch(parent) is None:
        return {}
    if state is None or _TRACESTATE.fullmatch(state) is None:
        return {"traceparent": parent.decode()}
    return {"traceparent": parent.decode(), "tracestate": state.decode()}


def wants_async(headers: Mapping[bytes, bytes]) -> bool:
    prefer = headers.get(b"prefer")
    return prefer is not None and b"respond-async" in (p.split(b";")[0].strip().lower() for p in prefer.split(b","))


def wants_events(headers: Mapping[bytes, bytes]) -> bool:
    """Whether an event stream is asked for. Refused with 406 if neither that nor JSON is acceptable."""
    accept = headers.get(b"accept")
    if accept is None or accept in (b"*/*", b"application/json"):
        return False
    kinds = [k.split(b";")[0].strip().lower() for k in accept.split(b",")]
    if b"text/event-stream" in kinds:
        return True
    if not {b"*/*", b"application/*", b"application/json"} & set(kinds):
        raise Refused(406, "answers are application/json or text/event-stream")
    return False


def check_json(headers: Mapping[bytes, bytes]) -> None:
    """Refused with 415 if the body says that it is something else than JSON, or does not say what it is."""
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Refused(415, "Expected request with `Content-Type: application/json`")
