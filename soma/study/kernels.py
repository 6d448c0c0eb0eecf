"""optuna's Gaussian process, with what it remembers from trial to trial written to the trials.

A fit of the process begins where the last trial's ended: one that begins anew often ends where all differences are noise, and finds less.
optuna's sampler remembers that as long as it lives. A study that is interrupted has to go on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

KERNELS = "soma:kernels"
"""System attribute of a trial: of each objective, and of each constraint, what was fitted: one over the squares of the length scales, the
kernel's scale, and the variance of the noise."""


class KernelSampler(GPSampler):
    """See the module."""

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        told = [trial.system_attrs[KERNELS] for trial in study.get_trials(deepcopy=False) if KERNELS in trial.system_attrs]
        known: Mapping[str, Any] = told[-1] if told else {}
        self._gprs_cache_list = _begun(known.get("objectives", ()), len(search_space))
        self._constraints_gprs_cache_list = _begun(known.get("constraints", ()), len(search_space))
        params: dict[str, Any] = super().sample_relative(study, trial, search_space)
        if params:
            fitted = {"objectives": _plain(self._gprs_cache_list), "constraints": _plain(self._constraints_gprs_cache_list)}
            study._storage.set_trial_system_attr(trial._trial_id, KERNELS, fitted)
        return params


def _begun(known: Sequence[Mapping[str, Any]], dimensions: int) -> list[Any] | None:
    """What optuna begins with; None if nothing is known of so many dimensions."""
    import torch

    if not known or len(known[0]["lengths"]) != dimensions:
        return None
    return [SimpleNamespace(inverse_squared_lengthscales=torch.tensor(of["lengths"], dtype=torch.float64),
                            kernel_scale=torch.tensor(of["scale"], dtype=torch.float64),
                            noise_var=torch.tensor(of["noise"], dtype=torch.float64)) for of in known]


def _plain(fitted: Sequence[Any] | None) -> list[dict[str, Any]]:
    return [{"lengths": of.inverse_squared_lengthscales.tolist(), "scale": of.kernel_scale.item(), "noise": of.noise_var.item()}
            for of in fitted or ()]
