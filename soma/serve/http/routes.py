"""What can be asked for: a table. Pure.

Paths are looked up as they came: an encoded slash is part of an id and never divides a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from soma.serve.protocol import Refused


class Access(Enum):
    """Who may ask, where there are tokens."""

    OPEN = "open"
    """Anybody: it tells nothing of what is served."""
    READ = "read"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    Attributes:
        method, path: `{id}` stands for one part of the path.
        name: of what answers it.
        access: who may.
        kind: of predictions it is about: "prediction", "training", or neither.
    """

    method: str
    path: str
    name: str
    access: Access = Access.READ
    kind: str = ""


def _of(kind: str) -> tuple[Route, ...]:
    many = f"/{kind}s"
    return (
        Route("POST", many, "create", Access.CONTROL, kind),
        Route("PUT", many + "/{id}", "put", Access.CONTROL, kind),
        Route("GET", many + "/{id}", "get", Access.READ, kind),
        Route("POST", many + "/{id}/cancel", "cancel", Access.CONTROL, kind),
    )


ROUTES = (
    Route("GET", "/", "index"),
    Route("GET", "/health-check", "health"),
    Route("GET", "/openapi.json", "openapi"),
    Route("GET", "/docs", "docs", Access.OPEN),
    Route("GET", "/metrics", "metrics"),
    *_of("prediction"),
    *_of("training"),
    Route("POST", "/shutdown", "shutdown", Access.CONTROL),
)

_PLAIN: dict[bytes, dict[str, Route]] = {}
_WITH_ID: dict[tuple[bytes, ...], dict[str, Route]] = {}
for _route in ROUTES:
    _parts = tuple(_route.path.encode().split(b"/"))
    (_WITH_ID.setdefault(_parts, {}) if "{id}" in _route.path else _PLAIN.setdefault(_route.path.encode(), {}))[_route.method] = _route


def find(method: str, path: bytes) -> tuple[Route, str]:
    """The route, and the id in the path.

    Raises:
        Refused: with 404 or 405.
    """
    id, methods = "", _PLAIN.get(path)
    if methods is None:
        parts = path.split(b"/")
        if len(parts) in (3, 4):
            methods = _WITH_ID.get((b"", parts[1], b"{id}", *parts[3:]))
            id = unquote_to_bytes(parts[2]).decode("utf-8", "replace")
    if methods is None:
        raise Refused(404, "Not Found")
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
        raise Refused(405, "Method Not Allowed", headers=((b"allow", ", ".join(allowed).encode()),))
    return route, id
