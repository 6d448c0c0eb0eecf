"""`SearchCV`: scikit-learn's search with a study's spaces and samplers, its fits on the cluster if there is one.

A batch of candidates, as many as fit at once, is drawn; all folds of all of them are one `joblib.Parallel`; their mean scores go back to
the sampler, which draws the next. Everything else is scikit-learn's: `cv_results_`, `best_params_`, refitting, scoring, routing.
Invariants: the same `random_state` gives the same candidates for the same `n_jobs` (which decides how many are drawn before the first
score is known). What a user configured by `joblib.parallel_config` is respected.
This module imports scikit-learn, and `import soma.study` does not import it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval

from soma.cluster import is_initialized
from soma.study.space import Space

Evaluate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


class SearchCV(BaseSearchCV):
    """Search for an estimator's best parameters by cross-validation.

    Args:
        estimator: scikit-learn's, or what behaves like one.
        space: of its parameters (`clf__C` for a step of a pipeline), as a `soma.Study` takes it; some may exist only for some choices.
        cv: folds, or a splitter.
        n_trials: candidates; a grid goes through all its cells instead.
        sampler: "tpe", "random", "grid", "gp", "cmaes", "qmc", "nsgaii", or one of optuna's, which is copied.
        scoring: as in scikit-learn; larger is better. Of several metrics the sampler looks at the one named by `refit`, else the first.
        refit: fit the best again on all rows. With several metrics: the name of the one that decides.
        n_jobs: fits at once. None is 1, and all CPUs of the cluster where one is running.
        random_state: of the sampler; that of the estimator and of the splitter is theirs.
        error_score: of a fit that raises; "raise" passes the exception on.
        return_train_score: also score the rows that were trained on.
        verbose, pre_dispatch: as in scikit-learn.

    Attributes:
        study_: the `optuna.Study` of the search, for optuna's plots and importances; a grid has none.
        cv_results_, best_params_, best_score_, best_index_, best_estimator_, refit_time_, scorer_, n_splits_, multimetric_: as in
            scikit-learn. A candidate whose fits failed in every fold is only in `cv_results_` if others of its batch did not.
    """

    _parameter_constraints: dict[str, Any] = {
        **BaseSearchCV._parameter_constraints,
        "space": [dict, list, tuple, Space],
        "n_trials": [Interval(numbers.Integral, 1, None, closed="left")],
        "sampler": [str, HasMethods(["sample_relative", "sample_independent"])],
        "random_state": ["random_state"],
    }

    study_: Any

    def __init__(self, estimator: Any, space: Any, *, cv: Any = 5, n_trials: int = 20, sampler: Any = "tpe", scoring: Any = None,
                 refit: Any = True, n_jobs: int | None = None, random_state: Any = None, error_score: Any = np.nan,
                 return_train_score: bool = False, verbose: int = 0, pre_dispatch: Any = "2*n_jobs") -> None:
        super().__init__(estimator=estimator, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
                         pre_dispatch=pre_dispatch, error_score=error_score, return_train_score=return_train_score)
        self.space = space
        self.n_trials = n_trials
        self.sampler = sampler
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, **params: Any) -> SearchCV:
        """Search, then fit the best again on all rows. `params` are passed on as scikit-learn's own searches do."""
        with _on_cluster():
            super().fit(X, y, **params)
        return self

    def _run_search(self, evaluate_candidates: Evaluate) -> None:
        if hasattr(self, "study_"):
            del self.study_  # of an earlier fit: `self` travels with each task
        space = Space.of(self.space)
        if self.sampler == "grid":
            from soma.study.grid import cells

            evaluate_candidates([dict(cell) for cell in cells(space)])
            return
        self.study_ = self._searched(space, evaluate_candidates)

    def _searched(self, space: Space, evaluate: Evaluate) -> Any:
        from optuna.samplers import BaseSampler
        from optuna.storages import InMemoryStorage
        from optuna.trial import TrialState

        from soma.study.sampling import drawn, sampler_of
        from soma.study.storing import load, open_study, silent

        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        sampler = copy.deepcopy(self.sampler) if isinstance(self.sampler, BaseSampler) else sampler_of(self.sampler, seed, _no_cell, {})
        storage = InMemoryStorage()
        study = open_study("search", storage, ("maximize",), sampler, None)
        at_once = max(1, math.ceil(joblib.effective_n_jobs(self.n_jobs) / self.n_splits_))
        done, failure = 0, None
        for start in range(0, self.n_trials, at_once):
            with silent():
                trials = [study.ask() for _ in range(min(at_once, self.n_trials - start))]
                candidates = [drawn(space, trial) for trial in trials]
            scores: Sequence[float] = [math.nan] * len(trials)
            try:
                results = evaluate(candidates)
            except ValueError as error:
                if self.error_score == "raise" or not _all_failed(error):
                    raise
                failure = error
                warnings.warn(f"every fit failed with {candidates}: not in cv_results_. {error}", FitFailedWarning, stacklevel=2)
            else:
                scores, done = self._metric(results)[done:], len(results["params"])
            for trial, score in zip(trials, scores, strict=True):
                known = math.isfinite(score)
                study.tell(trial, float(score) if known else None, TrialState.COMPLETE if known else TrialState.FAIL)
        if failure is not None and not done:
            raise failure
        return load("search", storage)  # without the sampler: can be pickled

    def _metric(self, results: Mapping[str, Any]) -> Sequence[float]:
        """What the sampler is told: the mean over the folds of the metric that decides."""
        names = [key for key in results if key.startswith("mean_test_")]
        wanted = f"mean_test_{self.refit}" if isinstance(self.refit, str) else "mean_test_score"
        scores: Sequence[float] = results[wanted if wanted in names else names[0]]
        return scores


def _no_cell(number: int) -> dict[str, Any]:
    raise AssertionError(f"cell {number}: a grid is not sampled")


def _all_failed(error: ValueError) -> bool:
    """scikit-learn's own word for it: it has no class of its own."""
    return "fits failed." in str(error) and str(error).lstrip().startswith("All the")


@contextlib.contextmanager
def _on_cluster() -> Iterator[None]:
    """Inside, joblib runs on the cluster, if there is one and the user has not said where to run."""
    first, again = (joblib.parallel.get_active_backend()[0] for _ in range(2))
    if first is again or not is_initialized():  # the default one is made anew for each who asks
        yield
        return
    from soma.util.joblib import SomaBackend

    with joblib.parallel_config(backend=SomaBackend()):
        yield
