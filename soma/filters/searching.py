"""`soma.search`: a parameter whose value is to be found, declared where the value would stand.

    Ridge(alpha=soma.search(1e-3, 10, scale="log", default=1.0))

A graph runs with the defaults; a study or a population tries others. Pure values. What both need to know of a range or a choice is here:
what a user may write instead of `soma.search` (`search_of`), whether a value belongs (`belonging`, `position`), and words (`shown`).

A value that belongs has the type of its range: a whole number is Python's `int`, a choice is the very object that was given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
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
        step: only low, low + step, low + 2 · step, … up to high; None for every value between.
    """

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    choices: tuple[Any, ...] = ()
    default: Any = None
    has_default: bool = False
    step: float | None = None


def search(low: float | None = None, high: float | None = None, *, scale: Literal["linear", "log"] = "linear",
           choices: Sequence[Any] | None = None, default: Any = _NOTHING, step: float | None = None) -> Search:
    """Declare what a parameter may be.

    Args:
        low, high: the range, both ends included; a range of whole numbers if both are `int`.
        scale: "linear", or "log" for parameters that span orders of magnitude.
        choices: instead of a range, the values to choose from.
        default: the value for `graph.fit` without a study; without one, such a graph cannot be run.
        step: only low, low + step, low + 2 · step, … up to high. Not on a logarithmic scale.

    Raises:
        ValueError: a range that is none, a logarithm of what is not positive, a step that leads nowhere, a default outside;
        TypeError: both a range and choices, or neither.
    """
    if choices is not None:
        if low is not None or high is not None or step is not None:
            raise TypeError("soma.search: either low and high, or choices=")
        if len(choices) == 0:
            raise ValueError("soma.search(choices=[]): nothing to choose from")
        made = Search("categorical", choices=tuple(choices))
    else:
        _check_range(low, high, scale, step)
        whole = all(isinstance(n, int) for n in (low, high, 1 if step is None else step))
        made = Search("int" if whole else "float", low, high, scale, step=step)
    return made if default is _NOTHING else _with_default(made, default)


def _check_range(low: Any, high: Any, scale: Any, step: Any) -> None:
    if low is None or high is None:
        raise TypeError("soma.search: low and high, or choices=")
    for name, end in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise ValueError(f"soma.search: {name}={end!r}: a finite number")
    if scale not in ("linear", "log"):
        raise ValueError(f"soma.search: scale={scale!r}: 'linear' or 'log'")
    if low >= high:
        raise ValueError(f"soma.search: low={low!r} is not below high={high!r}")
    if scale == "log" and low <= 0:
        raise ValueError(f"soma.search: low={low!r} has no logarithm; scale='log' needs low > 0")
    if step is not None and scale == "log":
        raise ValueError(f"soma.search: step={step!r}: a logarithmic scale has no steps")
    if step is not None and not 0 < exact(step) <= exact(high) - exact(low):
        raise ValueError(f"soma.search: step={step!r} does not lead from {low!r} to at most {high!r}")


def _with_default(made: Search, default: Any) -> Search:
    try:
        belonging(made, default)
    except ValueError as e:
        if made.type == "categorical":
            raise ValueError(f"soma.search: default={default!r} is none of the choices") from None
        between = f"is not between {made.low!r} and {made.high!r}"
        raise ValueError(f"soma.search: default={default!r} {between}; {e}") from None
    return replace(made, default=default, has_default=True)


def search_of(declared: Any) -> Search:
    """What stands for a dimension: `soma.search(…)`, a range `(low, high)`, or a list of choices.

    Raises:
        ValueError: a range or a choice that is none; TypeError: something else.
    """
    if isinstance(declared, Search):
        return declared
    if isinstance(declared, tuple) and len(declared) == 2:
        return search(*declared)
    if isinstance(declared, list):
        return search(choices=declared)
    raise TypeError("soma.search(…), a range (low, high), or a list of choices")


def belonging(search: Search, value: Any) -> Any:
    """The value in the type of its dimension.

    Raises:
        ValueError: it is outside or of another type; the message is what it would have to be, "it is a number from 0.1 to 1.0".
    """
    if search.type == "categorical":
        at = position(search.choices, value)
        if at is not None:
            return search.choices[at]
    else:
        number = _number(search, value)
        if number is not None and end(search.low) <= number <= end(search.high) and _on_a_step(search, number):
            return number
    raise ValueError(f"it is {shown(search)}")


def position(choices: Sequence[Any], value: Any) -> int | None:
    """Where among the choices. True, 1 and 1.0 are three different ones; where only one of them was given, a 1.0 finds a 1."""
    for i, choice in enumerate(choices):
        if choice is value or (type(choice) is type(value) and _equal(choice, value)):
            return i
    alike = [i for i, choice in enumerate(choices) if isinstance(choice, bool) is isinstance(value, bool) and _equal(choice, value)]
    return alike[0] if len(alike) == 1 else None


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, TypeError, RuntimeError):  # arrays, frames and tensors, which compare element by element
        return False


def _number(search: Search, value: Any) -> Any:
    if isinstance(value, (bool, str, bytes, bytearray)):
        return None
    try:
        return operator.index(value) if search.type == "int" else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def shown(search: Search) -> str:
    """A dimension in words."""
    if search.type == "categorical":
        return f"one of {', '.join(map(repr, search.choices))}"
    kind = "a whole number" if search.type == "int" else "a number"
    steps = f" in steps of {search.step!r}" if search.step is not None else ""
    return f"{kind} from {search.low!r} to {search.high!r}{steps}" + (" (log)" if search.scale == "log" else "")


# -- ranges with steps -------------------------------------------------------------------------------------------------------------


def steps(search: Search) -> int:
    """How many steps lead from low to the last value: ten of 0.1 from 0 to 1."""
    return (exact(search.high) - exact(search.low)) // exact(search.step)


def on_step(search: Search, k: int) -> Any:
    """The value after k steps: 0.3, not 0.30000000000000004."""
    if search.type == "int":
        return int(end(search.low)) + k * int(end(search.step))
    return float(exact(search.low) + k * exact(search.step))


def nearest_step(search: Search, value: float) -> Any:
    """The nearest value that the dimension has; what has no steps stays as it is."""
    if search.step is None:
        return value
    k = round((value - end(search.low)) / search.step)
    return on_step(search, min(max(k, 0), steps(search)))


def _on_a_step(search: Search, value: Any) -> bool:
    return search.step is None or abs(nearest_step(search, value) - value) <= 1e-8 * search.step


def exact(value: float | None) -> Fraction:
    """The number as it is written: 1/10 for 0.1."""
    return Fraction(value) if isinstance(value, int) else Fraction(str(float(end(value))))


def end(value: float | None) -> Any:
    """One end of a range, which has both."""
    assert value is not None
    return value
