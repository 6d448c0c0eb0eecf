"""States as trees: taken apart, put together, compared; every dtype, and what is refused with which path."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from soma.errors import StateMismatchError
from soma.train.pytrees import BLOCK, Layout, flatten, is_finite, like, numbers, unflatten

Pair = collections.namedtuple("Pair", "left right")
DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.complex64, ">f4"]
leaves = st.one_of(st.integers(-10, 10), st.floats(-1, 1), st.none(), st.text(max_size=3), st.booleans(),
                   hnp.arrays(st.sampled_from([np.float32, np.int32, np.bool_]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
trees = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.builds(Pair, inner, inner),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3)), max_leaves=8)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


@given(trees)
def test_a_state_taken_apart_and_put_together_is_itself(state: Any) -> None:
    taken = flatten(state)
    assert same(unflatten(state, [leaf.value for leaf in taken]), state)
    for leaf in taken:
        assert eval(leaf.path, {"state": state}) is leaf.value, "a path is how one would write it"


@given(trees)
def test_a_state_fits_itself_and_comes_out_of_its_numbers(state: Any) -> None:
    layout = Layout(state, "a")
    row = layout.values(state, "b")
    made = layout.made([None if leaf.kind == "fixed" else numbers(leaf, v) for leaf, v in zip(layout.leaves, row, strict=True)])
    assert same(made, state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_orders_and_strides(dtype: Any, order: Any) -> None:
    whole = np.arange(48).reshape(4, 12).astype(dtype)
    value = np.asfortranarray(whole) if order == "F" else whole[:, ::2]
    (leaf,) = flatten(value)
    made = like(value, numbers(leaf, value))
    assert made.dtype == value.dtype and np.array_equal(made, value)
    assert order == "C" or made.flags.f_contiguous


def test_containers_of_other_classes_and_key_order() -> None:
    state = collections.OrderedDict(b=1.0, a=[2.0, (3.0,)])
    layout = Layout(state, "a")
    assert layout.values({"a": [5.0, [6.0]], "b": 4.0}, "b") == [4.0, 5.0, 6.0]
    made = unflatten(state, [4.0, 5.0, 6.0])
    assert type(made) is collections.OrderedDict and list(made) == ["b", "a"] and made["a"][1] == (6.0,)
    counted = unflatten(collections.defaultdict(int, x=1), [2])
    assert type(counted) is collections.defaultdict and counted["y"] == 0


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_wrong_number_of_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values than there are leaves|values more"):
        unflatten({"a": 0.0, "b": 0.0}, values)


F = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(("state", "complaint"), [
    ({"w": F}, r"b: state\['n'\] is missing; a has it"),
    ({"w": F, "n": 1, "x": 2}, r"b: state\['x'\] is unknown; a has no such key"),
    ({"w": F.T, "n": 1}, r"b: state\['w'\] is float32\[4, 3\], but of a it is float32\[3, 4\]"),
    ({"w": F.astype(int), "n": 1}, r"b: state\['w'\] is int64\[3, 4\], but of a it is float32"),
    ({"w": F, "n": 1.0}, r"b: state\['n'\] is float, but of a it is int"),
    ({"w": F, "n": True}, r"b: state\['n'\] is True, but of a it is int"),
    ({"w": F, "n": [1]}, r"b: state\['n'\] is a list, but of a it is int"),
    ([F, 1], r"b: state is a list, but of a it is a dict"),
    (None, r"b: state is None, but of a it is a dict"),
    ({"w": F, "n": 2**60}, r"b: state\['n'\] holds whole numbers beyond 2\*\*53"),
])
def test_what_differs_is_named_with_path_and_owner(state: Any, complaint: str) -> None:
    with pytest.raises(StateMismatchError, match=complaint):
        Layout({"w": F, "n": 1}, "a").values(state, "b")


@pytest.mark.parametrize(("fixed", "other"), [
    ("relu", "tanh"), (None, "x"), (True, False), (np.array([True, False]), np.array([True, True])), (np.array(["a"]), np.array(["b"])),
    (b"x", b"y"), (np.array(["2020-01-01"], "M8[D]"), np.array(["2021-01-01"], "M8[D]")),
])
def test_what_is_no_number_must_be_equal_everywhere(fixed: Any, other: Any) -> None:
    layout = Layout({"how": fixed}, "a")
    layout.values({"how": fixed}, "b")
    with pytest.raises(StateMismatchError, match=r"^b: state\['how'\] is"):
        layout.values({"how": other}, "b")


def test_what_can_neither_be_averaged_nor_compared_is_refused() -> None:
    with pytest.raises(StateMismatchError, match=r"b: state\['x'\].*neither be averaged nor compared"):
        Layout({"x": object()}, "a").values({"x": object()}, "b")


def test_lists_of_other_lengths() -> None:
    with pytest.raises(StateMismatchError, match=r"b: state\[0\] has 1 items, but of a it is 2"):
        Layout([[1.0, 2.0]], "a").values([[1.0]], "b")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex128, np.int32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_wherever_they_are(dtype: Any, bad: float) -> None:
    value = np.full(BLOCK + 7, 3).astype(dtype)
    assert is_finite(value)
    if np.dtype(dtype).kind == "i":
        return
    for at in (0, BLOCK - 1, BLOCK + 6):
        broken = value.copy()
        broken[at] = bad
        assert not is_finite(broken)


def test_large_but_finite_numbers_are_finite() -> None:
    assert is_finite(np.full(9, np.finfo(np.float32).max)) and is_finite(np.full(9, np.finfo(np.float64).max))
    assert is_finite(np.zeros(0)) and is_finite(3.0) and not is_finite(float("nan"))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "complex64"])
def test_tensors(name: str) -> None:
    torch = pytest.importorskip("torch")
    value = torch.arange(6).reshape(2, 3).to(getattr(torch, name)).t()
    (leaf,) = flatten(value)
    made = like(value, numbers(leaf, value))
    assert made.dtype == value.dtype and made.shape == (3, 2) and torch.equal(made, value)


@pytest.mark.torch
def test_parameters_and_gradients_stay_what_they_are() -> None:
    torch = pytest.importorskip("torch")
    state = {"p": torch.nn.Parameter(torch.ones(2)), "t": torch.ones(2, requires_grad=True), "m": torch.tensor([True])}
    made = Layout(state, "a").made([np.full(2, 3.0), np.full(2, 4.0), None])
    assert type(made["p"]) is torch.nn.Parameter and made["p"].tolist() == [3, 3]
    assert made["t"].requires_grad and made["t"].is_leaf and made["t"].tolist() == [4, 4]
    with pytest.raises(StateMismatchError, match=r"state\['p'\] is float32\[3\]"):
        Layout(state, "a").values({**state, "p": torch.ones(3)}, "b")
