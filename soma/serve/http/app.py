"""The ASGI application: from a request to a service and back.

Plain ASGI, for every answer waits for a prediction's way through HTTP. It answers all that comes: what is refused with a status and
`{"detail": …}`, what breaks in here with 500 and no more, and the server goes on. A client that goes away while its prediction runs
cancels it.

Most requests ask for one prediction and its result, and are here whole when they are seen. For these there is a short way beside ASGI
(`direct`): callbacks instead of a task, and one write. It does what the long way does, with the same functions.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from soma.serve.http.access import Lines
from soma.serve.http.answers import Answer, Send, encode, json_answer, refusal, send_answer, text_answer
from soma.serve.http.body import Bodies, Gone, Receive
from soma.serve.http.connection import EXTENSION, Connection
from soma.serve.http.events import Readers
from soma.serve.http.guard import Guard, single
from soma.serve.http.options import HttpOptions
from soma.serve.http.page import page_and_policy
from soma.serve.http.requests import check_id, check_json, parse, request_of, wants_async, wants_events
from soma.serve.http.routes import ROUTES, Route, find
from soma.serve.protocol import ENDS, Prediction, Refused, Service


@dataclass(slots=True)
class Asked:
    """One request on its way."""

    route: Route
    id: str
    headers: Mapping[bytes, bytes]
    connection: Connection
    receive: Receive
    send: Send
    prediction: str | None = None
    """The id of the prediction it turned out to be about."""


class HttpApp:
    """See the module.

    Args:
        service: what makes predictions.
        options: what is allowed.
        describe: makes the OpenAPI document, once there is a signature.
        stop: ends the server.
    """

    def __init__(self, service: Service, options: HttpOptions, describe: Callable[[], Mapping[str, Any]], stop: Callable[[], None]) -> None:
        self._service, self._options, self._describe, self._stop = service, options, describe, stop
        self._guard, self._bodies, self.readers = Guard(options), Bodies(options), Readers(options)
        self._lines = Lines(options.log)
        self._described: tuple[Any, Answer] | None = None
        self._answers = {route.name: getattr(self, f"_{route.name}") for route in ROUTES}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        asked: Asked | None = None
        try:
            route, id, headers = self._let_in(scope)
            asked = Asked(route, id, headers, scope["extensions"][EXTENSION], receive, send)
            answer: Answer | None = await self._answers[route.name](asked)
        except Gone:
            return
        except Exception as e:
            answer = self._trouble(e)
        if answer is not None:
            await send_answer(answer, send)
        self._lines.request(scope["method"], scope["raw_path"], 200 if answer is None else answer.status, time.perf_counter() - began,
                            None if asked is None else asked.prediction)

    def _let_in(self, scope: Mapping[str, Any]) -> tuple[Route, str, Mapping[bytes, bytes]]:
        """What is asked for, the id in its path, and the headers; Refused if it is nothing, or not for whoever asks."""
        headers = single(scope["headers"])
        self._guard.check_origin(headers)
        route, id = find(scope["method"], scope["raw_path"])
        self._guard.check_token(route.access, headers)
        return route, id, headers

    def _trouble(self, e: Exception) -> Answer:
        if isinstance(e, Refused):
            return refusal(e)
        self._lines.say("error", "a request failed", error="".join(traceback.format_exception(e)))
        return Answer(500, encode({"detail": "Internal Server Error"}))

    # -- the short way ---------------------------------------------------------------------------------------------------------

    def direct(self, scope: Mapping[str, Any], body: bytes, connection: Connection, answer: Callable[[Answer], None]) -> bool:
        """Answer a request that is whole, if it asks for one prediction and its result; else return False, and nothing has been done."""
        if scope["method"] != "POST" or len(body) > self._options.body_limit:
            return False
        began = time.perf_counter()

        def tell(made: Answer, id: str | None = None) -> None:
            answer(made)
            self._lines.request("POST", scope["raw_path"], made.status, time.perf_counter() - began, id)

        try:
            route, _, headers = self._let_in(scope)
            if route.name != "create" or wants_events(headers):
                return False
            prediction = self._made(route.kind, None, headers, body)
        except Exception as e:
            tell(self._trouble(e))
            return True

        def hear(kind: str) -> None:
            if kind in ENDS:
                connection.on_gone = None
                tell(self._told(prediction), prediction.id)

        if wants_async(headers):
            tell(self._told(prediction, 202), prediction.id)
        elif prediction.done:
            tell(self._told(prediction), prediction.id)
        else:
            connection.on_gone = prediction.abandoned
            prediction.listeners.append(hear)
        return True

    def _made(self, kind: str, id: str | None, headers: Mapping[bytes, bytes], body: bytes) -> Prediction:
        """The prediction that a body asks for."""
        if body:
            check_json(headers)
        return self._service.create(request_of(parse(body) if body else None, id, headers), kind)

    def _told(self, prediction: Prediction, status: int = 200) -> Answer:
        try:
            return json_answer(prediction.as_dict(), status)
        except Exception as e:
            return self._trouble(e)

    # -- predictions -----------------------------------------------------------------------------------------------------------

    async def _create(self, asked: Asked) -> Answer | None:
        streams = wants_events(asked.headers)
        return await self._begin(asked, None, streams)

    async def _put(self, asked: Asked) -> Answer | None:
        """Idempotent: what is there already, or has ended, is told as it is."""
        streams = wants_events(asked.headers)
        id = check_id(asked.id, "path", f"{asked.route.kind}_id")
        there = self._service.find(id, asked.route.kind)
        if there is None:
            return await self._begin(asked, id, streams)
        asked.prediction = id
        await self._bodies.read(asked.headers, asked.receive)
        if streams:
            return await self.readers.follow(there, asked.connection, asked.send, owns=False)
        return json_answer(there.as_dict(), 200 if there.done else 202)

    async def _begin(self, asked: Asked, id: str | None, streams: bool) -> Answer | None:
        body = await self._bodies.read(asked.headers, asked.receive, whole=asked.connection.whole)
        if id is not None and (there := self._service.find(id, asked.route.kind)) is not None:
            return json_answer(there.as_dict(), 200 if there.done else 202)  # came while this one's body was read
        prediction = self._made(asked.route.kind, id, asked.headers, body)
        asked.prediction = prediction.id
        leaves = wants_async(asked.headers)
        if streams:
            try:
                return await self.readers.follow(prediction, asked.connection, asked.send, owns=not leaves)
            except Refused:
                prediction.abandoned()
                raise
        if leaves:
            return json_answer(prediction.as_dict(), 202)
        await _wait(prediction, asked.connection)
        return json_answer(prediction.as_dict())

    async def _get(self, asked: Asked) -> Answer | None:
        prediction = self._find(asked)
        if wants_events(asked.headers):
            return await self.readers.follow(prediction, asked.connection, asked.send, owns=False)
        return json_answer(prediction.as_dict())

    async def _cancel(self, asked: Asked) -> Answer:
        self._find(asked)
        self._service.cancel(asked.id, asked.route.kind)
        return json_answer({})

    def _find(self, asked: Asked) -> Prediction:
        id = check_id(asked.id, "path", f"{asked.route.kind}_id")
        prediction = self._service.find(id, asked.route.kind)
        if prediction is None:
            raise Refused(404, f"there is no such {asked.route.kind}, or its result is no longer kept")
        asked.prediction = id
        return prediction

    # -- the rest --------------------------------------------------------------------------------------------------------------

    async def _index(self, asked: Asked) -> Answer:
        names = {"docs_url": "/docs", "openapi_url": "/openapi.json", "shutdown_url": "/shutdown", "healthcheck_url": "/health-check",
                 "metrics_url": "/metrics"}
        for kind in ("prediction", *(("training",) if self._service.training is not None else ())):
            names |= {f"{kind}s_url": f"/{kind}s", f"{kind}s_idempotent_url": f"/{kind}s/{{{kind}_id}}",
                      f"{kind}s_cancel_url": f"/{kind}s/{{{kind}_id}}/cancel"}
        return json_answer(names)

    async def _health(self, asked: Asked) -> Answer:
        return json_answer(await self._service.check_health())

    async def _openapi(self, asked: Asked) -> Answer:
        if self._service.signature is None:
            raise Refused(503, "the setup has not finished, or it failed; see /health-check", retry_after=1.0)
        if self._described is None or self._described[0] is not self._service.signature:
            self._described = self._service.signature, json_answer(self._describe())
        return self._described[1]

    async def _docs(self, asked: Asked) -> Answer:
        body, policy = page_and_policy()
        return text_answer(body, b"text/html; charset=utf-8", (b"content-security-policy", policy), (b"referrer-policy", b"no-referrer"),
                           (b"x-frame-options", b"DENY"))

    async def _metrics(self, asked: Asked) -> Answer:
        return text_answer(self._service.metrics_text(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _shutdown(self, asked: Asked) -> Answer:
        self._stop()
        return json_answer("ok")


async def _wait(prediction: Prediction, connection: Connection) -> None:
    """Until it has ended; it is told if the client goes meanwhile."""
    connection.on_gone = prediction.abandoned
    if connection.gone:
        prediction.abandoned()
    try:
        await prediction.wait()
    finally:
        connection.on_gone = None


