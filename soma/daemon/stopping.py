"""How a daemon is asked to end: a signal says that, a file beside its sockets how: after how many seconds, and why.

Without the file a node ends as it was started to, which is what a service manager's SIGTERM means. The file is this user's own, in a
directory that nobody else can open.
"""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import dataclass
from pathlib import Path

from soma.transport.keys import read_private, write_private

GRACE = 10.0
"""Seconds that work on a machine may take to end, if nothing else was said."""
FILE = "stop.json"
_MOST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Stopping:
    """What was asked for."""

    grace: float
    """Seconds; 0: end at once."""
    reason: str


def ask(directory: Path, grace: float, reason: str) -> None:
    """Say it to the daemon in `directory`, before the signal. ValueError for a time that is none."""
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace={grace:g}: seconds, at least 0")
    fresh = directory / f".{FILE}.{secrets.token_hex(4)}"
    write_private(fresh, json.dumps({"grace": grace, "reason": reason[:_MOST_TEXT]}).encode())
    fresh.rename(directory / FILE)


def asked(directory: Path, grace: float) -> Stopping:
    """In the daemon: what was said; by default its own grace."""
    path = directory / FILE
    if not path.exists():
        return Stopping(grace, "it was told to end by a signal")
    told = read_private(path, "it is written by `soma stop`")
    return Stopping(float(told["grace"]), str(told["reason"]))
