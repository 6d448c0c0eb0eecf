"""Who is let in: by the name they asked for, the page they come from, and their token. Pure.

A page of somebody else's that a browser shows can send requests here, also under a name of its own that resolves to this machine (DNS
rebinding). So a `Host` must be one of ours, and an `Origin`, which browsers send with all that could change something, too. Tokens are
in `Authorization`, never in cookies, which browsers add by themselves.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

from soma.serve.http.options import HttpOptions
from soma.serve.http.routes import Access
from soma.serve.protocol import Refused

_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SINGLE = (b"host", b"origin", b"authorization", b"content-type")
"""Headers of which there may be one only: who reads the first and who reads the last would not agree."""


class Guard:
    """See the module."""

    def __init__(self, options: HttpOptions) -> None:
        bound = options.host.lower()
        self._names = {*LOOPBACK, bound, *(h.lower().strip("[]") for h in options.allowed_hosts)}
        self._any = "*" in options.allowed_hosts
        self._addresses = bound in ("", "0.0.0.0", "::")
        """Bound to all addresses: any of them may be asked for by number, which no name can be rebound to."""
        self._origins = frozenset(o.encode() for o in options.allowed_origins)
        self._token = _encoded(options.token)
        self._reader = _encoded(options.reader_token)
        self._is_ours = lru_cache(256)(self._check_host)

    def check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refused with 400, 421 or 403 if a request is not meant for us, or comes from somebody else's page."""
        host = headers.get(b"host")
        if host is None:
            raise Refused(400, "a Host header is needed")
        if not self._is_ours(host):
            raise Refused(421, "this server does not answer to that Host; see --allowed-hosts")
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._origins and origin not in (b"http://" + host, b"https://" + host):
            raise Refused(403, "requests from pages of other origins are refused")

    def _check_host(self, host: bytes) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].decode().lower().strip("[]").removesuffix(".")
        return self._any or name in self._names or (self._addresses and _is_address(name))

    def check_token(self, access: Access, headers: Mapping[bytes, bytes]) -> None:
        """Refused with 401 or 403 if there are tokens and the right one is missing."""
        if self._token is None or access is Access.OPEN:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip()
        is_control = hmac.compare_digest(given, self._token)
        is_reader = self._reader is not None and hmac.compare_digest(given, self._reader)
        if scheme.lower() != b"bearer" or not (is_control or is_reader):
            raise Refused(401, "a token is needed: Authorization: Bearer …", headers=((b"www-authenticate", b"Bearer"),))
        if access is Access.CONTROL and not is_control:
            raise Refused(403, "this token may only read")


def single(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name. Refused with 400 if there are two where there may be one."""
    found = dict(headers)
    if len(found) != len(headers):
        names = [name for name, _ in headers]
        for name in SINGLE:
            if names.count(name) > 1:
                raise Refused(400, f"more than one {name.decode()} header")
    return found


def _encoded(token: str | None) -> bytes | None:
    return None if token is None else token.encode()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
