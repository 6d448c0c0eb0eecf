"""What each hyper-parameter of a population may be, and how it is drawn and moved. Pure: the random numbers are an argument.

A value never leaves its bounds, a whole number stays Python's `int`, a choice stays one of those that were given. What is *fixed* belongs
to the weights (a width, say): drawn once, taken over with them, never moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soma.filters.searching import Search, belonging, end, nearest_step, on_step, position, search_of, shown, steps

if TYPE_CHECKING:
    import numpy as np

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Space:
    """`dimensions` by name; `fixed` are the names of those that never move."""

    dimensions: Mapping[str, Search]
    fixed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, declared: Mapping[str, Any], fixed: Iterable[str] = ()) -> Space:
        """Name → `soma.search(…)`, a range `(low, high)`, or a list of choices.

        Raises:
            ValueError, TypeError: nothing to search, or something that is no range; names the dimension.
        """
        if not isinstance(declared, Mapping):
            raise TypeError(f"space={declared!r:.80}: a dict of name → soma.search(…), (low, high) or a list of choices")
        if not declared:
            raise ValueError("space={}: a population needs something to vary")
        dimensions = {name: _dimension(name, d) for name, d in declared.items()}
        names = frozenset([fixed] if isinstance(fixed, str) else fixed)
        if unknown := sorted(map(repr, names - set(dimensions))):
            raise ValueError(f"fixed: {', '.join(unknown)} is not in the space; there are {', '.join(map(repr, dimensions))}")
        return cls(dimensions, names)

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Every dimension at random, evenly over its scale."""
        return {name: _drawn(d, rng) for name, d in self.dimensions.items()}

    def defaults(self) -> dict[str, Any]:
        """Those that were declared."""
        return {name: belonging(d, d.default) for name, d in self.dimensions.items() if d.has_default}

    def perturbed(self, params: Params, rng: np.random.Generator, factors: tuple[float, ...], resample: float) -> dict[str, Any]:
        """Every dimension moved by one of the factors, or, with probability `resample`, drawn anew.

        A number is multiplied; in a range with zero in it, where that could not move it away from zero, it moves by the same share of the
        range. A whole number moves by at least 1, a choice to its neighbour.
        """
        def move(d: Search, value: Any) -> Any:
            anew, factor = rng.random() < resample, factors[rng.integers(len(factors))]
            return _drawn(d, rng) if anew else _moved(d, value, factor)

        return self._changed(params, move)

    def resampled(self, params: Params, rng: np.random.Generator) -> dict[str, Any]:
        """Every dimension drawn anew."""
        return self._changed(params, lambda d, _: _drawn(d, rng))

    def _changed(self, params: Params, change: Callable[[Search, Any], Any]) -> dict[str, Any]:
        return {name: params[name] if name in self.fixed else change(d, params[name]) for name, d in self.dimensions.items()}

    def checked(self, params: Any, before: Params) -> dict[str, Any]:
        """What a user's `explore` made of `before`.

        Raises:
            ValueError: another dimension, a value outside, a fixed one that changed; names it.
        """
        if not isinstance(params, Mapping) or set(params) != set(self.dimensions):
            raise ValueError(f"explore gave {params!r:.200}: a dict with {', '.join(map(repr, self.dimensions))}")
        for name in self.fixed:
            if params[name] != before[name]:
                raise ValueError(f"explore changed {name!r} from {before[name]!r} to {params[name]!r}, but it is fixed")
        return {name: self._inside(name, params[name]) for name in self.dimensions}

    def _inside(self, name: str, value: Any) -> Any:
        try:
            return belonging(self.dimensions[name], value)
        except ValueError as e:
            raise ValueError(f"explore gave {name}={value!r}; {e}") from None

    # -- as plain data ---------------------------------------------------------------------------------------------------------

    def packed(self, params: Params) -> dict[str, Any]:
        """Numbers only: choices, which may be anything, by position."""
        return {name: _place(d, params[name]) if d.type == "categorical" else params[name] for name, d in self.dimensions.items()}

    def unpacked(self, plain: Params) -> dict[str, Any]:
        return {name: d.choices[plain[name]] if d.type == "categorical" else plain[name] for name, d in self.dimensions.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name}: {shown(d)}" + (", fixed" if name in self.fixed else "") for name, d in self.dimensions.items())


def _dimension(name: Any, declared: Any) -> Search:
    if not isinstance(name, str):
        raise TypeError(f"space: {name!r} is no name of a parameter")
    try:
        return search_of(declared)
    except (ValueError, TypeError) as e:
        raise type(e)(f"space[{name!r}]={declared!r:.80}: {e}") from None


def _place(d: Search, value: Any) -> int:
    at = position(d.choices, value)
    assert at is not None  # of a choice that this space drew or checked
    return at


def _drawn(d: Search, rng: np.random.Generator) -> Any:
    if d.type == "categorical":
        return d.choices[rng.integers(len(d.choices))]
    low, high, share = end(d.low), end(d.high), rng.random()
    if d.step is not None:
        return on_step(d, int(share * (steps(d) + 1)))
    if d.type == "int":
        if d.scale == "linear":
            return min(high, low + int(share * (high - low + 1)))
        low, high = low - 0.5, high + 0.5  # so that both ends are as likely as what lies between
    if d.scale == "log":
        value = math.exp(math.log(low) * (1 - share) + math.log(high) * share)
    else:
        value = low * (1 - share) + high * share
    return _within(d, value)


def _moved(d: Search, value: Any, factor: float) -> Any:
    if factor == 1:
        return value
    if d.type == "categorical":
        at = _place(d, value) + (1 if factor > 1 else -1)
        return d.choices[min(max(at, 0), len(d.choices) - 1)]
    low, high = end(d.low), end(d.high)
    target = value + (factor - 1) * (high - low) if low <= 0 <= high else value * factor
    moved = _within(d, target)
    if (d.type == "int" or d.step is not None) and moved == value:
        moved = _within(d, value + (d.step or 1) * (1 if target > value else -1))
    return moved


def _within(d: Search, value: float) -> Any:
    """The nearest value that the dimension has."""
    low, high = end(d.low), end(d.high)
    inside = nearest_step(d, min(max(value, low), high))
    return round(inside) if d.type == "int" else float(inside)
