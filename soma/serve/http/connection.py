"""One connection: uvicorn's, with the limits that it does not have, with word of its end, and with a short way for whole requests.

A head must arrive in time and be of a sane size, and there are only so many connections; who comes later is told so and closed.
What a client sends that is not HTTP closes its connection and nothing else; it is not logged, so nobody can fill the log with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from soma.serve.http.answers import Answer
from soma.serve.http.options import HttpOptions

EXTENSION = "soma.connection"
Headers = tuple[tuple[bytes, bytes], ...]


class HeadTooLarge(Exception):
    """More than `header_limit`."""


class Joined:
    """A transport that sends what is written in one turn of the loop with one system call: head and body, events that come fast.

    Closed, it sends what is left; a client that does not take any of that for `patience` seconds is cut off.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._transport, self._loop, self._patience = transport, loop, patience
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_LIMIT:
            self.flush()  # now, so that the transport can say that it is too much

    def write_now(self, data: bytes) -> None:
        """In this turn, without those that come in it: what is whole need not wait for more."""
        self.flush()
        self._transport.write(data)

    def flush(self) -> None:
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        if not self._transport.is_closing():
            self._transport.close()
            self._linger(None)

    def _linger(self, before: int | None) -> None:
        left = self._transport.get_write_buffer_size()
        if left and before is not None and left >= before:
            self._transport.abort()
        elif left:
            self._loop.call_later(self._patience, self._linger, left)

    def abort(self) -> None:
        self._parts.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Direct(Protocol):
    """Answers a request that is whole, by `answer`, now or later; False if it is not one for the short way, and nothing has been done."""

    def __call__(self, scope: Mapping[str, Any], body: bytes, connection: Connection, answer: Callable[[Answer], None]) -> bool: ...


class Connection(HttpToolsProtocol):
    """See the module. The application finds it in `scope["extensions"]`.

    Attributes:
        gone: the client has closed it.
        on_gone: called then, once.
    """

    options: HttpOptions
    direct: Direct
    last_gone: asyncio.Event
    """Set whenever there is none left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self._in_head = True
        self._head = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._parses = False
        self._begun: tuple[RequestResponseCycle, Any] | None = None
        """A request whose head came with what is parsed now, and the application for it."""

    # -- beginning and end -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, Joined(transport, self.loop, self.options.write_timeout))
        self._watch_head()
        if len(self.connections) > self.options.connections:
            self._refuse(b"503 Service Unavailable", b"too many connections", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        self._unwatch_head()
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None
        if not self.connections:
            self.last_gone.set()

    def abort(self) -> None:
        """Close it without waiting for the client to take what was sent."""
        self.transport.abort()

    @property
    def whole(self) -> bool:
        """The request that is answered has come to its end, and maybe others behind it: reading its body waits for nobody."""
        return not self.cycle.more_body

    # -- what arrives ----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._parses = True
        try:
            super().data_received(data)
        finally:
            self._parses = False
        if self._begun is not None:
            self._begin()
        if self.gone or self.transport.is_closing():
            return
        if self._in_head:
            self._head += len(data)
            if self._head > self.options.header_limit:
                self._refuse_head()
            elif self._deadline is None:
                self._watch_head()
        elif self._deadline is None and self.timeout_keep_alive_task is None and self.cycle.response_complete:
            self._watch_head()  # empty lines, or the rest of a body that nobody reads: not a way to stay for ever

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head = True, 0
        cast(dict[str, Any], self.scope)["extensions"] = {EXTENSION: self}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head += len(name) + len(value)
        if self._head > self.options.header_limit:
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        if self._deadline is not None:
            self._unwatch_head()
        super().on_headers_complete()
        if self.parser.should_upgrade() or self.expect_100_continue:
            # There is nothing to upgrade to, and what follows may be anything. And who is refused before leave to send may send or not.
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """What does not parse. A head that was too large says so."""
        if self._head > self.options.header_limit:
            self._refuse_head()
        else:
            self._refuse(b"400 Bad Request", b"this is not HTTP")

    # -- the short way ---------------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Not before all that came is parsed: the body may have come with the head."""
        if self._parses:
            self._begun = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self) -> None:
        assert self._begun is not None
        (cycle, app), self._begun = self._begun, None
        if self.transport.is_closing():
            return
        is_whole = not (cycle.more_body or cycle.waiting_for_100_continue or self.flow.write_paused)
        if not (is_whole and self.direct(cycle.scope, bytes(cycle.body), self, functools.partial(self._answer, cycle))):
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        """Send a whole answer, without a task and without a second look at headers that are ours."""
        if cycle.disconnected or self.transport.is_closing():
            return
        head = _head(answer.status, answer.headers, tuple(cycle.default_headers), cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        cast(Joined, self.transport).write_now(b"%scontent-length: %d\r\n\r\n%s" % (head, len(answer.body), answer.body))
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    # -- limits ----------------------------------------------------------------------------------------------------------------

    def _watch_head(self) -> None:
        self._deadline = self.loop.call_later(self.options.header_timeout, self._head_is_late)

    def _unwatch_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", b"the request did not arrive in time")

    def _refuse_head(self) -> None:
        self._refuse(b"431 Request Header Fields Too Large", b"the head of the request is too large")

    def _refuse(self, status: bytes, why: bytes, headers: bytes = b"") -> None:
        """Answer beside the application, and close. If an answer is under way, only close."""
        self._unwatch_head()
        if self.cycle is None or self.cycle.response_complete:
            body = b'{"detail":"%s"}' % why
            self.transport.write(b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
                                 % (status, len(body), headers, body))
        self.transport.close()


@functools.lru_cache(maxsize=64)
def _head(status: int, headers: Headers, dated: Headers, keep_alive: bool) -> bytes:
    """But for the length; the same for a second."""
    close = () if keep_alive else ((b"connection", b"close"),)
    return b"".join((STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in (*headers, *dated, *close))))
