"""Where an evolving filter stands in a stream: its state, how many chunks made it, and a hash over what they were.

The driver reckons count and hash from the answers that it took, the filter from the chunks that it saw. Where both agree at the end, no
chunk was lost, taken twice, or taken out of turn, however often processes died on the way.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple


class Position(NamedTuple):
    """In one stream. Plain: it travels, and can be kept."""

    state: Any
    chunks: int = 0
    trail: bytes = b""


def trail_after(trail: bytes, chunk: int, summary: str) -> bytes:
    """The hash after one more chunk, of which `summary` says what came out."""
    return hashlib.blake2b(b"%b|%d|%b" % (trail, chunk, summary.encode()), digest_size=16).digest()
