"""The page at `/docs`: one file with all it needs, which asks nobody but this server.

Its policy allows the one script and the one style that it has, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources


@cache
def page_and_policy() -> tuple[bytes, bytes]:
    """The page, and its Content-Security-Policy."""
    files = resources.files("soma.serve.http.page")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("docs.css", "docs.js"))
    html = (files / "docs.html").read_text(encoding="utf-8")
    html = html.replace("/*style*/", style).replace("/*script*/", script)
    policy = (f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; img-src data: blob:; "
              "media-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return html.encode(), policy.encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
