"""Lines about requests and predictions, for machines (JSON) or for people, on stderr.

What a client chose is escaped, so that it cannot begin a line of its own.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from typing import Any, TextIO

LONG = 300
"""Characters of a path that are told."""


class Lines:
    """See the module.

    Args:
        form: "json", "console" or "none".
        stream: None for stderr.
    """

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        self.form, self._stream = form, stream

    def say(self, level: str, message: str, **fields: Any) -> None:
        """One line. Fields with None are left out."""
        if self.form == "none":
            return
        stream = self._stream or sys.stderr
        fields = {k: v for k, v in fields.items() if v is not None}
        if self.form == "json":
            at = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(timespec="milliseconds")
            line = json.dumps({"time": at, "level": level, "message": message, **fields}, default=str)
        else:
            told = " ".join(f"{k}={v if isinstance(v, int | float) else json.dumps(v, default=str)}" for k, v in fields.items())
            line = f"{time.strftime('%H:%M:%S')} {level:7} {message.encode('unicode_escape').decode()} {told}".rstrip()
        stream.write(line + "\n")
        stream.flush()

    def request(self, method: str, path: bytes, status: int, seconds: float, id: str | None) -> None:
        if self.form != "none":
            shown = path[:LONG].decode("ascii", "backslashreplace")
            self.say("info" if status < 500 else "error", f"{method} {shown} {status}", status=status,
                     ms=round(seconds * 1000, 2), prediction_id=id)
