"""What the server does with a round's average: optimizers that take the way from the old state to it for a gradient.

    x ← x + lr · m / (√v + tau)        FedAdam, FedYogi, FedAdagrad: Reddi et al. 2021, arXiv:2003.00295, algorithm 2
    x ← x + lr · m                     FedAvgM: Hsu et al. 2019, arXiv:1909.06335

with Δ = average − x, element by element. As in the papers there is no correction of the bias, and v begins with tau². All of it in double
precision. Pure: what an optimizer remembers is given and returned. Integers, and what the caller excludes (running means of a BatchNorm
are no weights), become the average itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from soma.train.pytrees import Layout, numbers

Memory = Mapping[str, Mapping[str, Any]]
"""What an optimizer remembers of each leaf, by path and name."""


class ServerOptimizer(Protocol):
    """What `server_optimizer=` takes."""

    def step(self, delta: Any, memory: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """One leaf: what to add to it, and what to remember. `memory` is {} in the first round."""


def stepped(optimizer: ServerOptimizer, layout: Layout, average: Sequence[Any], memory: Memory,
            excluded: Collection[str] = ()) -> tuple[list[Any], dict[str, Mapping[str, Any]]]:
    """The new state, as flat arrays, from the layout's own and the round's average; and what to remember."""
    made, remembered = list(average), dict[str, Mapping[str, Any]]()
    for i, leaf in layout.averaged:
        if leaf.kind == "int" or leaf.path in excluded:
            continue
        old = numbers(leaf, leaf.value)
        change, remembered[leaf.path] = optimizer.step(average[i] - old, memory.get(leaf.path, {}))
        made[i] = old + change
    return made, remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM:
    """Momentum. `lr=1, momentum=0` is FedAvg."""

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check(self, above=("lr",), below_one=("momentum",))

    def step(self, delta: Any, memory: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        m = self.momentum * memory.get("m", 0.0) + delta
        return self.lr * m, {"m": m}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adaptive:
    """What the three have in common."""

    lr: float = 0.1
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check(self, above=("lr", "tau"), below_one=("beta1", "beta2"))

    def _second(self, v: Any, square: Any) -> Any:
        raise NotImplementedError

    def step(self, delta: Any, memory: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        m = self.beta1 * memory.get("m", 0.0) + (1 - self.beta1) * delta
        v = self._second(memory.get("v", self.tau**2), np.abs(delta) ** 2)
        return self.lr * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """v grows by Δ²."""

    beta1: float = 0.0

    def _second(self, v: Any, square: Any) -> Any:
        return v + square


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(_Adaptive):
    """v is a moving mean of Δ²."""

    beta2: float = 0.99

    def _second(self, v: Any, square: Any) -> Any:
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(_Adaptive):
    """v moves towards Δ² by steps that do not depend on how far it is away."""

    beta2: float = 0.99

    def _second(self, v: Any, square: Any) -> Any:
        return v - (1 - self.beta2) * square * np.sign(v - square)


def _check(optimizer: Any, above: Sequence[str], below_one: Sequence[str]) -> None:
    for name in above:
        value = getattr(optimizer, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r}: a number above 0")
    for name in below_one:
        value = getattr(optimizer, name, 0.0)
        if not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise ValueError(f"{name}={value!r}: a number from 0 to below 1")
