"""What a trial's function may return, and which of two outcomes is the better."""

from __future__ import annotations

import datetime
import decimal
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.study.outcome import better, dominates, outcome, pareto

LOSS, BOTH = ("loss",), ("loss", "size")


@given(st.floats(allow_nan=False) | st.integers(-2**53, 2**53) | st.booleans())
def test_every_kind_of_one_number(value: Any) -> None:
    for form in (value, np.array(value), np.array([[value]]), np.asarray(value)[()], Fraction(value) if math.isfinite(value) else value):
        found = outcome(form, LOSS, {})
        assert found == ({"loss": float(value)}, {}) and type(found.values["loss"]) is float
        assert outcome({"loss": form}, LOSS, {}) == found
        assert outcome((form, 1), BOTH, {}) == ({"loss": float(value), "size": 1.0}, {})


@pytest.mark.torch
def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert outcome(torch.tensor([0.5], requires_grad=True), LOSS, {}).values == {"loss": 0.5}
    assert outcome(torch.tensor(True), LOSS, {}).values == {"loss": 1.0}
    assert outcome(torch.tensor([0.5, 3.0]), BOTH, {}).values == {"loss": 0.5, "size": 3.0}
    assert outcome([torch.tensor(0.5), np.int64(3)], BOTH, {}).values == {"loss": 0.5, "size": 3.0}
    for bad, says in [(torch.zeros(2), "objective 'loss' is a Tensor of shape (2,), not one number"),
                      (torch.tensor(1j), "'loss' is a complex")]:
        with pytest.raises(ValueError) as caught:
            outcome(bad, LOSS, {})
        assert says in str(caught.value)


def test_several_objectives_and_metrics() -> None:
    assert outcome({"size": 3, "loss": 1, "accuracy": np.float32(0.5), "f1": math.nan, "ok": True}, BOTH, {"loss": 9.0}).values == {
        "loss": 1.0, "size": 3.0}
    found = outcome({"size": 3, "loss": 1, "accuracy": np.float32(0.5), "f1": math.nan}, BOTH, {})
    assert list(found.values) == ["loss", "size"] and found.metrics["accuracy"] == 0.5 and math.isnan(found.metrics["f1"])
    assert outcome(np.array([1, 2]), BOTH, {}).values == outcome([1, 2], BOTH, {}).values == {"loss": 1.0, "size": 2.0}
    assert outcome(None, BOTH, {"size": 3.0, "other": 1.0, "loss": math.inf}) == ({"loss": math.inf, "size": 3.0}, {})


@pytest.mark.parametrize(("returned", "objectives", "says"), [
    ("0.3", LOSS, "objective 'loss' is a str ('0.3'), not a number"), (b"1", LOSS, "'loss' is a bytes"), (1j, LOSS, "a complex (1j)"),
    (math.nan, LOSS, "objective 'loss' is NaN"), (np.float32("nan"), LOSS, "objective 'loss' is NaN"),
    ({"loss": 1, "size": math.nan}, BOTH, "objective 'size' is NaN"), ((1, math.nan), BOTH, "objective 'size' is NaN"),
    (object(), LOSS, "'loss' is an object, not a number"), (lambda: 1, LOSS, "a function"), (decimal.Decimal(1), LOSS, "a Decimal"),
    ([0.3], LOSS, "'loss' is a list, not a number"), (np.zeros(2), LOSS, "'loss' is a ndarray of shape (2,)"),
    (np.array(["a"]), LOSS, "is a str"), (np.datetime64("2020-01-01"), LOSS, "is a date"), (datetime.timedelta(1), LOSS, "timedelta"),
    (10**400, LOSS, "'loss' is a whole number too large for a float"), (np.array([]), LOSS, "of shape (0,)"),
    ({"los": 1}, LOSS, "returned a dict without objective 'loss'; it has 'los'"), ({}, BOTH, "objective 'loss', 'size'; it is empty"),
    ({"loss": 1}, BOTH, "without objective 'size'"), ({"loss": None}, LOSS, "objective 'loss' is a NoneType"),
    ({"loss": 1, "note": "good"}, LOSS, "metric 'note' is a str ('good')"), ({"loss": 1, 2: 3}, LOSS, "key 2 is no name"),
    (0.3, BOTH, "returned a float; there are 2 objectives: 'loss', 'size'"), ("ab", BOTH, "returned a str ('ab')"), ({1, 2}, BOTH, "a set"),
    (np.array(1.0), BOTH, "returned a ndarray, which is one number"), ((1, 2, 3), BOTH, "returned 3 numbers; there are 2"),
    ((), BOTH, "0 numbers"),
    ((1, "2"), BOTH, "objective 'size' is a str ('2')"), (((1, 2), 3), BOTH, "'loss' is a tuple"),
    (None, BOTH, "the objective returned None and never reported 'size'"),
])
def test_what_is_no_outcome_and_why(returned: Any, objectives: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        outcome(returned, objectives, {"loss": 0.5})
    assert says in str(caught.value)


def test_the_last_reported_value_may_not_be_nan() -> None:
    with pytest.raises(ValueError, match="objective 'loss' is NaN"):
        outcome(None, LOSS, {"loss": math.nan})


number = st.sampled_from([-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf, math.nan])
ways = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3).map(tuple)


@given(number, number, st.sampled_from(["minimize", "maximize"]))
def test_better_is_an_order_with_nan_last(a: float, b: float, way: str) -> None:
    rank = sorted([-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf], reverse=way == "maximize")
    place = [len(rank) if math.isnan(v) else rank.index(v) for v in (a, b)]
    assert better(a, b, way) == (place[0] < place[1])


@given(ways, st.data())
def test_the_front_is_what_nobody_dominates(directions: tuple[str, ...], data: Any) -> None:
    """Against numpy on ranks, every pair."""
    points = data.draw(st.lists(st.tuples(*[number] * len(directions)), max_size=12))
    signs = np.array([1 if d == "minimize" else -1 for d in directions])
    ranks = np.array(points).reshape(len(points), len(directions)) * signs
    ranks = np.where(np.isnan(ranks), 10.0, np.clip(ranks, -5, 5))
    beats = (ranks[:, None] <= ranks[None]).all(-1) & (ranks[:, None] < ranks[None]).any(-1)
    assert pareto(points, directions) == tuple(np.flatnonzero(~beats.any(0)))
    assert all(dominates(points[i], points[j], directions) == beats[i, j] for i in range(len(points)) for j in range(len(points)))
