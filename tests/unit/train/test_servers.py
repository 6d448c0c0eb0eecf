"""Server optimizers against the papers' formulas, written again in scalar Python; and what they leave alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.train.pytrees import Layout
from soma.train.servers import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerOptimizer, stepped

averages = st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=6)
"""What each round's clients would come to, whatever the state."""


def reference(kind: str, rounds: list[list[float]], lr: float, beta1: float, beta2: float, tau: float) -> list[float]:
    """Algorithm 2 of Reddi et al. 2021, one number at a time."""
    x, m, v = [0.0] * 3, [0.0] * 3, [tau**2] * 3
    for average in rounds:
        for i in range(3):
            delta = average[i] - x[i]
            m[i] = beta1 * m[i] + (1 - beta1) * delta
            if kind == "adagrad":
                v[i] = v[i] + delta**2
            elif kind == "adam":
                v[i] = beta2 * v[i] + (1 - beta2) * delta**2
            else:
                sign = (v[i] > delta**2) - (v[i] < delta**2)
                v[i] = v[i] - (1 - beta2) * delta**2 * sign
            x[i] = x[i] + lr * m[i] / (math.sqrt(v[i]) + tau)
    return x


def played(optimizer: ServerOptimizer, rounds: list[list[float]]) -> Any:
    state, memory = {"w": np.zeros(3)}, {}
    for average in rounds:
        flats, memory = stepped(optimizer, layout := Layout(state, "x"), [np.array(average)], memory)
        state = layout.made(flats)
    return state["w"]


@given(averages, st.floats(0.01, 1), st.floats(0, 0.95), st.floats(0, 0.99), st.floats(1e-4, 1))
def test_the_adaptive_three(rounds: list[list[float]], lr: float, beta1: float, beta2: float, tau: float) -> None:
    for kind, optimizer in (("adagrad", FedAdagrad(lr=lr, beta1=beta1, tau=tau)),
                            ("adam", FedAdam(lr=lr, beta1=beta1, beta2=beta2, tau=tau)),
                            ("yogi", FedYogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau))):
        np.testing.assert_allclose(played(optimizer, rounds), reference(kind, rounds, lr, beta1, beta2, tau), rtol=1e-9, atol=1e-9)


@given(averages, st.floats(0.01, 1), st.floats(0, 0.9))
def test_momentum(rounds: list[list[float]], lr: float, momentum: float) -> None:
    x, m = [0.0] * 3, [0.0] * 3
    for average in rounds:
        for i in range(3):
            m[i] = momentum * m[i] + average[i] - x[i]
            x[i] += lr * m[i]
    np.testing.assert_allclose(played(FedAvgM(lr=lr, momentum=momentum), rounds), x, rtol=1e-9, atol=1e-9)


def test_without_momentum_it_is_fedavg() -> None:
    assert played(FedAvgM(lr=1, momentum=0), [[1, 2, 3], [4, 5, 6.5]]).tolist() == [4, 5, 6.5]


def test_integers_fixed_leaves_and_what_is_excluded_become_the_average() -> None:
    state = {"w": np.zeros(2, np.float32), "mean": np.zeros(2), "n": 3, "how": "relu"}
    layout = Layout(state, "x")
    flats, memory = stepped(FedAdam(), layout, [np.ones(2), np.ones(2), np.array([5.0]), None], {}, ["state['mean']"])
    made = layout.made(flats)
    assert made["mean"].tolist() == [1, 1] and made["n"] == 5 and made["how"] == "relu" and made["w"].dtype == np.float32
    assert 0 < made["w"][0] < 1 and list(memory) == ["state['w']"]


@pytest.mark.parametrize(("make", "complaint"), [
    (lambda: FedAdam(lr=0), "lr=0"), (lambda: FedAdam(beta1=1), "beta1=1"), (lambda: FedYogi(beta2=-0.1), "beta2=-0.1"),
    (lambda: FedAdagrad(tau=0), "tau=0"), (lambda: FedAvgM(momentum=1), "momentum=1"), (lambda: FedAdam(lr=float("nan")), "lr=nan"),
])
def test_impossible_settings(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
