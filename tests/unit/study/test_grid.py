"""Grids: every cell once, in order, and found without the others."""

from __future__ import annotations

import itertools
import math
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import SpaceError
from soma.study.grid import axis, cells
from soma.study.space import Space


def values(search: soma.filters.Search, points: int) -> list[Any]:
    found = axis(search, points)
    return [found.value(k) for k in range(found.count)]


@st.composite
def spaces(draw: Any) -> dict[str, dict[str, Any]]:
    """Some dimensions with conditions on earlier choices and whole numbers."""
    made: dict[str, dict[str, Any]] = {}
    for name in "abcd"[:draw(st.integers(0, 4))]:
        one = draw(st.sampled_from([{"type": "int", "low": 1, "high": 3}, {"type": "float", "low": 0, "high": 1},
                                    {"choices": ["x", "y"]}, {"choices": [True, 1, None]}]))
        one, possible = dict(one), [n for n, d in made.items() if d.get("type") != "float"]
        for other in draw(st.lists(st.sampled_from(possible), max_size=2, unique=True)) if possible else []:
            whole = made[other].get("choices", [1, 2, 3])
            one.setdefault("when", {})[other] = draw(st.lists(st.sampled_from(whole), min_size=1, max_size=2, unique_by=repr))
        made[name] = one
    return made


@given(spaces(), st.integers(1, 4), st.data())
def test_the_cells_are_the_product_without_what_does_not_exist(declared: dict[str, Any], points: int, data: Any) -> None:
    """Against all combinations, from each of which that is struck which has a condition that fails."""
    frozen = {n: d.get("choices", [1])[0] for n, d in declared.items() if data.draw(st.integers(0, 9)) == 0}
    space = Space.of(declared).freeze(frozen)
    every = [([frozen[n]] if n in frozen else d["choices"] if "choices" in d else list(np.linspace(0, 1, points)) if d["type"] == "float"
              else {1: [1], 2: [1, 3]}.get(points, [1, 2, 3])) for n, d in declared.items()]
    expected: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*every):
        cell: dict[str, Any] = {}
        for (name, d), value in zip(declared.items(), combination, strict=True):
            if all(o in cell and any(cell[o] is v for v in allowed) for o, allowed in d.get("when", {}).items()):
                cell[name] = value
        expected.setdefault(repr({n: float(v) if declared[n].get("type") == "float" else v for n, v in cell.items()}), cell)
    grid = cells(space, points)
    assert [repr(c) for c in grid] == list(expected) and len(grid) == grid.total == len(expected)
    assert all(space.check(c) == c for c in grid)
    if len(grid):
        at = data.draw(st.integers(0, len(grid) - 1))
        assert repr(grid[at]) == repr(grid[at - len(grid)]) == list(expected)[at]
        assert [repr(c) for c in grid[at::-1]] == list(expected)[at::-1]
    for outside in (len(grid), -len(grid) - 1):
        with pytest.raises(IndexError):
            grid[outside]


def test_five_times_two() -> None:
    grid = cells(Space.of({"lr": (0.0, 1.0), "kernel": ["rbf", "linear"]}))
    assert len(grid) == 10 and [tuple(c.values()) for c in grid] == [
        (x, k) for x in (0.0, 0.25, 0.5, 0.75, 1.0) for k in ("rbf", "linear")]
    assert list(cells(Space.of(None))) == [{}]
    log = cells(Space.of({"lr": soma.search(0.001, 0.1, scale="log")}), 3)
    assert [c["lr"] for c in log] == [0.001, pytest.approx(0.01, rel=1e-15), 0.1]


def test_a_huge_grid_costs_nothing() -> None:
    space = Space.of({f"x{i}": (0.0, 1.0) for i in range(30)} | {"k": ["a", "b"]} | {
        f"y{i}": {"low": 1, "high": 7, "when": {"k": "a"}} for i in range(30)})
    grid = cells(space, 5)
    assert grid.total == 5**30 * (5**30 + 1) > sys.maxsize
    assert grid[0] == {**{f"x{i}": 0.0 for i in range(30)}, "k": "a", **{f"y{i}": 1 for i in range(30)}}
    assert grid[5**30] == {**{f"x{i}": 0.0 for i in range(30)}, "k": "b"}
    assert grid[-2] == {**{f"x{i}": 1.0 for i in range(30)}, "k": "a", **{f"y{i}": 7 for i in range(30)}}
    ticks = cells(Space.of({"x": (0.0, 1.0), "n": (0, 10**12)}), 10**6)
    assert len(ticks) == 10**12 and ticks[10**11 + 7] == {"x": pytest.approx(100000 / 999999, rel=1e-15), "n": 7000007}


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=2, max_size=2, unique=True), st.integers(1, 40))
def test_even_numbers(ends: list[float], points: int) -> None:
    low, high = sorted(ends)
    found = values(soma.search(low, high), points)
    assert len(found) == points and found[0] == low and (points == 1 or found[-1] == high) and found == sorted(found)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.linspace(low, high, points) if math.isfinite(high - low) else np.linspace(low / 4, high / 4, points) * 4
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=max(abs(low), abs(high)) * 1e-15 + 1e-321)


