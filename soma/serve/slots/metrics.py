"""`Metrics`: what a prediction records about itself, by dotted names. Pure.

One type for each name, until it is deleted (by None). Refused: names that are no names, those reserved, and a name below a number.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MODES = {"replace": "replace", "increment": "increment", "incr": "increment", "append": "append"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
LONGEST, DEEPEST = 128, 4
_TYPES: dict[type, str] = {bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "dict"}


class Metrics:
    """See the module."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def record(self, name: str, value: Any, mode: str = "replace") -> str:
        """Take it in; returns the mode by its full name.

        Raises:
            ValueError: name or mode is none, or the name is reserved or lies below or above another metric; NaN or infinity, also a sum.
            TypeError: a value of another type than before, or of a type that is none of bool, int, float, str, list, dict, also inside.
        """
        check_name(name)
        if mode not in MODES:
            raise ValueError(f"metric {name!r}: mode={mode!r}; it is one of 'replace', 'increment', 'append'")
        mode = MODES[mode]
        if value is None:
            self._values.pop(name, None)
            return "replace"
        self._check_place(name)
        kind = _kind(name, value)
        if kind in ("list", "dict"):
            _check_json(name, value)
        old = self._values.get(name)
        if mode == "append":
            if old is not None and not isinstance(old, list):
                raise TypeError(f"metric {name!r} is a {_kind(name, old)}: nothing can be appended to it")
            self._values[name] = [*(old or []), value]
            return mode
        if mode == "increment" and kind != "number":
            raise TypeError(f"metric {name!r}: only a number can be added, not a {kind}")
        if old is not None and _kind(name, old) != kind:
            raise TypeError(f"metric {name!r} is a {_kind(name, old)}, and {value!r:.60} is a {kind}; record None to delete it first")
        made = value if mode == "replace" or old is None else old + value
        _kind(name, made)  # a sum may be no number any more
        self._values[name] = made
        return mode

    def get(self, name: str) -> Any:
        """KeyError if there is none."""
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def nested(self) -> dict[str, Any]:
        """With dots as levels."""
        found: dict[str, Any] = {}
        for name, value in self._values.items():
            at = found
            *path, last = name.split(".")
            for part in path:
                at = at.setdefault(part, {})
            at[last] = value
        return found

    def _check_place(self, name: str) -> None:
        if name in self._values:
            return
        parts = name.split(".")
        for n in range(1, len(parts)):
            if (above := ".".join(parts[:n])) in self._values:
                raise ValueError(f"metric {name!r}: {above!r} is a metric itself, and has none below it")
        if any(other.startswith(name + ".") for other in self._values):
            raise ValueError(f"metric {name!r}: there are metrics below it")


def check_name(name: str) -> None:
    """ValueError for what is no name."""
    if not isinstance(name, str):
        raise ValueError(f"a metric's name is a text, not {name!r:.60}")
    parts = name.split(".")
    if len(name) > LONGEST or len(parts) > DEEPEST or not all(NAME.fullmatch(p) for p in parts):
        raise ValueError(f"metric {name!r:.160}: a name has at most {LONGEST} characters and {DEEPEST} parts with dots between them; a "
                         "part begins with a letter and has letters, digits, and single underscores between them")
    if name == "predict_time" or parts[0] == "cog":
        raise ValueError(f"metric {name!r}: that name is reserved")


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise type(e)(f"metric {name!r}: what is in it cannot be JSON: {e}") from None


def _kind(name: str, value: Any) -> str:
    kind = _TYPES.get(type(value)) or next((said for cls, said in _TYPES.items() if isinstance(value, cls)), None)
    if kind is None:
        raise TypeError(f"metric {name!r}: a value is a bool, int, float, str, list or dict, not a {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metric {name!r}: {value} is no number that JSON knows")
    return kind
