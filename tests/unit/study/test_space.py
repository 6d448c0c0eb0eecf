"""Spaces of studies: what exists is asked for and nothing else, values come back as they were declared, and mistakes are named."""

from __future__ import annotations

import enum
import json
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("optuna")

import soma
from soma.errors import SpaceError, StudyError
from soma.filters.searching import Search, belonging, on_step, position, search_of, shown, steps
from soma.study.distributions import encoded_choices
from soma.study.space import Dimension, Space, decode, distribution_of, encode

CHOICES = ["a", "b", "c", 0, 2, None, "7: x", math.inf, (1, 2), len, object]
"""No two of these are equal, so that the oracles may use `==`."""


@st.composite
def ranges(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["float", "int"]))
    low, high = sorted(draw(st.lists(st.integers(1, 60), min_size=2, max_size=2, unique=True)))
    extra = draw(st.sampled_from([{}, {"scale": "log"}, {"step": 1 if kind == "int" else 0.25}]))
    return {"type": kind, "low": low, "high": high, **extra}


choices = st.lists(st.sampled_from(CHOICES), min_size=1, max_size=4, unique_by=repr).map(lambda c: {"type": "categorical", "choices": c})


@st.composite
def declarations(draw: Any) -> dict[str, dict[str, Any]]:
    """Some dimensions with conditions on earlier ones."""
    made: dict[str, dict[str, Any]] = {}
    for name in "abcd"[:draw(st.integers(0, 4))]:
        one = draw(choices | ranges())
        possible = [n for n, d in made.items() if d["type"] != "float"]
        for other in draw(st.lists(st.sampled_from(possible), max_size=2, unique=True)) if possible else []:
            one.setdefault("when", {})[other] = draw(st.lists(st.sampled_from(whole(made[other])), min_size=1, max_size=3))
        made[name] = one
    return made


def whole(d: dict[str, Any]) -> list[Any]:
    return list(d["choices"]) if d["type"] == "categorical" else list(range(d["low"], d["high"] + 1))


def some(d: dict[str, Any], draw: Any) -> Any:
    """A value of a dimension, found without our code."""
    if d["type"] != "float":
        return draw(st.sampled_from(whole(d)))
    if "step" in d:
        return d["low"] + 0.25 * draw(st.integers(0, (d["high"] - d["low"]) * 4))
    return draw(st.floats(d["low"], d["high"]))


def exists(declared: dict[str, Any], name: str, params: dict[str, Any]) -> bool:
    """The rule, from the back: a dimension exists if all it depends on exist and have such a value."""
    return all(exists(declared, other, params) and params[other] in values for other, values in declared[name].get("when", {}).items())


@given(declarations(), st.data())
def test_what_exists_is_asked_for_in_order_and_nothing_else(declared: dict[str, Any], data: Any) -> None:
    space, asked = Space.of(declared), []

    def pick(name: str, search: Search) -> Any:
        asked.append(name)
        assert search is space.dimensions[name].search
        return some(declared[name], data.draw)

    params = space.suggest(pick)
    assert asked == list(params) == [n for n in declared if exists(declared, n, params)]
    assert space.active(params) == tuple(asked)
    checked = space.check(params)
    assert checked == params and list(checked) == asked and space.check(params, partial=True) == params
    kept = json.loads(json.dumps(space.encoded(params), allow_nan=False))
    back = space.decoded(kept)
    assert list(back) == asked
    assert all(math.isclose(back[n], params[n]) if declared[n]["type"] == "float" else
               type(back[n]) is type(params[n]) and back[n] == params[n] for n in asked)
    for name, value in kept.items():
        d = distribution_of(space.dimensions[name].search)
        assert d._contains(d.to_internal_repr(value))


@given(declarations(), st.data())
def test_what_is_frozen_is_there_and_is_not_asked_for(declared: dict[str, Any], data: Any) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(declared)))) if declared else set()
    frozen = {n: some(declared[n], data.draw) for n in names}
    space, asked = Space.of(declared).freeze(frozen), []
    params = space.suggest(lambda name, _: asked.append(name) or some(declared[name], data.draw))
    assert list(params) == [n for n in declared if exists(declared, n, params)]
    assert asked == [n for n in params if n not in names] == list(space.encoded(params))
    assert all(params[n] == frozen[n] for n in params if n in names)
    searched = {n: v for n, v in params.items() if n not in names}
    assert space.check(searched) == params and space.active(searched) == tuple(params)
    assert list(space.decoded(space.encoded(params))) == list(params)
    assert space.freeze({}) == space


