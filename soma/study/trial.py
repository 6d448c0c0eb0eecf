"""`Trial`: what an objective is given. The same class in a worker's process and in the driver's."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class TrialPruned(Exception):
    """Raised by an objective that ends because `trial.should_prune()`; optuna's exception of that name is understood too."""


class Channel(Protocol):
    """The way from a trial to the study."""

    def report(self, name: str, value: float, step: int) -> None:
        """Hand on one value."""

    def verdict(self, reports: int) -> bool:
        """Whether the trial is to be pruned, judged by its first so many reports. May wait for the answer."""

    def note(self, name: str, value: Any) -> None:
        """Keep plain data with the trial."""


class Trial(Mapping[str, Any]):
    """One set of parameters that is tried.

        def objective(trial):
            model = fit(lr=trial["lr"])
            for epoch in range(10):
                trial.report("loss", model.step(), epoch)
                if trial.should_prune():
                    raise soma.study.TrialPruned
            return model.loss

    Attributes:
        number: 0, 1, 2, … in the study.
        params: the parameters by name; `trial["lr"]` is short for `trial.params["lr"]`.
        seed: for this trial's random numbers. `random`, numpy's and torch's own generators are set by it before the objective is called.
        attempt: 0; or how often this set was begun before, by processes that died.
    """

    def __init__(self, number: int, params: Mapping[str, Any], seed: int, channel: Channel, *, judged: str | None = None,
                 attempt: int = 0) -> None:
        self.number, self.params, self.seed, self.attempt = number, dict(params), seed, attempt
        self._channel = channel
        self._judged = judged
        self._steps: dict[str, int] = {}
        self._reports = 0

    def __getitem__(self, name: str) -> Any:
        try:
            return self.params[name]
        except KeyError:
            raise KeyError(f"trial {self.number} has no parameter {name!r}; it has {', '.join(map(repr, self.params)) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __repr__(self) -> str:
        return f"Trial({self.number}, {', '.join(f'{k}={v!r}' for k, v in self.params.items())})"

    def report(self, name: str, value: float, step: int | None = None) -> None:
        """Tell the study how it goes: it is recorded, drawn, and judged by the pruner if it is the first objective.

        Args:
            name: "loss"; an objective's name, or any other.
            value: a number; NaN and infinity too.
            step: 0, 1, 2, …: an epoch, say. By default one more than the last of that name. Each step once: a second value for it is an
                error.

        Raises:
            TypeError, ValueError: something else than that.
        """
        complex_one = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
        if isinstance(value, bool) or complex_one or not isinstance(value, numbers.Real) and not hasattr(value, "__float__"):
            raise TypeError(f"trial.report({name!r}, {value!r:.80}): a number, not {type(value).__name__}")
        last = self._steps.get(name, -1)
        if step is None:
            step = last + 1
        if isinstance(step, bool) or not isinstance(step, numbers.Integral) or step < 0:
            raise ValueError(f"trial.report({name!r}, step={step!r}): a whole number from 0")
        if step <= last:
            raise ValueError(f"trial.report({name!r}, step={step}): steps rise, and step {last} was reported already")
        self._steps[name] = int(step)
        self._reports += name == self._judged
        self._channel.report(name, float(value), int(step))

    def should_prune(self) -> bool:
        """Whether it is not worth going on, by what was reported so far. False where the study has no pruner."""
        return self._judged is not None and self._reports > 0 and self._channel.verdict(self._reports)

    def note(self, name: str, value: Any) -> None:
        """Keep something with the trial: plain data (text, numbers, lists and dicts of them), shown in tables and reports."""
        if not isinstance(name, str):
            raise TypeError(f"trial.note({name!r}, …): a name is text")
        if name.startswith("soma:"):
            raise ValueError(f"trial.note({name!r}, …): 'soma:' begins what a study keeps itself")
        self._channel.note(name, _plain(name, value))


def _plain(name: str, value: Any) -> Any:
    """As JSON can hold it."""
    match value:
        case None | bool() | str():
            return value
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return float(value) if math.isfinite(value) else str(float(value))
        case Mapping():
            return {str(k): _plain(name, v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(name, v) for v in value]
    raise TypeError(f"trial.note({name!r}, …): plain data, not {type(value).__name__}")
