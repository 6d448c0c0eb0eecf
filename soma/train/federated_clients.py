"""What a client does in a round, in a process of its own: goes on from the global state, on its own data.

A learner says how: a torch module by epochs of gradient steps, a filter by its `fit(x, y, state)` or `partial_fit(x, y, state)`, a function
of the user's in whatever way it likes. Everything begins anew in each round but the state: optimizers too, as in McMahan et al.
Refuses, where it is built: a model that cannot go on from a state, and settings that would do nothing.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from soma import cluster
from soma.filters import ModuleFilter, Training, filter, kind_of, mismatch, options_of, rows_of, title_of
from soma.filters.composite import Composite, Member
from soma.filters.options import learns_in_batches
from soma.filters.reporting import SINK
from soma.filters.rows import batches
from soma.filters.seeds import derived, seeded
from soma.filters.wiring import MARK

Learnt = tuple[Any, float, Mapping[str, float]]
"""The new state, how many samples it stands for, and metrics."""


@dataclass(frozen=True, slots=True)
class Task:
    """One client in one round."""

    client: str
    round: int
    seed: int | None


class Learner(Protocol):
    """How a client learns."""

    def learn(self, task: Task, state: Any, *data: Any) -> Learnt: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """How clients train; None leaves it to the model.

    Attributes:
        epochs, batch_size, shuffle: of torch modules, and of filters with `partial_fit` (which never shuffle).
        loss_fn, optimizer: of torch modules; see `soma.filter`.
        mu: weight of FedProx's proximal term, mu/2 · ‖w − w_global‖², added to every loss.
    """

    epochs: int | None = None
    batch_size: int | None = None
    shuffle: bool | None = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    optimizer: Callable[[Any], Any] | None = None
    mu: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{'local_' * (name == 'epochs')}{name}={value!r}: a whole number from 1")
        if isinstance(self.mu, bool) or not isinstance(self.mu, (int, float)) or not math.isfinite(self.mu) or self.mu < 0:
            raise ValueError(f"mu={self.mu!r}: a number from 0")

    def unused(self, *allowed: str) -> list[str]:
        """What was set besides these."""
        return [name for name in ("epochs", "batch_size", "shuffle", "loss_fn", "optimizer") if getattr(self, name) is not None
                and name not in allowed]


# -- torch modules -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModuleLearner:
    """A torch module: `epochs` over the client's rows."""

    filter: ModuleFilter
    training: Training

    @classmethod
    def of(cls, model: ModuleFilter, local: Local) -> ModuleLearner:
        own = model.training
        chosen = {"loss_fn": local.loss_fn, "optimizer": local.optimizer, "epochs": local.epochs, "batch_size": local.batch_size,
                  "shuffle": local.shuffle}
        training = replace(own, **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]
        if local.mu:
            training = replace(training, optimizer=Proximal(training.optimizer, local.mu))
        return cls(ModuleFilter(model.module, model.args, model.kwargs, options=options_of(model), training=training), training)

    def learn(self, task: Task, state: Any, *data: Any) -> Learnt:
        x, y = pair(data)
        group = Composite([Member(task.client, self.filter, ())])
        group.load({task.client: state})
        loss = group.train({"": x}, y, self.training, task.seed)
        return group.states()[task.client], rows(task.client, x), {"loss": loss}


@dataclass(frozen=True, slots=True)
class Proximal:
    """Makes optimizers that also step along the gradient of mu/2 · ‖w − w₀‖², w₀ being the weights when it is made (Li et al. 2020,
    FedProx, arXiv:1812.06127)."""

    make: Callable[[Any], Any] | None
    mu: float

    def __call__(self, parameters: Any) -> Any:
        import torch

        weights = list(parameters)
        return _Pulled((self.make or torch.optim.Adam)(weights), weights, self.mu)


class _Pulled:
    def __init__(self, inner: Any, weights: list[Any], mu: float) -> None:
        self._inner, self._weights, self._mu = inner, weights, mu
        self._start = [w.detach().clone() for w in weights]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._inner.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for w, start in zip(self._weights, self._start, strict=True):
            if w.grad is not None:
                w.grad.add_(w.detach() - start, alpha=self._mu)
        self._inner.step()


# -- filters and functions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FitLearner:
    """A filter whose `fit(x, y, state)` goes on from a state; of one that takes none, a single round."""

    filter: Any
    mu: float

    def learn(self, task: Task, state: Any, *data: Any) -> Learnt:
        x, y = pair(data)
        given = {} if state is None else {"state": state}
        if self.mu:
            given["mu"] = self.mu
        return self.filter.fit(x, y, **given), rows(task.client, x), {}


@dataclass(frozen=True, slots=True)
class BatchLearner:
    """A filter that goes on by `partial_fit(x, y, state)`."""

    filter: Any
    epochs: int
    batch_size: int | None

    def learn(self, task: Task, state: Any, *data: Any) -> Learnt:
        x, y = pair(data)
        count = rows(task.client, x)
        whole = self.filter.with_all_targets(y) if hasattr(self.filter, "with_all_targets") else self.filter
        state = {} if state is None else state
        for _ in range(self.epochs):
            for part, targets in batches(self.batch_size or int(count), x, y):
                state = whole.partial_fit(part, targets, state)
        return state, count, {}