@given(declarations())
def test_a_description_is_json_and_the_two_forms_say_the_same(declared: dict[str, Any]) -> None:
    space = Space.of(declared)
    told = json.loads(json.dumps(space.describe(), allow_nan=False))
    assert [d["name"] for d in told] == list(declared)
    assert Space.of([{"name": name, **d} for name, d in declared.items()]).describe() == told
    assert pickle.loads(pickle.dumps(space)).describe() == told
    assert Space.of(space) is space and Space.of(space.dimensions) == space
    again = Space.of(told)  # choices that JSON cannot hold are texts by then, which are told once more
    assert [(d["name"], d["type"], d.get("low"), d.get("step")) for d in again.describe()] == [
        (d["name"], d["type"], d.get("low"), d.get("step")) for d in told]


def test_all_ways_to_write_a_dimension() -> None:
    space = Space.of({
        "lr": soma.search(1e-4, 1e-1, scale="log", default=0.01), "C": (0.1, 10.0), "n": (1, 8), "kernel": ["rbf", "poly", "linear"],
        "gamma": {"type": "float", "low": 1, "high": 2, "when": {"kernel": ("rbf", "poly")}},
        "degree": {"type": "int", "low": np.int64(2), "high": 5, "step": 1, "when": {"kernel": "poly"}},
        "shape": {"choices": [(8, 8), (4,)]}, "wide": {"low": 1, "high": 5.5, "when": {"shape": (8, 8), "n": [1, 2]}},
        "act": Dimension(search_of(["relu", "tanh"]))})
    assert [(n, d.search.type) for n, d in space.dimensions.items()] == [
        ("lr", "float"), ("C", "float"), ("n", "int"), ("kernel", "categorical"), ("gamma", "float"), ("degree", "int"),
        ("shape", "categorical"), ("wide", "float"), ("act", "categorical")]
    assert type(space.dimensions["gamma"].search.low) is float and type(space.dimensions["degree"].search.low) is int
    assert space.dimensions["gamma"].when == {"kernel": ("rbf", "poly")}
    assert space.dimensions["wide"].when == {"shape": ((8, 8),), "n": (1, 2)}
    assert space.defaults() == {"lr": 0.01} and len(space) == 9
    assert str(space.freeze({"C": 1, "degree": 3})).startswith(
        "lr: a number from 0.0001 to 0.1 (log), C: 1.0, frozen, n: a whole number from 1 to 8, kernel: one of 'rbf', 'poly', 'linear', "
        "gamma: a number from 1.0 to 2.0 when kernel is 'rbf' or 'poly', degree: 3, frozen when kernel is 'poly', ")
    assert space.freeze({"C": 1, "degree": 3}).describe()[5] == {
        "name": "degree", "type": "int", "low": 2, "high": 5, "scale": "linear", "step": 1, "when": {"kernel": ["poly"]}, "frozen": 3}
    for empty in (None, {}, []):
        assert Space.of(empty).describe() == [] and Space.of(empty).suggest(lambda *_: 1 / 0) == {} and str(Space.of(empty)) == ""


RBF = {"kernel": ["rbf", "linear"]}


