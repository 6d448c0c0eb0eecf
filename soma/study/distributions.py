"""What optuna keeps of a dimension. Pure, but for the one function that imports optuna.

A storage can keep None, bool, int, float and str; a choice may be anything. What a storage cannot keep, or could not tell from another
choice (True from 1, 1 from 1.0), is kept as its place and a text, "2: MyLoss". That text is the same in every process, because a study
that is resumed compares it: it never holds an address.
"""

from __future__ import annotations

import enum
import math
import numbers
import re
from typing import Any

from soma.filters.searching import Search, belonging, end, nearest_step, on_step, position, steps

_TEXT = 200
"""Characters of a choice's text, at most."""


def distribution_of(search: Search) -> Any:
    """The optuna distribution of a dimension. Imports optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if search.type == "categorical":
        return CategoricalDistribution(encoded_choices(search))
    # optuna warns of an end that is no step.
    low, last = end(search.low), end(search.high) if search.step is None else on_step(search, steps(search))
    if search.type == "int":
        return IntDistribution(low, last, log=search.scale == "log", step=int(search.step or 1))
    return FloatDistribution(low, last, log=search.scale == "log", step=search.step)


def encode(search: Search, value: Any) -> Any:
    """The value as optuna keeps it.

    Raises:
        ValueError: it is none of this dimension.
    """
    value = belonging(search, value)
    if search.type != "categorical":
        return value
    at = position(search.choices, value)
    assert at is not None  # it belongs
    return encoded_choices(search)[at]


def decode(search: Search, stored: Any) -> Any:
    """The value that optuna kept: a choice is the very object that was declared, a whole number is an `int`.

    Raises:
        ValueError: no choice is kept like this: the choices have changed since.
    """
    if search.type == "categorical":
        kept = encoded_choices(search)
        at = position(kept, stored)
        if at is None:
            raise ValueError(f"{stored!r} is none of {', '.join(map(repr, kept))}")
        return search.choices[at]
    number = nearest_step(search, stored)
    return int(number) if search.type == "int" else min(max(float(number), float(end(search.low))), float(end(search.high)))


def encoded_choices(search: Search) -> tuple[None | bool | int | float | str, ...]:
    """All choices as optuna keeps them."""
    plain = [choice for choice in search.choices if _plain(choice)]
    return tuple(choice if _plain(choice) and plain.count(choice) == 1 else f"{i}: {_text(choice)}"[:_TEXT]
                 for i, choice in enumerate(search.choices))


def _plain(choice: Any) -> bool:
    """Every storage keeps it, and it looks like no text of ours."""
    if type(choice) is float:
        return math.isfinite(choice)
    if type(choice) is str:
        return re.match(r"\d+: ", choice) is None
    return choice is None or type(choice) in (bool, int)


def _text(choice: Any) -> str:
    match choice:
        case enum.Enum():
            return f"{type(choice).__qualname__}.{choice.name}"
        case None | bool() | str():
            return repr(choice)
        case numbers.Number():  # also numpy's, whose repr has changed with its versions
            return str(choice)
        case tuple() | list():
            inside = ", ".join(map(_text, choice))
            return f"({inside})" if isinstance(choice, tuple) else f"[{inside}]"
        case dict():
            return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in choice.items()) + "}"
        case _:
            name = getattr(choice, "__qualname__", None)  # of a class or a function
            return name if isinstance(name, str) else type(choice).__qualname__
