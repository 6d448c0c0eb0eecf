"""What all events have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all have in common.

    Attributes:
        run_id: which run (or which cluster) it belongs to.
        seq: its number there: 0, 1, 2, … without gaps.
        time: seconds since 1970, for people; durations are measured by another clock.
    """

    run_id: str = ""
    seq: int = -1
    time: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the name of the class is under "kind"."""
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
