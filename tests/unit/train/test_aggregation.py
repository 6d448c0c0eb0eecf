"""Aggregations against a few lines of NumPy that compute the same another way."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from soma.errors import NonFiniteError, StateMismatchError
from soma.train.aggregation import Mean, fedavg, krum, median, multi_krum, trimmed_mean
from soma.train.pytrees import BLOCK, Layout

finite = st.floats(-1e3, 1e3, width=32)


@st.composite
def stacks(draw: Any, least: int = 1, most: int = 9) -> Any:
    """States side by side: an array of (states, …)."""
    shape = (draw(st.integers(least, most)), *draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=5)))
    return draw(hnp.arrays(draw(st.sampled_from([np.float32, np.float64])), shape, elements=finite))


def states_of(stack: Any) -> list[dict[str, Any]]:
    return [{"a": row, "b": [row * 2, "relu"]} for row in stack]


def check(got: Any, expected: Any, stack: Any) -> None:
    assert got["b"][1] == "relu" and type(got["b"]) is list
    assert np.asarray(got["a"]).dtype == stack.dtype
    tolerance = 1e-6 if stack.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got["a"], expected, rtol=tolerance, atol=1e3 * tolerance)
    np.testing.assert_allclose(got["b"][0], 2 * expected, rtol=tolerance, atol=1e3 * tolerance)


def test_the_example_of_the_specification_is_exact() -> None:
    assert fedavg([{"m": 2.0}, {"m": 5.6}], [4, 5])["m"] == 4.0
    assert fedavg([{"m": np.float32(2)}, {"m": np.float32(5.6)}], [4, 5])["m"] == np.float32(4)


@given(stacks(), st.data())
def test_fedavg(stack: Any, data: Any) -> None:
    weights = data.draw(st.lists(st.integers(0, 100), min_size=len(stack), max_size=len(stack)).filter(any))
    exact = np.empty(stack.shape[1:], object)
    for at in np.ndindex(stack.shape[1:]):
        column = zip(weights, stack[(slice(None), *at)], strict=True)
        exact[at] = sum((w * Fraction(float(v)) for w, v in column), Fraction(0)) / sum(weights)
    check(fedavg(states_of(stack), weights), exact.astype(float), stack)


@given(stacks())
def test_median(stack: Any) -> None:
    n = len(stack)
    ordered = np.sort(stack.astype(float), axis=0)
    check(median(states_of(stack)), (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, stack)


@given(stacks(), st.data())
def test_trimmed_mean(stack: Any, data: Any) -> None:
    n = len(stack)
    k = data.draw(st.integers(0, (n - 1) // 2))
    ordered = np.sort(stack.astype(float), axis=0)
    expected = sum(ordered[i] for i in range(k, n - k)) / (n - 2 * k)
    check(trimmed_mean(states_of(stack), k), expected, stack)
    if 2 * int(0.4 * n) < n:
        k = int(0.4 * n)
        check(trimmed_mean(states_of(stack), 0.4), ordered[k:n - k].mean(0), stack)


def reference_krum(stack: Any, f: int) -> list[float]:
    flat = np.array([[*row.ravel(), *(row * 2).ravel()] for row in stack]).astype(float)
    scores = []
    for i, one in enumerate(flat):
        apart = sorted(((one - other) ** 2).sum() for j, other in enumerate(flat) if j != i)
        scores.append(sum(apart[:len(flat) - f - 2]))
    return scores


@given(stacks(3, 9), st.data())
def test_krum(stack: Any, data: Any) -> None:
    stack = stack.round()  # distances are exact: equal ones are equal
    n = len(stack)
    f = data.draw(st.integers(0, (n - 3) // 2))
    scores = reference_krum(stack, f)
    check(krum(states_of(stack), f), stack[int(np.argmin(scores))], stack)
    m = data.draw(st.integers(1, n))
    best = sorted(range(n), key=lambda i: (scores[i], i))[:m]
    check(multi_krum(states_of(stack), f, m), stack[best].astype(float).mean(0), stack)


def test_liars_do_not_get_through() -> None:
    honest = [{"w": np.full(5, 1 + i / 100)} for i in range(5)]
    liars = [{"w": np.full(5, 1e9)}, {"w": np.full(5, -1e9)}]
    for rule in (median, lambda s: trimmed_mean(s, 2), lambda s: krum(s, 2), lambda s: multi_krum(s, 2)):
        assert np.abs(rule([liars[0], *honest, liars[1]])["w"] - 1.02).max() < 0.1


def test_arrays_larger_than_a_block() -> None:
    rng = np.random.default_rng(0)
    stack = rng.standard_normal((5, BLOCK + 13)).astype(np.float32)
    wide = stack.astype(float)
    states = [{"w": row} for row in stack]
    np.testing.assert_allclose(fedavg(states, [1, 2, 3, 4, 5])["w"], np.average(wide, 0, [1, 2, 3, 4, 5]), atol=1e-7)
    np.testing.assert_allclose(median(states)["w"], np.median(wide, 0), atol=1e-7)
    np.testing.assert_array_equal(krum(states, 1)["w"], stack[int(np.argmin([sum(sorted(
        ((a - b) ** 2).sum() for b in wide)[1:3]) for a in wide]))])


@settings(max_examples=50)
@given(stacks(2, 8), st.data())
def test_added_in_any_portions_the_mean_has_the_same_bits(stack: Any, data: Any) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(stack), max_size=len(stack)))
    layout = Layout({"w": stack[0]}, "a")
    updates = [(w, [row]) for w, row in zip(weights, stack, strict=True)]
    at_once, by_parts = Mean(layout), Mean(layout)
    at_once.add(updates)
    cut = data.draw(st.integers(0, len(stack)))
    by_parts.add(updates[:cut])
    by_parts.add(updates[cut:])
    assert at_once.result()[0].tobytes() == by_parts.result()[0].tobytes()


@given(stacks(1, 1), st.floats(0.1, 1e6))
def test_one_state_comes_out_as_it_went_in(stack: Any, weight: float) -> None:
    assert np.asarray(fedavg(states_of(stack), [weight])["a"]).tobytes() == stack[0].tobytes()


def test_integers_are_averaged_and_rounded_and_keep_their_dtype() -> None:
    made = fedavg([{"n": np.array([3, 10], np.int32), "k": 1}, {"n": np.array([4, 11], np.int32), "k": 4}], [1, 3])
    assert made["n"].dtype == np.int32 and made["n"].tolist() == [4, 11] and made["k"] == 3 and type(made["k"]) is int


def test_complex_numbers_have_a_mean_and_no_median() -> None:
    assert fedavg([[1 + 1j], [3j]], [1, 1]) == [0.5 + 2j]
    with pytest.raises(TypeError, match=r"state\[0\] is complex"):
        median([[1 + 1j], [3j]])


@pytest.mark.torch
def test_a_batch_norm_and_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    a, b = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    a(torch.randn(8, 2))
    for _ in range(3):
        b(torch.ones(8, 2))
    made = fedavg([a.state_dict(), b.state_dict()], [1, 1])
    assert made["num_batches_tracked"].dtype == torch.int64 and made["num_batches_tracked"].item() == 2
    torch.testing.assert_close(made["running_mean"], (a.running_mean + b.running_mean) / 2)
    torch.nn.BatchNorm1d(2).load_state_dict(made)
    half = [{"w": torch.full((3,), v, dtype=torch.bfloat16)} for v in (1.0, 2.0)]
    assert fedavg(half, [1, 1])["w"].dtype == torch.bfloat16 and fedavg(half, [1, 1])["w"][0].item() == 1.5


ONE = {"w": np.ones(2)}
BAD = {"w": np.array([1, np.nan])}


@pytest.mark.parametrize(("call", "complaint"), [
    (lambda: fedavg([], []), "no states"), (lambda: median([]), "no states"), (lambda: krum([], 0), "no states"),
    (lambda: fedavg([ONE], [1, 2]), "2 weights for 1 states"),
    (lambda: fedavg([ONE, ONE], [1, -2]), r"weights\[1\]=-2.0"), (lambda: fedavg([ONE], [float("nan")]), r"weights\[0\]=nan"),
    (lambda: fedavg([ONE], [float("inf")]), r"weights\[0\]=inf"), (lambda: fedavg([ONE, ONE], [0, 0]), "add up to 0"),
    (lambda: trimmed_mean([ONE, ONE], 1), "nothing would be left"), (lambda: trimmed_mean([ONE], 0.5), "cut=0.5"),
    (lambda: trimmed_mean([ONE], -1), "cut=-1"), (lambda: trimmed_mean([ONE], True), "cut=True"),
    (lambda: krum([ONE] * 4, 1), r"f=1: Krum bears 0 wrong ones of 4"), (lambda: krum([ONE] * 2), "Krum needs 3"),
    (lambda: krum([ONE] * 5, -1), "f=-1"), (lambda: multi_krum([ONE] * 5, 1, 6), "m=6"), (lambda: multi_krum([ONE] * 5, 1, 0), "m=0"),
    (lambda: fedavg([ONE], [1], on_nonfinite="x"), "on_nonfinite='x'"), (lambda: fedavg([ONE], [1], names=["a", "b"]), "2 names for 1"),
])
def test_what_is_refused(call: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.parametrize("rule", [lambda s, **k: fedavg(s, [1] * len(s), **k), median, trimmed_mean, krum, multi_krum])
def test_states_that_cannot_be_combined(rule: Any) -> None:
    with pytest.raises(StateMismatchError, match=r"state 1: state\['w'\] is float64\[3\], but of state 0 it is float64\[2\]"):
        rule([ONE, {"w": np.ones(3)}, ONE])
    with pytest.raises(NonFiniteError, match=r"client 'b': state\['w'\] holds NaN or infinity"):
        rule([ONE, BAD, ONE], names=["client 'a'", "client 'b'", "client 'c'"])
    assert rule([ONE, BAD, ONE, ONE], on_nonfinite="skip")["w"].tolist() == [1, 1]
    with pytest.raises(NonFiniteError, match="every state"):
        rule([BAD, BAD, BAD], on_nonfinite="skip")


def test_a_broken_state_without_weight_is_still_seen_and_sums_may_overflow() -> None:
    with pytest.raises(NonFiniteError, match="state 1"):
        fedavg([ONE, BAD], [1, 0])
    with pytest.raises(ValueError, match="add up to 0"):
        fedavg([BAD, ONE], [1, 0], on_nonfinite="skip")
    with pytest.raises(NonFiniteError, match="beyond what double precision"), np.errstate(over="ignore"):
        fedavg([{"w": np.array([1e308])}] * 2, [1, 1])
