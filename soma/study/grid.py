"""The cells of a grid over a space, counted and found without making them. Pure.

Per dimension: evenly spaced values, both ends included (even in the logarithm for a logarithmic one), whole numbers and steps without
repeats, all choices; the last dimension moves fastest. What a dimension would be where it does not exist makes no cell of its own.
The empty space has one cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

from soma.errors import SpaceError
from soma.filters.searching import Search, end, exact, on_step, shown, steps
from soma.study.space import Space, holds

POINTS = 5
"""Values of a range, if nobody says how many."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The values of one dimension: `value(0)` to `value(count - 1)`, ascending."""

    count: int
    value: Callable[[int], Any]


def axis(search: Search, points: int = POINTS) -> Axis:
    """`points` values of a range, or as many as it has; all choices."""
    if search.type == "categorical":
        return Axis(len(search.choices), search.choices.__getitem__)
    if search.step is not None:
        last = steps(search)
        count = min(points, last + 1)
        return Axis(count, lambda k: on_step(search, _even(0, last, k, count)))
    low, high = end(search.low), end(search.high)
    if search.type == "float":
        return Axis(points, lambda k: _float(low, high, search.scale, k, points))
    count = min(points, high - low + 1)
    if search.scale == "linear":
        return Axis(count, lambda k: _even(low, high, k, count))
    return Axis(count, lambda k: _even_in_log(low, high, k, count))


def _even(low: int, high: int, k: int, count: int) -> int:
    """The k-th of `count` whole numbers, exactly rounded (halves up); no two are the same while there are enough of them."""
    return low if count == 1 else low + (2 * k * (high - low) + count - 1) // (2 * (count - 1))


def _even_in_log(low: int, high: int, k: int, count: int) -> int:
    """Like `_even`, for even steps of the logarithm. Near `low` these are narrower than 1: there the next whole number is taken."""
    return low + max(k, math.floor(_power(low, high, k, count) - low + Fraction(1, 2)))


def _float(low: float, high: float, scale: str, k: int, count: int) -> float:
    """Rounded once, from the ends as they are written: from 0.1 to 0.5 in five, the third is 0.3."""
    if k in (0, count - 1):
        return float(high if k else low)
    if scale == "log":
        return min(max(float(_power(low, high, k, count)), low), high)
    return float(exact(low) + (exact(high) - exact(low)) * Fraction(k, count - 1))


def _power(low: float, high: float, k: int, count: int) -> Fraction:
    """low · (high / low)^(k / (count - 1)), to 40 digits: a whole number is right to the last one, and nothing overflows."""
    if k == 0:
        return exact(low)
    with localcontext(Context(prec=40)):
        return Fraction(_decimal(low) * ((_decimal(high) / _decimal(low)).ln() * k / (count - 1)).exp())


def _decimal(value: float) -> Decimal:
    return Decimal(str(value if isinstance(value, int) else float(value)))


class Cells(Sequence[dict[str, Any]]):
    """All cells, found when asked for. `total` is their number also where `len` cannot say it (more than sys.maxsize)."""

    def __init__(self, space: Space, axes: Mapping[str, Axis]) -> None:
        self._space, self._axes, self._names = space, axes, tuple(axes)
        self._watched = {name: tuple(n for n in axes if name in space.dimensions[n].when) for name in axes}
        self._counts: dict[tuple[int, frozenset[str]], int] = {}
        self.total = self._count(0, frozenset())

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        """The parameters of one cell; of a slice, a list of them."""
        if isinstance(index, slice):
            return [self._cell(i) for i in range(self.total)[index]]
        if not -self.total <= index < self.total:
            raise IndexError(f"cell {index} of {self.total}")
        return self._cell(index % self.total)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._cell(i) for i in range(self.total))

    def _cell(self, index: int) -> dict[str, Any]:
        params: dict[str, Any] = {}
        absent: frozenset[str] = frozenset()
        for at, name in enumerate(self._names):
            if name in absent:
                absent |= {*self._watched[name]}
                continue
            for values, gone in self._branches(name, absent):
                below = self._count(at + 1, absent | gone)
                if index < below * len(values):
                    here, index = divmod(index, below)
                    params[name], absent = self._axes[name].value(values[here]), absent | gone
                    break
                index -= below * len(values)
        return params

    def _count(self, at: int, absent: frozenset[str]) -> int:
        """Cells of the dimensions from `at` on, when `absent` (of these) do not exist."""
        if at == len(self._names):
            return 1
        name = self._names[at]
        absent = absent.intersection(self._names[at:])
        key = at, absent
        if key not in self._counts:
            if name in absent:
                self._counts[key] = self._count(at + 1, absent | {*self._watched[name]})
            else:
                self._counts[key] = sum(len(values) * self._count(at + 1, absent | gone) for values, gone in self._branches(name, absent))
        return self._counts[key]

    def _branches(self, name: str, absent: frozenset[str]) -> Iterator[tuple[range, frozenset[str]]]:
        """Runs of values with which the same later dimensions cease to exist."""
        watched, own = [n for n in self._watched[name] if n not in absent], self._axes[name]
        if not watched:
            yield range(own.count), frozenset()
            return
        search, dimensions = self._space.dimensions[name].search, self._space.dimensions
        start, before = 0, None
        for k in range(own.count):
            value = own.value(k)
            gone = frozenset(n for n in watched if not holds(search, dimensions[n].when[name], value))
            if before is not None and gone != before:
                yield range(start, k), before
                start = k
            before = gone
        assert before is not None  # an axis has a value
        yield range(start, own.count), before


def cells(space: Space, points: int | Mapping[str, int] = POINTS) -> Cells:
    """The cells of a grid: a sequence of parameters, made when asked for.

    Args:
        points: how many values a range has; one number, or name → number (5 for those that are not named).

    Raises:
        SpaceError: a number of points that is none; a name that is no dimension, or that of a choice, of which all are tried.
    """
    by_name = points if isinstance(points, Mapping) else {}
    for name in by_name:
        if name not in space.dimensions:
            there = f"there are {', '.join(map(repr, space.dimensions))}" if space.dimensions else "the space is empty"
            raise SpaceError(f"points: {name!r} is no dimension; {there}")
        if (search := space.dimensions[name].search).type == "categorical":
            raise SpaceError(f"points: {name!r} is {shown(search)}, and all are tried")
    of = {name: by_name.get(name, POINTS) if isinstance(points, Mapping) else points for name in space.dimensions}
    for name, n in of.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise SpaceError(f"dimension {name!r}: points={n!r}: a whole number from 1")
    return Cells(space, {name: _frozen(space.frozen[name]) if name in space.frozen else axis(d.search, of[name])
                         for name, d in space.dimensions.items()})


def _frozen(value: Any) -> Axis:
    return Axis(1, lambda _: value)
