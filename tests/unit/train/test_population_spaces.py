"""Spaces of a population: whatever is drawn, moved or drawn anew is a value that the dimension has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.filters.searching import Search
from soma.train.population.spaces import Space

ends = st.floats(-1e12, 1e12, allow_nan=False)
positive = st.floats(1e-12, 1e12)
whole = st.integers(-10**15, 10**15)
seeds = st.integers(0, 2**32 - 1)
factors = st.lists(st.floats(0.01, 100), min_size=1, max_size=4).map(tuple)


@st.composite
def dimensions(draw: Any) -> Search:
    kind = draw(st.sampled_from(["float", "float log", "int", "int log", "categorical"]))
    if kind == "categorical":
        return soma.search(choices=draw(st.lists(st.text(max_size=3) | st.integers(), min_size=1, max_size=5, unique_by=repr)))
    of = {"float": ends, "float log": positive, "int": whole, "int log": st.integers(1, 10**15)}[kind]
    low, high = sorted(draw(st.lists(of, min_size=2, max_size=2, unique=True)))
    return soma.search(low, high, scale="log" if "log" in kind else "linear")


spaces = st.dictionaries(st.sampled_from("abcdef"), dimensions(), min_size=1)


def belongs(d: Search, value: Any) -> bool:
    """Said anew, and strictly."""
    if d.type == "categorical":
        return any(value is c for c in d.choices)
    return type(value) is (int if d.type == "int" else float) and d.low <= value <= d.high  # type: ignore[operator]


@given(spaces, seeds, factors, st.floats(0, 1), st.integers(1, 20))
def test_nothing_ever_leaves_its_bounds_or_its_type(declared: dict[str, Search], seed: int, by: tuple[float, ...], anew: float,
                                                    steps: int) -> None:
    space, rng = Space.of(declared), np.random.default_rng(seed)
    params = space.draw(rng)
    for _ in range(steps):
        assert list(params) == list(declared) and all(belongs(declared[name], value) for name, value in params.items())
        params = space.perturbed(params, rng, by, anew)
    assert all(belongs(declared[name], value) for name, value in space.resampled(params, rng).items())


@given(spaces, seeds, factors)
def test_a_step_is_the_factor_held_to_the_range(declared: dict[str, Search], seed: int, by: tuple[float, ...]) -> None:
    """Against the rule written out: some factor explains each move."""
    space = Space.of(declared)
    before = space.draw(np.random.default_rng(seed))
    after = space.perturbed(before, np.random.default_rng(seed + 1), by, 0.0)
    for name, d in declared.items():
        assert any(math.isclose(after[name], e, rel_tol=1e-12) if isinstance(e, float) else after[name] == e
                   for e in (expected(d, before[name], f) for f in by)), (d, before[name], after[name])


def expected(d: Search, value: Any, factor: float) -> Any:
    if factor == 1:
        return value
    if d.type == "categorical":
        at = next(i for i, c in enumerate(d.choices) if c is value)
        return d.choices[max(at - 1, 0) if factor < 1 else min(at + 1, len(d.choices) - 1)]
    low, high = d.low, d.high
    assert low is not None and high is not None
    target = value + (factor - 1) * (high - low) if low <= 0 <= high else value * factor
    held = sorted((low, target, high))[1]
    if d.type == "float":
        return float(held)
    stepped = round(held)
    return stepped if stepped != value else sorted((low, value + (1 if target > value else -1), high))[1]


@given(spaces, seeds, factors, st.data())
def test_what_is_fixed_stays(declared: dict[str, Search], seed: int, by: tuple[float, ...], data: Any) -> None:
    fixed = data.draw(st.sets(st.sampled_from(sorted(declared))))
    space, rng = Space.of(declared, fixed), np.random.default_rng(seed)
    params = space.draw(rng)
    for changed in (space.perturbed(params, rng, by, 0.5), space.resampled(params, rng)):
        assert all(changed[name] is params[name] for name in fixed)


@given(spaces, seeds)
def test_packed_is_numbers_and_comes_back(declared: dict[str, Search], seed: int) -> None:
    space = Space.of(declared)
    params = space.draw(np.random.default_rng(seed))
    plain = space.packed(params)
    assert all(type(v) in (int, float) for v in plain.values())
    back = space.unpacked(plain)
    assert back == params and all(belongs(declared[name], v) for name, v in back.items())


@pytest.mark.parametrize(("declared", "shares"), [
    (soma.search(1e-4, 1.0, scale="log"), lambda v: math.log10(v) // 1),
    (soma.search(0.0, 4.0), lambda v: v // 1),
    (soma.search(1, 4), lambda v: v),
    (soma.search(choices="abcd"), lambda v: v),
])
def test_draws_are_even_over_the_scale(declared: Search, shares: Any) -> None:
    rng = np.random.default_rng(0)
    found = [shares(Space.of({"x": declared}).draw(rng)["x"]) for _ in range(4000)]
    counts = [found.count(bin) for bin in set(found)]
    assert len(counts) == 4 and min(counts) > 900 and max(counts) < 1100


def test_a_small_whole_number_still_moves() -> None:
    space = Space.of({"layers": (1, 8)})
    moved = {space.perturbed({"layers": 2}, np.random.default_rng(i), (0.8, 1.2), 0.0)["layers"] for i in range(50)}
    assert moved == {1, 3}  # 2 × 0.8 and 2 × 1.2 both round to 2


def test_zero_is_left() -> None:
    space = Space.of({"dropout": (0.0, 0.5)})
    moved = {space.perturbed({"dropout": 0.0}, np.random.default_rng(i), (0.8, 1.2), 0.0)["dropout"] for i in range(50)}
    assert sorted(moved) == [0.0, pytest.approx(0.1)]


@pytest.mark.parametrize(("declared", "fixed", "error", "says"), [
    ({}, (), ValueError, "needs something to vary"),
    ([("lr", (0, 1))], (), TypeError, "a dict of name"),
    ({"lr": 0.1}, (), TypeError, r"space\['lr'\]=0.1"),
    ({"lr": (2, 1)}, (), ValueError, r"space\['lr'\].*low=2 is not below high=1"),
    ({"lr": ("a", 1)}, (), ValueError, r"space\['lr'\].*low='a'"),
    ({"lr": (1, 2, 3)}, (), TypeError, r"space\['lr'\]"),
    ({"act": []}, (), ValueError, r"space\['act'\].*nothing to choose"),
    ({1: (0, 1)}, (), TypeError, "1 is no name"),
    ({"lr": (0.1, 1.0)}, ("width",), ValueError, "fixed: 'width' is not in the space; there are 'lr'"),
])
def test_errors_name_the_dimension(declared: Any, fixed: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Space.of(declared, fixed)


@pytest.mark.parametrize(("given", "says"), [
    (None, "explore gave None"), ({"lr": 0.5}, "'lr', 'n', 'act', 'width'"),
    ({"lr": 2.0, "n": 3, "act": "relu", "width": 16}, "explore gave lr=2.0; it is a number from 0.1 to 1.0"),
    ({"lr": math.nan, "n": 3, "act": "relu", "width": 16}, "lr=nan"),
    ({"lr": "0.5", "n": 3, "act": "relu", "width": 16}, "lr='0.5'"),
    ({"lr": 0.5, "n": 3.5, "act": "relu", "width": 16}, "n=3.5; it is a whole number from 1 to 9"),
    ({"lr": 0.5, "n": 3, "act": "gelu", "width": 16}, "act='gelu'; it is one of 'relu', 'tanh'"),
    ({"lr": 0.5, "n": 3, "act": "relu", "width": 32}, "changed 'width' from 16 to 32, but it is fixed"),
])
def test_what_an_explore_of_ones_own_may_not_do(given: Any, says: str) -> None:
    space = Space.of({"lr": (0.1, 1.0), "n": (1, 9), "act": ["relu", "tanh"], "width": [16, 32]}, ["width"])
    before = {"lr": 0.2, "n": 2, "act": "tanh", "width": 16}
    with pytest.raises(ValueError, match=says):
        space.checked(given, before)
    good = space.checked({"width": 16, "n": np.int64(3), "lr": np.float32(0.5), "act": "relu"}, before)
    assert good == {"lr": 0.5, "n": 3, "act": "relu", "width": 16} and type(good["n"]) is int and type(good["lr"]) is float