@pytest.mark.parametrize(("declared", "says"), [
    (3, "space=3: a dict of name"), ("lr", "space='lr'"), ({1: (0, 1)}, "1 is no name of a dimension"), ({"": (0, 1)}, "'' is no name"),
    ([{"low": 0, "high": 1}], r"space\[0\]=.*a dict with 'name'"), (["lr"], r"space\[0\]='lr'"),
    ([{"name": "lr", "low": 0, "high": 1}, {"name": "lr", "choices": [1]}], "dimension 'lr' is declared twice"),
    ({"lr": 0.1}, r"dimension 'lr'=0.1: soma.search\(…\), a range"), ({"lr": (1, 2, 3)}, r"dimension 'lr'=\(1, 2, 3\)"),
    ({"lr": (2, 1)}, r"dimension 'lr'=\(2, 1\): low=2 is not below high=1"), ({"lr": (1.0, 1.0)}, "low=1.0 is not below"),
    ({"lr": ("a", "b")}, "dimension 'lr'.*low='a': a finite number"), ({"lr": (None, 1)}, "dimension 'lr'.*low and high"),
    ({"lr": {"low": 0.0, "high": 1.0, "scale": "log"}}, "dimension 'lr': low=0.0 has no logarithm"),
    ({"lr": {"low": 1, "high": 2, "scale": "ln"}}, "dimension 'lr': scale='ln': 'linear' or 'log'"),
    ({"lr": {"type": "real", "low": 1, "high": 2}}, "dimension 'lr': unknown type 'real'; there are 'float', 'int', 'categorical'"),
    ({"lr": {"low": 1, "hihg": 2}}, "dimension 'lr': unknown key 'hihg'; there are 'type', 'low', 'high', 'scale', 'choices'"),
    ({"lr": {"type": "float", "low": 1}}, "dimension 'lr': type 'float' needs 'high'"), ({"lr": {}}, "a range needs 'low' and 'high'"),
    ({"k": {"type": "categorical", "low": 1, "high": 2}}, "dimension 'k': type 'categorical' needs 'choices'"),
    ({"k": {"choices": [1], "low": 1}}, "type 'categorical' has no 'low'; it has 'choices', 'default'"),
    ({"k": {"type": "int", "low": 1, "high": 2, "choices": [1]}}, "type 'int' has no 'choices'"),
    ({"k": []}, r"dimension 'k'=\[\]: .*nothing to choose"), ({"k": {"choices": "abc"}}, "dimension 'k': choices='abc': a list"),
    ({"k": ["a", "b", "a"]}, "dimension 'k'.*the choice 'a' is given twice"),
    ({"n": {"type": "int", "low": 1.5, "high": 3}}, "dimension 'n': low=1.5 is not a whole number"),
    ({"n": {"type": "int", "low": True, "high": 3}}, "dimension 'n': low=True"), ({"n": (0, 2**60)}, r"dimension 'n'.*up to 2\*\*53"),
    ({"n": {"low": 1, "high": 3, "step": 0}}, "dimension 'n': step=0 does not lead"), ({"n": {"low": 1, "high": 3, "step": 5}}, "step=5"),
    ({"n": {"low": 1, "high": 3, "step": 1, "scale": "log"}}, "dimension 'n': step=1: a logarithmic scale has no steps"),
    ({"n": {"low": 1, "high": 3, "default": 4}}, "dimension 'n': default=4 is not between"),
    ({"n": {"low": 1, "high": 3, "default": None}}, "dimension 'n': default=None"),
    ({"g": {"low": 1, "high": 2, "when": {"kernel": "rbf"}}}, "dimension 'g': when: 'kernel' is no earlier dimension; there is none"),
    ({"g": {"low": 1, "high": 2, "when": {"kernel": "rbf"}}, **RBF}, "'kernel' is no earlier dimension"),
    ({**RBF, "g": {"low": 1, "high": 2, "when": {"kern": "rbf"}}}, "when: 'kern' is no earlier dimension; there are 'kernel'"),
    ({**RBF, "g": {"low": 1, "high": 2, "when": {"g": 1}}}, "when: 'g' is no earlier dimension"),
    ({**RBF, "g": {"low": 1, "high": 2, "when": {"kernel": "rfb"}}}, "dimension 'g': when: kernel='rfb'; it is one of 'rbf', 'linear'"),
    ({**RBF, "g": {"low": 1, "high": 2, "when": {"kernel": []}}}, "dimension 'g': when: 'kernel' has no value here"),
    ({**RBF, "g": {"low": 1, "high": 2, "when": "rbf"}}, "dimension 'g': when='rbf': a dict"),
    ({"x": (0.0, 1.0), "g": {"low": 1, "high": 2, "when": {"x": 0.5}}}, "'g': when: 'x' is a number from 0.0 to 1.0; a condition needs"),
    ({"n": (1, 3), "g": {"low": 1, "high": 2, "when": {"n": 4}}}, "dimension 'g': when: n=4; it is a whole number from 1 to 3"),
])
def test_a_space_that_cannot_be_names_the_dimension(declared: Any, says: str) -> None:
    with pytest.raises(SpaceError, match=says) as caught:
        Space.of(declared)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, StudyError)


KERNELS = Space.of({"lr": (0.1, 1.0), "n": (1, 9), **RBF, "gamma": {"low": 0.0, "high": 1.0, "step": 0.1, "when": {"kernel": "rbf"}},
                    "deep": [1, 2]})


