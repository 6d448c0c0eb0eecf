"""Files that go out: a data URI, or a PUT to where the front end was told to. One after the other, in the order given."""

from __future__ import annotations

import base64
import contextlib
import mimetypes
import os
import tempfile
import time
import urllib.error
import urllib.parse
from collections.abc import Callable
from typing import Any

from soma.serve.slots.fetching import FileError, name_of, reason, request, without_secrets
from soma.serve.slots.terms import Limits

TRIES = 3
FIRST_PAUSE = 0.2
"""Seconds before the second try; it doubles."""


class Sender:
    """What becomes of one prediction's output files.

    Args:
        target: a URL to PUT to, with the file's name appended; empty: data URIs.
        id: of the prediction, told to the server.
        pause: waits so many seconds between two tries.
    """

    def __init__(self, target: str, id: str, limits: Limits, pause: Callable[[float], None] = time.sleep) -> None:
        self._target, self._id, self._limits, self._pause = target, id, limits, pause
        self._given: set[str] = set()

    def close(self) -> None:
        """Files that were given and lie among those for temporary files are removed: they were made for this."""
        for path in self._given:
            forget_temporary(path)
        self._given.clear()

    def sent(self, path: str, mime: str = "") -> str:
        """The data URI of a file, or where it is now.

        Raises:
            FileError: it is not there, it is no file, or the server does not take it.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as f:
                data = f.read()
        except OSError as e:
            raise FileError(f"the output file {path!r} cannot be read: {e.strerror}") from None
        self._given.add(path)
        return self.sent_bytes(data, os.path.basename(path), mime)

    def sent_bytes(self, data: bytes, name: str, mime: str = "") -> str:
        mime = mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
        if not self._target:
            return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
        return self._put(data, name, mime)

    def _put(self, data: bytes, name: str, mime: str) -> str:
        from http.client import HTTPException

        url = self._target if self._target.endswith("/") else self._target + "/"
        url += urllib.parse.quote(name_of(urllib.parse.quote(name)))
        headers = {"Content-Type": mime, "X-Prediction-ID": urllib.parse.quote(self._id)}
        until = time.monotonic() + self._limits.upload_seconds
        for attempt in range(TRIES):
            try:
                with request(url, max(until - time.monotonic(), 0.1), data=data, method="PUT", headers=headers) as answer:
                    return _final(answer.headers.get("Location") or answer.url)
            except urllib.error.HTTPError as e:
                e.close()
                why, final = f"the server says {e.code} {e.reason}", e.code < 500 and e.code != 429
            except (OSError, HTTPException, ValueError) as e:
                why, final = reason(e), isinstance(e, ValueError)
            if final or attempt == TRIES - 1 or time.monotonic() > until:
                break
            self._pause(FIRST_PAUSE * 2 ** attempt)
        raise FileError(f"the output file {name!r} cannot be uploaded to {without_secrets(url)}: {why}")


def _final(url: str) -> str:
    """Without the query, which may hold a signature."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def forget_temporary(path: str) -> None:
    """Remove a file that lies among those for temporary files, and the directory made for it alone."""
    root = os.path.realpath(tempfile.gettempdir())
    real = os.path.realpath(path)
    if not real.startswith(root + os.sep):
        return
    with contextlib.suppress(OSError):  # somebody else's, or removed already
        os.unlink(path)
        parent = os.path.dirname(real)
        if os.path.dirname(parent) == root:
            os.rmdir(parent)  # only if it is empty


def read_of(value: Any) -> bytes:
    """The content of an open file, from its beginning where it has one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a pipe, or one that is read forwards only
        value.seek(0)
    data = value.read()
    return data.encode() if isinstance(data, str) else bytes(data)
