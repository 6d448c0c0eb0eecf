"""`soma.search`: a parameter whose value is to be found, declared where the value would stand.

    Ridge(alpha=soma.search(1e-3, 10, scale="log", default=1.0))

A graph runs with the defaults; a study tries others. Pure values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Search:
    """A range, or a choice. `soma.search` makes one, checked.

    Attributes:
        type: "float", "int" or "categorical".
        low, high: both belong to the range; None for a choice.
        scale: "linear", or "log" (even steps of the logarithm).
        choices: of a categorical one.
        default: what a graph uses when nobody searches; `has_default` says whether there is one.
    """

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    choices: tuple[Any, ...] = ()
    default: Any = None
    has_default: bool = False


def search(low: float | None = None, high: float | None = None, *, scale: Literal["linear", "log"] = "linear",
           choices: Sequence[Any] | None = None, default: Any = _NOTHING) -> Search:
    """Declare what a parameter may be.

    Args:
        low, high: the range, both ends included; a range of whole numbers if both are `int`.
        scale: "linear", or "log" for parameters that span orders of magnitude.
        choices: instead of a range, the values to choose from.
        default: the value for `graph.fit` without a study; without one, such a graph cannot be run.

    Raises:
        ValueError: a range that is none, a logarithm of what is not positive, a default outside; TypeError: both or neither.
    """
    given = {} if default is _NOTHING else {"default": default, "has_default": True}
    if choices is not None:
        if low is not None or high is not None:
            raise TypeError("soma.search: either low and high, or choices=")
        if not choices:
            raise ValueError("soma.search(choices=[]): nothing to choose from")
        if given and default not in choices:
            raise ValueError(f"soma.search: default={default!r} is none of the choices")
        return Search("categorical", choices=tuple(choices), **given)
    if low is None or high is None:
        raise TypeError("soma.search: low and high, or choices=")
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise ValueError(f"soma.search: {name}={end!r}: a finite number")
    if scale not in ("linear", "log"):
        raise ValueError(f"soma.search: scale={scale!r}: 'linear' or 'log'")
    if low >= high:
        raise ValueError(f"soma.search: low={low!r} is not below high={high!r}")
    if scale == "log" and low <= 0:
        raise ValueError(f"soma.search: low={low!r} has no logarithm; scale='log' needs low > 0")
    if given and not low <= default <= high:
        raise ValueError(f"soma.search: default={default!r} is not between {low!r} and {high!r}")
    return Search("int" if isinstance(low, int) and isinstance(high, int) else "float", low, high, scale, **given)
