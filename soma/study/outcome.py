"""What a trial's function gave, turned into the values of its objectives; and which of two such values is the better. Pure.

Refused, with a reason, is everything that is not plainly a number for each objective: text, complex, NaN, a missing objective. Nothing
is filled in. Infinity is a value: a loss that ran away.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """`values` of the objectives, in their order; `metrics` is what else was returned."""

    values: dict[str, float]
    metrics: dict[str, float]


def outcome(returned: Any, objectives: Sequence[str], reported: Mapping[str, float]) -> Outcome:
    """The values of the objectives.

    Args:
        returned: a number (also numpy's, an array or a tensor with one element), if there is one objective; a dict of name → number, with
            all objectives; a sequence of numbers, one for each of several objectives; None for what was reported last.
        reported: the last reported value of each metric.

    Raises:
        ValueError: anything else; the message is the reason.
    """
    if returned is None:
        if missing := [name for name in objectives if name not in reported]:
            raise ValueError(f"the objective returned None and never reported {', '.join(map(repr, missing))}")
        return Outcome({name: _number(f"objective {name!r}", reported[name]) for name in objectives}, {})
    if isinstance(returned, Mapping):
        return _from_names(returned, objectives)
    if len(objectives) == 1:
        return Outcome({objectives[0]: _number(f"objective {objectives[0]!r}", returned)}, {})
    if isinstance(returned, (str, bytes)) or not hasattr(returned, "__len__") or not hasattr(returned, "__getitem__"):
        raise ValueError(f"returned {_named(returned)}; there are {len(objectives)} objectives: {', '.join(map(repr, objectives))}")
    given = _elements(returned)
    if len(given) != len(objectives):
        raise ValueError(f"returned {len(given)} numbers; there are {len(objectives)} objectives: {', '.join(map(repr, objectives))}")
    return Outcome({name: _number(f"objective {name!r}", value) for name, value in zip(objectives, given, strict=True)}, {})


def _from_names(returned: Mapping[Any, Any], objectives: Sequence[str]) -> Outcome:
    if strange := [name for name in returned if not isinstance(name, str)]:
        raise ValueError(f"returned a dict whose key {strange[0]!r:.80} is no name")
    if missing := [name for name in objectives if name not in returned]:
        there = f"it has {', '.join(map(repr, returned))}" if returned else "it is empty"
        raise ValueError(f"returned a dict without objective {', '.join(map(repr, missing))}; {there}")
    values = {name: _number(f"objective {name!r}", returned[name]) for name in objectives}
    # A metric is no verdict on the trial: one that is NaN is kept.
    return Outcome(values, {name: _number(f"metric {name!r}", v, nan=True) for name, v in returned.items() if name not in objectives})


def _elements(returned: Any) -> list[Any]:
    try:
        return list(returned)
    except TypeError:  # arrays and tensors without dimensions refuse
        raise ValueError(f"returned {_named(returned)}, which is one number") from None


def _number(what: str, given: Any, nan: bool = False) -> float:
    value = _plain(what, given)
    if math.isnan(value) and not nan:
        raise ValueError(f"{what} is NaN")
    return value


def _plain(what: str, given: Any) -> float:
    if not isinstance(given, numbers.Number) and hasattr(given, "item") and hasattr(given, "shape"):  # an array or a tensor
        if math.prod(given.shape) != 1:
            raise ValueError(f"{what} is {_named(given)} of shape {tuple(given.shape)}, not one number")
        given = given.item()
    if not isinstance(given, numbers.Real):
        raise ValueError(f"{what} is {_named(given)}, not a number")
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{what} is a whole number too large for a float") from None


def _named(value: Any) -> str:
    kind = type(value).__qualname__
    text = f" ({value!r:.40})" if isinstance(value, (str, bytes, complex)) else ""
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}{text}"


# -- which is better ---------------------------------------------------------------------------------------------------------------


def sign_of(direction: str) -> int:
    """1 to minimize, -1 to maximize: times this, smaller is better."""
    return {"minimize": 1, "maximize": -1}[direction]


def better(a: float, b: float, direction: str) -> bool:
    """Whether `a` is strictly better; NaN is worse than anything."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(b) and not math.isnan(a)
    return sign_of(direction) * a < sign_of(direction) * b


def dominates(a: Sequence[float], b: Sequence[float], directions: Sequence[str]) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    pairs = list(zip(a, b, directions, strict=True))
    return any(better(x, y, d) for x, y, d in pairs) and not any(better(y, x, d) for x, y, d in pairs)


def pareto(points: Sequence[Sequence[float]], directions: Sequence[str]) -> tuple[int, ...]:
    """Where those are that none other dominates, in order; of equal ones, all."""
    front: list[int] = []
    for i, point in enumerate(points):
        if not any(dominates(points[j], point, directions) for j in front):
            front = [j for j in front if not dominates(point, points[j], directions)] + [i]
    return tuple(front)
