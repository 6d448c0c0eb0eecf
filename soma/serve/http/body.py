"""Reading the body of a request: not more of it than allowed, and not for longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from soma.serve.http.options import HttpOptions
from soma.serve.protocol import Refused

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
CLOSE = ((b"connection", b"close"),)
DRAIN = 5.0
"""Seconds that a body which is too large is still read, and thrown away: a client that is sending does not hear before."""


class Gone(Exception):
    """The client closed the connection before its request was complete."""


class Bodies:
    """All bodies that are being read at one time."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._held = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive, *, whole: bool = False) -> bytes:
        """The body of one request; of one that is `whole`, all is here already.

        Raises:
            Refused: 413 if it is too large, 408 if it takes too long, 503 if too much is being read already.
            Gone: it does not come.
        """
        length = headers.get(b"content-length")
        if length is None and b"transfer-encoding" not in headers:
            return b""
        announced = int(length) if length else 0
        if announced > self._options.body_limit:
            await self._refuse(receive, sends=b"expect" not in headers)
        if whole:
            return await self._read(receive)
        try:
            async with asyncio.timeout(self._options.body_timeout + announced / self._options.body_rate):
                return await self._read(receive)
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time", headers=CLOSE) from None

    async def _read(self, receive: Receive) -> bytes:
        parts, held, more = bytearray(), 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part, more = message.get("body", b""), message.get("more_body", False)
                if not (parts or more) and len(part) <= self._options.body_limit:
                    return bytes(part)  # nearly all of them
                parts += part
                self._held += len(parts) - held
                held = len(parts)
                if self._held > self._options.bodies_limit:
                    raise Refused(503, "too many large bodies are being read", retry_after=1.0, headers=CLOSE)
                if held > self._options.body_limit:
                    await self._refuse(receive, sends=more)
            return bytes(parts)
        finally:
            self._held -= held

    async def _refuse(self, receive: Receive, *, sends: bool) -> None:
        """413, when the client can hear it: at once if it waits for leave to send (`Expect`), else when it has sent."""
        if sends:
            await discard(receive, 2 * self._options.body_limit)
        mib = self._options.body_limit / 2**20
        raise Refused(413, f"the body is larger than {mib:g} MiB", headers=CLOSE)


async def discard(receive: Receive, most: int) -> None:
    """Read what comes and throw it away: at most so many bytes, for at most `DRAIN` seconds."""
    try:
        async with asyncio.timeout(DRAIN):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
