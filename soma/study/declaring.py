"""What a user writes for one dimension of a study, turned into a `Search` and its conditions. Pure.

Every refusal is a `SpaceError` that names the dimension.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soma.errors import SpaceError
from soma.filters.searching import Search, belonging, position, search, search_of, shown

KEYS = ("type", "low", "high", "scale", "choices", "step", "default", "when")
TYPES = ("float", "int", "categorical")

_LARGEST = 2**53
"""optuna keeps whole numbers as floats; beyond this they would come back as others."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension: what it may be, and when it exists.

    Attributes:
        when: name of an earlier dimension → the values with which this one exists. All must hold; empty: it always exists.
    """

    search: Search
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def dimension(name: str, declared: Any, earlier: Mapping[str, Dimension]) -> Dimension:
    """What was declared for `name`: a dict with `KEYS`, or what `soma.filters.searching.search_of` knows.

    Raises:
        SpaceError: names the dimension and what is wrong with it.
    """
    try:
        when: Any = None
        if isinstance(declared, Dimension):
            made, when = declared.search, declared.when
        elif isinstance(declared, Mapping):
            made, when = _from_keys(declared), declared.get("when")
        else:
            made = search_of(declared)
        _check_storable(made)
        return Dimension(made, _conditions(when, earlier))
    except (ValueError, TypeError) as e:
        given = "" if isinstance(declared, (Mapping, Dimension)) else f"={declared!r:.80}"
        raise SpaceError(f"dimension {name!r}{given}: {str(e).removeprefix('soma.search: ')}") from None


def _from_keys(declared: Mapping[str, Any]) -> Search:
    if unknown := [key for key in declared if key not in KEYS]:
        raise ValueError(f"unknown key {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, KEYS))}")
    type_ = declared.get("type", "categorical" if "choices" in declared else None)
    if type_ is not None and type_ not in TYPES:
        raise ValueError(f"unknown type {type_!r}; there are {', '.join(map(repr, TYPES))}")
    if type_ == "categorical":
        return search(**_arguments(declared, "type 'categorical'", ("choices",), ("default",)))
    arguments = _arguments(declared, f"type {type_!r}" if type_ else "a range", ("low", "high"), ("scale", "step", "default"))
    convert = _CONVERT.get(type_)
    return search(**{key: convert(key, value) if convert and key in ("low", "high", "step") else value for key, value in arguments.items()})


def _arguments(declared: Mapping[str, Any], kind: str, needed: tuple[str, ...], possible: tuple[str, ...]) -> dict[str, Any]:
    given = {key: value for key, value in declared.items() if key not in ("type", "when")}
    if missing := [key for key in needed if given.get(key) is None]:
        raise ValueError(f"{kind} needs {' and '.join(map(repr, missing))}")
    if strange := [key for key in given if key not in needed + possible and given[key] is not None]:
        raise ValueError(f"{kind} has no {', '.join(map(repr, strange))}; it has {', '.join(map(repr, needed + possible))}")
    choices = given.get("choices")
    if choices is not None and (isinstance(choices, (str, bytes)) or not isinstance(choices, Sequence)):
        raise ValueError(f"choices={choices!r:.80}: a list")
    # `None` stands for "not given" everywhere but in a default, where it is a value.
    return {key: value for key, value in given.items() if value is not None or key == "default"}


def _to_float(key: str, value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _to_int(key: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{key}={value!r} is not a whole number")
    return operator.index(value)


_CONVERT: Mapping[str | None, Callable[[str, Any], Any]] = {"float": _to_float, "int": _to_int}


def _check_storable(made: Search) -> None:
    if made.type == "int" and any(abs(end) > _LARGEST for end in (made.low, made.high) if end is not None):
        raise ValueError(f"it is {shown(made)}; a study keeps whole numbers up to 2**53")
    for i, choice in enumerate(made.choices):
        before = position(made.choices[:i], choice)
        if before is not None and type(made.choices[before]) is type(choice):
            raise ValueError(f"the choice {choice!r} is given twice")


def _conditions(when: Any, earlier: Mapping[str, Dimension]) -> dict[str, tuple[Any, ...]]:
    if when is None:
        return {}
    if not isinstance(when, Mapping):
        raise ValueError(f"when={when!r:.80}: a dict of the name of an earlier dimension → its value or values")
    for other in when:
        if other not in earlier:
            there = f"there are {', '.join(map(repr, earlier))}" if earlier else "there is none"
            raise ValueError(f"when: {other!r} is no earlier dimension; {there}")
    return {other: _allowed(other, value, earlier[other].search) for other, value in when.items()}


def _allowed(other: str, value: Any, of: Search) -> tuple[Any, ...]:
    if of.type == "float":
        raise ValueError(f"when: {other!r} is {shown(of)}; a condition needs choices or whole numbers")
    several = isinstance(value, (list, tuple, set, frozenset)) and position(of.choices, value) is None
    values = tuple(value) if several else (value,)
    if not values:
        raise ValueError(f"when: {other!r} has no value here, so this dimension would never exist")
    try:
        return tuple(belonging(of, v) for v in values)
    except ValueError as e:
        raise ValueError(f"when: {other}={value!r}; {e}") from None