@dataclass(frozen=True, slots=True)
class FunctionLearner:
    """A function `client(state, round) -> (state, samples[, metrics])`; it also gets `mu` and `seed` if it has such parameters."""

    function: Callable[..., Any]
    extra: Mapping[str, Any]
    takes_seed: bool

    def learn(self, task: Task, state: Any, *data: Any) -> Learnt:
        seed = {"seed": task.seed} if self.takes_seed else {}
        given = self.function(state, task.round, **self.extra, **seed)
        if not isinstance(given, tuple) or len(given) not in (2, 3):
            raise TypeError(f"client {task.client!r} returned {type(given).__name__}; a client returns (state, samples) or "
                            "(state, samples, metrics)")
        return given[0], given[1], given[2] if len(given) == 3 else {}


def learner_of(model: Any, local: Local, rounds: int) -> Learner:
    """How the clients of a model learn.

    Raises:
        TypeError: the model cannot go on from a state; or a setting would do nothing.
    """
    model = model if hasattr(type(model), MARK) else filter(model)
    if isinstance(model, ModuleFilter):
        return ModuleLearner.of(model, local)
    if not hasattr(type(model), MARK):
        raise TypeError(f"model: a torch module or a filter, got {model!r:.80}: give an object, not its class")
    fit = inspect.signature(model.fit).parameters
    title = title_of(model)
    if kind_of(model) == "stateless":
        raise TypeError(f"{title} learns nothing: there is nothing to train")
    if "state" in fit or (rounds == 1 and not learns_in_batches(model)):
        _check_unused(local, title, "its fit decides how it trains")
        if local.mu and "mu" not in fit:
            raise TypeError(f"mu={local.mu}: the fit of {title} takes no mu; for torch modules soma adds the proximal term itself")
        return FitLearner(model, local.mu)
    if learns_in_batches(model):
        _check_unused(local, title, "it has neither", "epochs", "batch_size")
        if local.mu:
            raise TypeError(f"mu={local.mu}: partial_fit of {title} does not know the global state; define fit(self, x, y, state, mu)")
        return BatchLearner(model, local.epochs or 1, local.batch_size)
    raise TypeError(f"{title} cannot go on from a state, so each round would begin anew: define partial_fit(self, x, y, state), or "
                    "give its fit a parameter `state` (or rounds=1)")


def function_learner(name: str, client: Callable[..., Any], local: Local) -> FunctionLearner:
    _check_unused(local, f"client {name!r}", "a function decides how it trains")
    parameters = inspect.signature(client).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        inspect.signature(client).bind(None, 0, **{k: None for k in ("mu", "seed") if k in parameters})
    except TypeError as e:
        raise TypeError(f"client {name!r} must be callable as client(state, round): {e}") from None
    if local.mu and not (anything or "mu" in parameters):
        raise TypeError(f"mu={local.mu}: client {name!r} is a function and takes no mu: client(state, round, mu)")
    return FunctionLearner(client, {"mu": local.mu} if anything or "mu" in parameters else {}, anything or "seed" in parameters)


def _check_unused(local: Local, title: str, why: str, *allowed: str) -> None:
    if unused := local.unused(*allowed):
        name = "local_epochs" if unused[0] == "epochs" else unused[0]
        raise TypeError(f"{name}= does nothing for {title}: {why}")


def pair(data: tuple[Any, ...]) -> tuple[Any, Any]:
    """X and y of a client; a single ref may stand for both."""
    if len(data) == 1 and isinstance(data[0], tuple) and len(data[0]) == 2:
        return data[0]
    return (data[0], None) if len(data) == 1 else (data[0], data[1])


def rows(client: str, x: Any) -> float:
    count = rows_of(x)
    if not count:
        raise ValueError(f"client {client!r} has " + ("no rows" if count == 0 else f"data without rows: {type(x).__name__}"))
    return float(count)


# -- the process ---------------------------------------------------------------------------------------------------------------


class ClientHost:
    """A process in which clients learn, one after the other. It keeps nothing between calls."""

    def ready(self, *learners: Any) -> int:
        """Has everything imported that these need."""
        return os.getpid()

    def learn(self, task: Task, learner: Learner, state: Any, *data: Any) -> tuple[Any, tuple[float, dict[str, float]]]:
        """A client's update, and beside it what is small: its samples and metrics."""
        token = SINK.set(lambda fields: cluster.tell({**fields, "node": task.client}) if fields["kind"] == "MetricReported" else None)
        try:
            if not isinstance(learner, FunctionLearner) and (problem := mismatch(*pair(data))):
                raise ValueError(f"client {task.client!r} has {problem}")
            with seeded(None if task.seed is None else derived(task.seed, f"{task.client}/{task.round}")):
                made, samples, metrics = learner.learn(task, state, *data)
        finally:
            SINK.reset(token)
        return made, (_samples(task.client, samples), _metrics(task.client, metrics))


class TorchClientHost(ClientHost):
    """For clients that train modules."""

    __soma_preload__ = ("torch._dynamo",)  # what the first optimizer of a process imports, for a second


def _samples(client: str, samples: Any) -> float:
    try:
        number = float(samples)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"client {client!r} gave {samples!r:.60} for its number of samples: a number above 0")
    return number


def _metrics(client: str, metrics: Any) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in dict(metrics).items()}
    except (TypeError, ValueError):
        raise TypeError(f"client {client!r} gave {metrics!r:.80} for its metrics: a dict of numbers") from None