@pytest.mark.parametrize(("params", "says"), [
    (None, "params=None"), ({"lr": 0.5}, "'n' is missing; 'kernel' is missing; 'deep' is missing"),
    ({"lr": 2.0, "n": 3, "kernel": "linear", "deep": 1}, "params: lr=2.0; it is a number from 0.1 to 1.0$"),
    ({"lr": "0.5", "n": 3.0, "kernel": "linear", "deep": 1}, "lr='0.5'; .*; n=3.0; it is a whole number from 1 to 9"),
    ({"lr": math.nan, "n": True, "kernel": "linear", "deep": True}, "lr=nan; .* n=True; .*deep=True"),
    ({"lr": 0.5, "n": 3, "kernel": "linear", "deep": 1, "gamma": 0.5}, "'gamma' exists only when kernel is 'rbf'"),
    ({"lr": 0.5, "n": 3, "kernel": "rbf", "deep": 1}, "'gamma' is missing"),
    ({"lr": 0.5, "n": 3, "kernel": "rbf", "deep": 1, "gamma": 0.55}, "gamma=0.55; it is a number from 0.0 to 1.0 in steps of 0.1"),
    ({"lr": 0.5, "n": 3, "kernel": "rfb", "deep": 1, "gamma": 0.5}, "params: kernel='rfb'; it is one of 'rbf', 'linear'$"),
    ({"lr": 0.5, "n": 3, "kernel": "linear", "deep": 1, "eps": 1}, "'eps' is no dimension; there are 'lr', 'n', 'kernel', 'gamma', 'deep'"),
])
def test_parameters_that_do_not_fit(params: Any, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        KERNELS.check(params)


def test_parameters_come_in_the_types_of_their_dimensions() -> None:
    clean = KERNELS.check({"deep": np.int64(2), "gamma": 1, "kernel": np.str_("rbf"), "n": np.int8(3), "lr": np.float32(0.5)})
    assert clean == {"lr": 0.5, "n": 3, "kernel": "rbf", "gamma": 1.0, "deep": 2} and list(clean) == ["lr", "n", "kernel", "gamma", "deep"]
    assert [type(v) for v in clean.values()] == [float, int, str, float, int]


def test_some_parameters() -> None:
    assert KERNELS.check({"gamma": 0.5}, partial=True) == {"gamma": 0.5}  # whether it exists is not known yet
    assert KERNELS.check({}, partial=True) == {}
    with pytest.raises(SpaceError, match="'gamma' exists only"):
        KERNELS.check({"gamma": 0.5, "kernel": "linear"}, partial=True)
    with pytest.raises(SpaceError, match="params: lr=2"):
        KERNELS.check({"lr": 2}, partial=True)


def test_freezing() -> None:
    frozen = KERNELS.freeze({"kernel": "rbf", "n": np.int64(2)})
    assert frozen.check({"lr": 1, "gamma": 0, "deep": 1}) == {"lr": 1.0, "n": 2, "kernel": "rbf", "gamma": 0.0, "deep": 1}
    assert frozen.check({"n": 2}, partial=True) == {"n": 2, "kernel": "rbf"} and type(frozen.frozen["n"]) is int
    assert frozen.freeze({"n": 3}).frozen == {"kernel": "rbf", "n": 3} and KERNELS.frozen == {}
    with pytest.raises(SpaceError, match="n=3; it is frozen at 2"):
        frozen.check({"n": 3}, partial=True)
    with pytest.raises(SpaceError, match="'gamma' exists only when kernel is 'rbf'"):
        KERNELS.freeze({"kernel": "linear"}).check({"gamma": 0.5}, partial=True)
    for values, says in [({"lr": 3}, "frozen: lr=3; it is a number from 0.1"), ({"rl": 3}, "frozen: 'rl' is no dimension; there are 'lr'"),
                         ([1], r"frozen=\[1\]")]:
        with pytest.raises(SpaceError, match=says):
            KERNELS.freeze(values)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="'x' is no dimension; the space is empty"):
        Space.of(None).freeze({"x": 1})


# -- choices ---------------------------------------------------------------------------------------------------------------------------


class Loss(enum.Enum):
    MSE = 1


class Net:
    def __init__(self, width: int = 1) -> None:
        self.width = width

    def __eq__(self, other: object) -> Any:
        raise ValueError("like an array")


def test_what_a_storage_cannot_hold_is_a_text_without_addresses() -> None:
    strange = [None, True, 1, 1.0, 0, 2.5, "a", "3: a", math.nan, -math.inf, Loss.MSE, Net, Net(), Net(2), len, (1, "x", None), [Loss.MSE],
               {"a": [True]}, np.float32(0.5), np.arange(3), {1, 2}]
    search = Space.of({"x": strange}).dimensions["x"].search
    assert encoded_choices(search) == (
        None, "1: True", "2: 1", "3: 1.0", 0, 2.5, "a", "7: '3: a'", "8: nan", "9: -inf", "10: Loss.MSE", "11: Net", "12: Net", "13: Net",
        "14: len", "15: (1, 'x', None)", "16: [Loss.MSE]", "17: {'a': [True]}", "18: 0.5", "19: ndarray", "20: set")
    for choice, kept in zip(strange, encoded_choices(search), strict=True):
        assert encode(search, choice) is kept or encode(search, choice) == kept
        assert decode(search, json.loads(json.dumps(kept))) is choice
    assert len(encoded_choices(soma.search(choices=[tuple(range(1000))]))[0]) == 200  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="dimension 'x': 'z' is none of None, '1: True'"):
        Space.of({"x": strange}).decoded({"x": "z"})