@given(st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=2, unique=True), st.integers(1, 12))
def test_even_logarithms(ends: list[float], points: int) -> None:
    low, high = sorted(ends)
    found = values(soma.search(low, high, scale="log"), points)
    assert len(found) == points and found[0] == low and (points == 1 or found[-1] == high)
    assert all(low <= v <= high for v in found)
    for k, v in enumerate(found):
        # Without logarithms: v^(n-1) = low^(n-1-k) · high^k, in whole fractions.
        power, share = max(points - 1, 1), Fraction(str(low)) ** (max(points - 1, 1) - k) * Fraction(str(high)) ** k
        near = Fraction(12, 10**17)
        assert (Fraction(v) * (1 - near)) ** power <= share <= (Fraction(v) * (1 + near)) ** power


whole = st.integers(-30, 30) | st.integers(-2**53, 2**53)


@given(st.lists(whole, min_size=2, max_size=2, unique=True), st.integers(1, 70))
def test_whole_numbers(ends: list[int], points: int) -> None:
    low, high = sorted(ends)
    found = values(soma.search(low, high), points)
    count = min(points, high - low + 1)
    assert len(set(found)) == len(found) == count and all(type(v) is int for v in found)
    places = [low + Fraction((high - low) * k, max(count - 1, 1)) for k in range(count)]
    assert found == [math.floor(p + Fraction(1, 2)) for p in places]


@given(st.lists(st.integers(1, 40) | st.integers(1, 2**53), min_size=2, max_size=2, unique=True), st.integers(1, 50))
def test_whole_numbers_of_even_logarithms(ends: list[int], points: int) -> None:
    """The nearest whole number, or the next that is not taken yet."""
    low, high = sorted(ends)
    found = values(soma.search(low, high, scale="log"), points)
    count = min(points, high - low + 1)
    assert len(found) == count and found[0] == low and (count == 1 or found[-1] == high) and all(type(v) is int for v in found)
    assert all(a < b for a, b in itertools.pairwise(found))
    for k, v in enumerate(found):
        power, share = max(count - 1, 1), low ** (max(count - 1, 1) - k) * high**k
        assert v == low + k or (2 * v - 1) ** power < 2**power * share < (2 * v + 1) ** power


def test_some_values() -> None:
    assert values(soma.search(0.1, 0.5), 5) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert values(soma.search(1e-4, 10.0, scale="log"), 6) == [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]
    assert values(soma.search(1, 3), 5) == [1, 2, 3] and values(soma.search(1, 10), 5) == [1, 3, 6, 8, 10]
    assert values(soma.search(1, 10, scale="log"), 7) == [1, 2, 3, 4, 5, 7, 10]
    assert values(soma.search(1, 10000, scale="log"), 5) == [1, 10, 100, 1000, 10000]
    assert values(soma.search(0.0, 1.0, step=0.1), 5) == [0.0, 0.3, 0.5, 0.8, 1.0] and values(soma.search(1, 8, step=3), 5) == [1, 4, 7]


def test_points_by_name() -> None:
    space = Space.of({"a": (0.0, 1.0), "b": (0.0, 1.0), "k": ["x"]})
    assert len(cells(space, {"a": 3})) == 15 and len(cells(space, 1)) == 1
    for points, says in [({"c": 3}, "points: 'c' is no dimension; there are 'a', 'b', 'k'"),
                         ({"k": 3}, "points: 'k' is one of 'x', and all"),
                         ({"a": 0}, "dimension 'a': points=0: a whole number"), (2.5, "dimension 'a': points=2.5"), (True, "points=True")]:
        with pytest.raises(SpaceError, match=says):
            cells(space, points)  # type: ignore[arg-type]
