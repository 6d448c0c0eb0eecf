"""What goes back: compact JSON, and what every answer says about itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from soma.serve.protocol import Refused

Send = Callable[[MutableMapping[str, Any]], Coroutine[Any, Any, None]]
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_JSON = (b"content-type", b"application/json")
NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8. Of plain data without NaN and infinity: neither requests nor slots let them in."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, or half of a surrogate pair, which only an escape can say
        return _encode_ascii(value).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON, _NO_STORE, NOSNIFF)


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, encode(value))


def text_answer(text: str | bytes, kind: bytes, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(200, text.encode() if isinstance(text, str) else text, ((b"content-type", kind), NOSNIFF, *headers))


def refusal(refused: Refused) -> Answer:
    """`{"detail": …}`, and when to come again."""
    headers = [_JSON, _NO_STORE, NOSNIFF, *refused.headers]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refused.retry_after))).encode()))
    return Answer(refused.status, encode({"detail": refused.detail}), tuple(headers))


async def send_answer(answer: Answer, send: Send) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