alike = st.lists(st.sampled_from([True, False, 0, 1, 0.0, 1.0, None, "1", "0: 1", "", math.nan, (1,), 2]), min_size=1,
                 unique_by=lambda v: (type(v), repr(v)))


@given(alike)
def test_true_and_1_and_1_0_are_three_choices(given_choices: list[Any]) -> None:
    search = Space.of({"x": given_choices}).dimensions["x"].search
    distribution = distribution_of(search)
    kept = [json.loads(json.dumps(encode(search, c), allow_nan=False)) for c in given_choices]
    assert [decode(search, k) for k in kept] == given_choices
    assert [type(decode(search, k)) for k in kept] == [type(c) for c in given_choices]
    # optuna tells all of them apart, too, and its own serialisation keeps them
    assert [distribution.to_internal_repr(k) for k in kept] == list(range(len(kept)))
    from optuna.distributions import distribution_to_json, json_to_distribution
    assert json_to_distribution(distribution_to_json(distribution)).choices == tuple(kept)


def test_where_among_choices() -> None:
    assert position((True, 1, 1.0), 1.0) == 2 and position((True, 1, 1.0), True) == 0
    assert position((16, 32), np.int64(32)) == 1 and position((16, 32), 32.0) == 1 and position((True, False), 1) is None
    assert position((1, 1.0), np.float32(1)) is None  # which of the two?
    assert position((np.arange(3), "a"), "a") == 1 and position((np.arange(3),), np.arange(3)) is None


def test_a_condition_on_true_does_not_hold_for_1() -> None:
    space = Space.of({"x": [1, True, 1.0], "y": {"choices": ["z"], "when": {"x": True}}})
    assert [space.active({"x": x}) for x in (1, True, 1.0)] == [("x",), ("x", "y"), ("x",)]


# -- steps -----------------------------------------------------------------------------------------------------------------------------


@given(st.integers(-50, 50), st.integers(1, 30), st.integers(0, 40), st.integers(0, 9), st.sampled_from([1, 10, 1000]))
def test_steps_are_counted_in_tenths_and_thousandths(low: int, step: int, n: int, rest: int, parts: int) -> None:
    """Against whole numbers: everything times `parts`."""
    rest = min(rest, step - 1)
    high = low + n * step + rest
    if high - low < step:
        return
    search = soma.search(low / parts, high / parts, step=step / parts)
    expected = [(low + k * step) / parts for k in range(n + 1)]
    assert steps(search) == n and [on_step(search, k) for k in range(n + 1)] == [belonging(search, v) for v in expected] == expected
    distribution = distribution_of(search)  # without optuna's warning that the end is no step
    assert distribution.high == expected[-1]
    assert [decode(search, distribution.low + k * distribution.step) for k in range(n + 1)] == expected
    assert belonging(soma.search(low, high, step=step), low + step) == low + step and soma.search(low, high, step=step).type == "int"
    if step > 1:
        with pytest.raises(ValueError, match="in steps of"):
            belonging(soma.search(low, high, step=step), low + 1)


def test_words() -> None:
    assert shown(soma.search(1, 9, step=2)) == "a whole number from 1 to 9 in steps of 2"
    assert soma.search(1, 9, step=0.5).type == "float" and soma.search(0.0, 1.0, step=0.1, default=0.3).default == 0.3
    with pytest.raises(ValueError, match="default=2.5"):
        soma.search(1, 9, default=2.5)


def test_a_population_moves_in_steps() -> None:
    from soma.train.population.spaces import Space as Varied

    space, rng = Varied.of({"x": soma.search(0.0, 1.0, step=0.1), "n": soma.search(2, 11, step=3)}), np.random.default_rng(0)
    params, seen = space.draw(rng), set()
    for _ in range(300):
        after = space.perturbed(params, rng, (0.99, 1.01), 0.1)
        assert after["x"] != params["x"] or after["n"] != params["n"] or params["x"] in (0.0, 1.0) or params["n"] in (2, 11)
        params = after
        seen |= {params["x"], (params["n"],)}
    assert seen == {k / 10 for k in range(11)} | {(2,), (5,), (8,), (11,)}


def test_no_optuna_before_it_is_needed() -> None:
    code = "import sys, soma.study.space, soma.study.grid, soma.study.outcome; print([m for m in ('optuna', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
