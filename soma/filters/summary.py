"""What a value is, in a few characters, for plans, events and `explain`: "float64[1797, 64]", "list of 3", "{a, b}"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.filters.schema import described

WIDTH = 60


def summary_of(value: Any) -> str:
    """Never looks at more than the outside, never raises."""
    if value is None or isinstance(value, (bool, int, float)):
        text = repr(value)
    elif isinstance(value, (str, bytes)):
        text = f"{type(value).__name__} of {len(value)}"
    elif isinstance(value, Mapping):
        names = [str(k) for _, k in zip(range(8), value, strict=False)]
        text = "{" + ", ".join(names) + (", …" if len(value) > len(names) else "") + "}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        text = f"{type(value).__name__} of {len(value)}"
    else:
        try:
            text = described(value)
        except Exception:  # a shape or dtype that cannot be read is the value's own business
            text = type(value).__name__
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"
