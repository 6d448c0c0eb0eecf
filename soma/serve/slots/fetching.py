"""Files that come in: a URL or a data URI becomes a file in a directory of its own. Only `http`, `https` and `data`: never `file`.

Limited in bytes and in seconds, redirects included. The name is the last part of the URL's path, made harmless; nothing else of what the
client sent becomes part of a path.
"""

from __future__ import annotations

import base64
import binascii
import functools
import mimetypes
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from soma.serve.slots.terms import Limits

if TYPE_CHECKING:  # most slots fetch nothing, and the front end never
    import urllib.request

CHUNK = 256 * 1024
SOCKET_SECONDS = 10.0
"""Without a byte from the server."""
LONGEST = 200
"""Bytes of a file's name."""

P = TypeVar("P", bound=Path)


class FileError(ValueError):
    """A file that cannot be had or given, in words for the client."""


class Folder:
    """One prediction's directory: made with the first file, removed by `close`."""

    def __init__(self) -> None:
        self._path = ""
        self._count = 0
        self.closed = False

    def place(self, name: str) -> str:
        """A path for a file of that name. Two of the same name do not meet."""
        if not self._path:
            self._path = tempfile.mkdtemp(prefix="soma-files-")
        directory = os.path.join(self._path, str(self._count))
        self._count += 1
        os.mkdir(directory, 0o700)
        return os.path.join(directory, name)

    def holds(self, path: str) -> bool:
        return bool(self._path) and os.path.realpath(path).startswith(os.path.realpath(self._path) + os.sep)

    def close(self) -> None:
        self.closed = True
        if self._path:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = ""


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https, through the proxy of the environment, and nothing else, also after a redirect."""
    import urllib.request as r

    built = r.OpenerDirector()
    for handler in (r.ProxyHandler, r.UnknownHandler, r.HTTPHandler, r.HTTPSHandler, r.HTTPDefaultErrorHandler, r.HTTPRedirectHandler,
                    r.HTTPErrorProcessor):
        built.add_handler(handler())
    return built


def request(url: str, seconds: float, *, data: bytes | None = None, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    """An answer to read from; OSError or HTTPException if there is none."""
    from urllib.request import Request

    asked = Request(url, data=data, method=method, headers={"User-Agent": "soma", **(headers or {})})
    return _opener().open(asked, timeout=min(seconds, SOCKET_SECONDS))


def fetched(uri: str, folder: Folder, limits: Limits, clock: Callable[[], float] = time.monotonic) -> str:
    """The path of a file with what a URI stands for.

    Raises:
        FileError: another kind of URI, too large, too slow, or the server does not give it.
    """
    scheme = urllib.parse.urlsplit(uri).scheme.lower()
    if scheme == "data":
        mime, data = data_of(uri)
        if len(data) > limits.input_bytes:
            raise FileError(f"a file of {len(data)} bytes; at most {limits.input_bytes}")
        path = folder.place("file" + (mimetypes.guess_extension(mime) or ""))
        with open(path, "xb") as f:
            f.write(data)
        return path
    if scheme not in ("http", "https"):
        raise FileError(f"{uri[:100]!r} is no URL of a file: it begins with http:, https: or data:")
    return _downloaded(uri, folder, limits, clock)


def _downloaded(url: str, folder: Folder, limits: Limits, clock: Callable[[], float]) -> str:
    from http.client import HTTPException

    until = clock() + limits.fetch_seconds
    shown = without_secrets(url)
    try:
        with request(url, limits.fetch_seconds) as answer:
            told = answer.headers.get("Content-Length") or ""
            if told.isdecimal() and int(told) > limits.input_bytes:
                raise FileError(f"{shown} has {told} bytes; at most {limits.input_bytes}")
            path = folder.place(name_of(url, answer.headers.get_content_type()))
            size = 0
            with open(path, "xb") as f:
                while data := answer.read1(CHUNK):
                    size += len(data)
                    if size > limits.input_bytes:
                        raise FileError(f"{shown} has more than {limits.input_bytes} bytes")
                    if clock() > until:
                        raise FileError(f"{shown} was not there within {limits.fetch_seconds:g} s; it has sent {size} bytes")
                    if folder.closed:
                        raise FileError(f"{shown} is not wanted any more")
                    f.write(data)
            if told.isdecimal() and size < int(told):
                raise FileError(f"{shown} ended after {size} of {told} bytes")
            return path
    except urllib.error.HTTPError as e:
        e.close()
        raise FileError(f"{shown} cannot be fetched: the server says {e.code} {e.reason}") from None
    except (OSError, HTTPException, ValueError) as e:
        if isinstance(e, FileError):
            raise
        raise FileError(f"{shown} cannot be fetched: {reason(e)}") from None


def reason(e: BaseException) -> str:
    why = e.reason if isinstance(e, urllib.error.URLError) else e
    return str(why) or type(why).__name__


def without_secrets(url: str) -> str:
    """A URL for people: what is signed or a password is left out."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))[:300]


def data_of(uri: str) -> tuple[str, bytes]:
    """MIME type and content of a data URI; FileError if it is broken."""
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise FileError("a data URI without a comma")
    mime, *rest = head.split(";")
    raw = urllib.parse.unquote_to_bytes(body)
    if not rest or rest[-1].strip().lower() != "base64":
        return mime.strip().lower() or "text/plain", raw
    try:
        return mime.strip().lower() or "text/plain", base64.b64decode(raw, validate=True)
    except binascii.Error as e:
        raise FileError(f"a data URI that is not base64: {e}") from None


def name_of(url: str, mime: str = "") -> str:
    """A file's name from a URL: no directories, no control characters, not hidden, not too long."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    name = "".join("_" if c in "/\\" or not c.isprintable() else c for c in name).lstrip(".").strip()
    if not name:
        name = "file" + (mimetypes.guess_extension(mime) or "")
    stem, extension = os.path.splitext(name)
    room = LONGEST - len(extension.encode("utf-8", "replace"))
    if room < 1:
        stem, extension, room = name, "", LONGEST
    return stem.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + extension
