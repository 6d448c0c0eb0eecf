"""Which parameters come next: optuna's samplers by name, and the grid in the order that people expect.

Every trial draws from a seed of its own, made from the study's seed and the trial's number. So what a trial tries depends on the trials
before it and on nothing else: not on the process, nor on how often the study was interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from soma.errors import StudyError
from soma.filters import Search, derived
from soma.study.space import Space, decode, distribution_of
from soma.study.terms import CONFIG, told

SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes", "qmc", "nsgaii")


def sampler_of(name: Any, seed: int, cell: Callable[[int], Mapping[str, Any]], options: Mapping[str, Any]) -> BaseSampler:
    """The sampler of a study.

    Args:
        name: one of `SAMPLERS`, or a sampler of optuna's, which is taken as it is.
        seed: of the study.
        cell: of the grid: its parameters by its number, as optuna keeps them.
        options: further arguments of optuna's sampler.

    Raises:
        StudyError: an unknown name, an option that it does not have, or a package that it needs and that is not there.
    """
    if isinstance(name, BaseSampler):
        return name
    if name not in SAMPLERS:
        raise StudyError(f"sampler={name!r}: one of {', '.join(map(repr, SAMPLERS))}, or a sampler of optuna's")
    if name == "grid":
        return GridSampler(cell)
    make = _maker(name, seed, options)
    try:
        with quiet():
            make(seed)
    except (TypeError, ValueError) as e:
        raise StudyError(f"sampler={name!r}: {e}") from e
    except ImportError as e:
        raise StudyError(f"sampler={name!r} needs a package that is not installed: {e}") from e
    return SeededSampler(make, seed, reseed=name in ("tpe", "random"))


def _maker(name: str, of_study: int, options: Mapping[str, Any]) -> Callable[[int], BaseSampler]:
    """What makes the sampler of a trial from the trial's seed."""
    from optuna import samplers

    from soma.study.kernels import KernelSampler

    kind: Any = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler, "gp": KernelSampler, "cmaes": samplers.CmaEsSampler,
                 "qmc": samplers.QMCSampler, "nsgaii": samplers.NSGAIISampler}[name]
    silent = {"warn_independent_sampling": False} if name in ("gp", "cmaes", "qmc") else {}
    if name != "qmc":
        return lambda seed: kind(**{"seed": seed, **silent, **options})
    # A sequence makes sense only as a whole; what is not of it (choices, say) is drawn anew in each trial.
    return lambda seed: kind(**{"seed": of_study, "independent_sampler": samplers.RandomSampler(seed=seed),
                                "warn_asynchronous_seeding": False, **silent, **options})


class quiet(warnings.catch_warnings):  # used like a function
    """Inside, optuna does not say that something of it is experimental: whoever asks for it by name knows."""

    def __enter__(self) -> Any:
        log = super().__enter__()
        from optuna.exceptions import ExperimentalWarning

        warnings.simplefilter("ignore", ExperimentalWarning)
        return log


class SeededSampler(BaseSampler):
    """A fresh sampler for each trial, with that trial's seed.

    Two things only cost time and make no difference, and so are kept: which dimensions the trials so far have in common, and (`reseed`)
    a sampler that has no other state than that and its random numbers.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, reseed: bool) -> None:
        self._make, self._seed, self._reseed = make, seed, reseed
        self._now = self._made(-1)

    def _made(self, number: int) -> BaseSampler:
        with quiet():
            return self._make(derived(self._seed, f"trial/{number}"))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self._reseed:
            sampler: Any
            for sampler in (self._now, getattr(self._now, "_random_sampler", self._now)):
                sampler._rng.rng.seed(derived(self._seed, f"trial/{trial.number}"))
        else:
            before, self._now = self._now, self._made(trial.number)
            for name in ("_search_space", "_intersection_search_space"):
                if isinstance(known := getattr(before, name, None), IntersectionSearchSpace):
                    setattr(self._now, name, known)
        self._now.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._now.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._now.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._now.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._now.after_trial(study, trial, state, values)


class GridSampler(BaseSampler):
    """Cell after cell; which one is said by the trial's configuration number."""

    def __init__(self, cell: Callable[[int], Mapping[str, Any]]) -> None:
        self._cell = cell

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._cell(told(trial.user_attrs)[CONFIG])[param_name]


def drawn(space: Space, trial: Trial) -> dict[str, Any]:
    """The parameters of one of optuna's trials, asked for in order: each dimension that exists."""
    def pick(name: str, search: Search) -> Any:
        match distribution_of(search):
            case FloatDistribution() as d:
                return decode(search, trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log))
            case IntDistribution() as d:
                return decode(search, trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log))
            case d:
                return decode(search, trial.suggest_categorical(name, d.choices))

    return space.suggest(pick)
