"""The server: listens, answers, and ends in good order.

SIGTERM, SIGINT, `POST /shutdown` or `stop()`: it accepts nothing more, what runs is finished and answered, and it is done. A second
signal does not wait for what runs. It lives in one event loop, which is the service's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import uvicorn

from soma.serve.http.app import HttpApp
from soma.serve.http.connection import Connection
from soma.serve.http.options import HttpOptions
from soma.serve.protocol import Service

SPARE = 512
"""File descriptors beside those of connections."""
BACKLOG = 2048
LAST = 10.0
"""Seconds that answers which are under way have at the end."""


class HttpServer:
    """See the module.

    Args:
        service: not owned, but shut down at the end.
        options: where, and how much.
        describe: makes the OpenAPI document; None for that of the service's signature.
    """

    def __init__(self, service: Service, options: HttpOptions, describe: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self._options = options
        self._socket: socket.socket | None = None
        self.app = HttpApp(service, options, describe or (lambda: _describe(service)), self.stop)
        last_gone = asyncio.Event()
        bound = type("BoundConnection", (Connection,), {"options": options, "direct": self.app.direct, "last_gone": last_gone})
        config = uvicorn.Config(self.app, http=bound, ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
                                server_header=False, timeout_keep_alive=max(1, round(options.keep_alive)), proxy_headers=False,
                                backlog=BACKLOG)
        self._server = _Server(config, service, options.patience, last_gone)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """What it listens on."""
        if self._socket is None:
            raise RuntimeError("the server does not listen")
        port: int = self._socket.getsockname()[1]
        return port

    async def open(self) -> None:
        """Listen, and answer from now on. OSError if the address is taken or not ours."""
        _allow_descriptors(self._options.connections + SPARE)
        self._socket = _listen(self._options.host, self._options.port)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """Begin to end. The second time: do not wait for what runs."""
        self._server.stop()

    async def wait_closed(self) -> None:
        """Until it has ended, the service too."""
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """uvicorn's, which finishes the service's work before it closes connections."""

    def __init__(self, config: uvicorn.Config, service: Service, patience: float | None, last_gone: asyncio.Event) -> None:
        super().__init__(config)
        self._service, self._patience, self._last_gone = service, patience, last_gone
        self.should_exit: bool = False
        self._stopped, self._hurry = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._hurry.set()
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Ends at once, where uvicorn's looks ten times a second."""
        while not await self.on_tick(0):  # what the clock says, for answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends well on SIGTERM: uvicorn would raise it again at the end."""
        loop, taken = asyncio.get_running_loop(), []
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: whoever owns that calls `stop`
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Instead of uvicorn's, which looks ten times a second whether all is done."""
        for server in self.servers:
            server.close()
        done = asyncio.create_task(self._service.shutdown(self._patience))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([done, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not done.done():
            done.cancel()
            await asyncio.wait([done])
            done = asyncio.create_task(self._service.shutdown(0.0))
        await asyncio.wait([done, hurry])
        await self._close_connections()
        for listener in sockets or ():
            listener.close()
        done.result()

    async def _close_connections(self) -> None:
        """The idle ones at once, others when they are answered, and all of them before long."""
        connections, tasks = self.server_state.connections, self.server_state.tasks
        for connection in [*connections]:
            connection.shutdown()
        if tasks:
            await asyncio.wait([*tasks], timeout=1.0 if self.force_exit else LAST)
        for task in [*tasks]:
            task.cancel()
        self._last_gone.clear()
        if connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._last_gone.wait(), LAST)
        for connection in [*connections]:
            cast(Connection, connection).abort()


async def serve_http(service: Service, options: HttpOptions, ready: Callable[[int], None] | None = None) -> None:
    """Serve until stopped.

    Args:
        service: opened, in this event loop.
        options: where, and how much.
        ready: told the port, when it listens.
    """
    server = HttpServer(service, options)
    await server.open()
    if ready is not None:
        ready(server.port)
    await server.wait_closed()


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop to serve in: uvloop's where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _describe(service: Service) -> Mapping[str, Any]:
    from soma.serve.schema import openapi

    document: Mapping[str, Any] = openapi(service.signature, service.training, "soma", "1")
    return document


def _listen(host: str, port: int) -> socket.socket:
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's soft limit, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
