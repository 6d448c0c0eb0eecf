"""How HTTP is offered: where, to whom, and how much of everything. The defaults offer it to this machine only."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """See the module. Sizes in bytes, times in seconds.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        allowed_hosts: names that a `Host` header may have besides those of loopback and `host`; "*" is any.
        allowed_origins: such as "https://app.example", besides our own: of a proxy that asks under another name. CORS is not done.
        token: needed for everything, if given (`Authorization: Bearer …`).
        reader_token: enough for what changes nothing.
        body_limit: of one request.
        bodies_limit: of all that are being read at one time.
        header_limit: of the head of a request.
        header_timeout: for the head of a request to arrive.
        body_timeout, body_rate: a body may take so long, and a second more for every so many bytes.
        write_timeout: for a client to take what is sent.
        keep_alive: how long an idle connection stays open.
        ping: a comment is sent to readers of events that heard nothing for so long.
        connections, streams: open at one time; streams are readers of events.
        patience: at the end, for what runs; None to wait for it.
        log: "json", "console" or "none".
    """

    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    token: str | None = None
    reader_token: str | None = None
    body_limit: int = 100 * MIB
    bodies_limit: int = 512 * MIB
    header_limit: int = 64 * 1024
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    body_rate: int = 64 * 1024
    write_timeout: float = 30.0
    keep_alive: float = 30.0
    ping: float = 15.0
    connections: int = 4096
    streams: int = 3072
    patience: float | None = None
    log: str = "console"

    def __post_init__(self) -> None:
        if self.reader_token is not None and self.token is None:
            raise ValueError("reader_token=: without a token, everybody may do everything; give token= too")
        for name in ("token", "reader_token"):
            if (value := getattr(self, name)) is not None and not (value and value.isascii() and value.isprintable()):
                raise ValueError(f"{name}=: printable ASCII, and not empty")
        for name in self.allowed_hosts:
            if "/" in name or name.count(":") == 1:
                raise ValueError(f"allowed_hosts: {name!r}: a name, without scheme and port")
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ValueError(f"allowed_origins: {origin!r}: scheme, name and port, such as https://app.example")
        if self.log not in ("json", "console", "none"):
            raise ValueError(f"log={self.log!r}: json, console or none")
