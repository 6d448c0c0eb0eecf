"""What is decided before and between rounds: who takes part, how many must answer, which rule aggregates, where a run stands. Pure but for
the checkpoint's file."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soma.filters.seeds import derived
from soma.store.checkpoint import read_states, write_states
from soma.train.aggregation import fedavg, krum, median, multi_krum, trimmed_mean
from soma.train.aggregator import Aggregation
from soma.train.servers import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerOptimizer

RULES: dict[str, Aggregation] = {"fedavg": fedavg, "median": median, "trimmed_mean": trimmed_mean, "krum": krum, "multi_krum": multi_krum}
OPTIMIZERS: dict[str, type[ServerOptimizer]] = {"fedavgm": FedAvgM, "fedadagrad": FedAdagrad, "fedadam": FedAdam, "fedyogi": FedYogi}


def aggregation_of(given: str | Aggregation, optimizer: ServerOptimizer | None, mu: float) -> tuple[Aggregation, ServerOptimizer | None]:
    """The rule and the server's optimizer that `aggregation=` and `server_optimizer=` stand for."""
    if optimizer is not None and not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"server_optimizer={optimizer!r:.80}: an object with step(delta, memory), e.g. soma.train.FedAdam()")
    if not isinstance(given, str):
        if not callable(given):
            raise TypeError(f"aggregation={given!r:.80}: a name, or a function of states")
        return given, optimizer
    if given == "fedprox":
        if not mu:
            raise ValueError("aggregation='fedprox' wants mu=, e.g. mu=0.1; with mu=0 it is FedAvg")
        return fedavg, optimizer
    if given in OPTIMIZERS:
        if optimizer is not None:
            raise ValueError(f"aggregation={given!r} is a server optimizer already; give server_optimizer={optimizer!r} with 'fedavg'")
        return fedavg, OPTIMIZERS[given]()
    if given not in RULES:
        raise ValueError(f"aggregation={given!r}: one of {', '.join(map(repr, (*RULES, 'fedprox', *OPTIMIZERS)))}, or a function")
    return RULES[given], optimizer


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who takes part when; see `Federated`."""

    names: tuple[str, ...]
    rounds: int
    fraction: float | None = None
    clients_per_round: int | None = None
    deadline: float | None = None
    quorum: float = 0.5
    max_failures: int | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        n = len(self.names)
        if not n:
            raise ValueError("clients: at least one")
        if len(set(self.names)) < n:
            raise ValueError(f"clients: two are called {next(x for x in self.names if self.names.count(x) > 1)!r}")
        if self.fraction is not None and self.clients_per_round is not None:
            raise ValueError("fraction and clients_per_round say the same; give one")
        if self.fraction is not None and not (_number(self.fraction) and 0 < self.fraction <= 1):
            raise ValueError(f"fraction={self.fraction!r}: above 0, up to 1")
        for name, most in (("rounds", None), ("clients_per_round", n), ("max_failures", None)):
            value = getattr(self, name)
            if value is None and name != "rounds":
                continue
            if type(value) is not int or not 1 <= value <= (most or value):
                raise ValueError(f"{name}={value!r}: a whole number from 1" + (f" to {most}, the number of clients" if most else ""))
        if self.deadline is not None and not (_number(self.deadline) and self.deadline > 0):
            raise ValueError(f"deadline={self.deadline!r}: seconds above 0, or None")
        if type(self.quorum) is int and not 1 <= self.quorum <= self.chosen:
            raise ValueError(f"quorum={self.quorum!r}: from 1 to {self.chosen}, the clients of a round; or a share of them, up to 1.0")
        if type(self.quorum) is not int and not (_number(self.quorum) and 0 < self.quorum <= 1):
            raise ValueError(f"quorum={self.quorum!r}: a whole number of clients, or a share of them above 0")
        if self.seed is not None and (type(self.seed) is not int):
            raise ValueError(f"seed={self.seed!r}: a whole number, or None")

    @property
    def chosen(self) -> int:
        """How many take part in a round."""
        n = len(self.names)
        return self.clients_per_round or max(1, round((self.fraction or 1.0) * n))

    def sample(self, number: int, failures: Mapping[str, int]) -> tuple[str, ...]:
        """The clients of a round, in the order given; the same for the same seed, round and failures."""
        able = [n for n in self.names if self.max_failures is None or failures.get(n, 0) < self.max_failures]
        draw = random.Random(None if self.seed is None else derived(self.seed, f"clients of round {number}"))
        picked = set(draw.sample(range(len(able)), min(self.chosen, len(able))))
        return tuple(name for i, name in enumerate(able) if i in picked)

    def needed(self, many: int) -> int:
        """How many of `many` clients must give an update."""
        return self.quorum if isinstance(self.quorum, int) else max(1, math.ceil(self.quorum * many - 1e-9))


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round came to.

    Attributes:
        samples: of each client whose update counted.
        left_out: why each of the others did not, by name.
        metrics: what clients gave, averaged over their samples, and what `evaluate` gave.
    """

    round: int
    samples: dict[str, float]
    left_out: dict[str, str]
    metrics: dict[str, float]
    seconds: float

    @property
    def clients(self) -> tuple[str, ...]:
        return tuple(self.samples)


@dataclass(slots=True)
class Progress:
    """Where a run stands between two rounds."""

    history: list[RoundResult] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    """How often in a row each client was left out."""
    state: Any = None
    memory: Any = None

    def add(self, done: RoundResult, state: Any) -> None:
        self.history.append(done)
        self.state = state
        for name in done.left_out:
            self.failures[name] = self.failures.get(name, 0) + 1
        for name in done.samples:
            self.failures.pop(name, None)

    def last_reasons(self) -> str:
        """Why each client was last left out."""
        reasons = {name: why for done in self.history for name, why in done.left_out.items()}
        return "; ".join(f"{name!r}: {why}" for name, why in reasons.items())

    def write(self, path: str | os.PathLike[str], plan: Plan) -> None:
        """The checkpoint; whole or not at all."""
        rounds = [[r.round, r.samples, r.left_out, r.metrics, r.seconds] for r in self.history]
        write_states({"state": self.state, "memory": self.memory, "failures": self.failures, "history": rounds, "seed": plan.seed,
                      "clients": list(plan.names)}, Path(path))

    @classmethod
    def resumed(cls, path: str | os.PathLike[str], plan: Plan) -> Progress:
        """What a checkpoint holds; nothing, if there is none.

        Raises:
            ValueError: it is of another training: other clients, or another seed.
            GraphError: it cannot be read.
        """
        if not Path(path).exists():
            return cls()
        held = read_states(Path(path))
        if held.get("clients") != list(plan.names) or held.get("seed") != plan.seed:
            raise ValueError(f"{os.fspath(path)} is the checkpoint of another training: its clients or its seed are others")
        return cls([RoundResult(*r) for r in held["history"]], held["failures"], held["state"], held["memory"])
