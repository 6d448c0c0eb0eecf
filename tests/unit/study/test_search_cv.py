"""`SearchCV` behaves like scikit-learn's own searches, draws like a study, and runs on the cluster if there is one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from optuna.samplers import RandomSampler
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator

import soma
from soma.errors import SpaceError, StudyError
from soma.study.searching import SearchCV

X, Y = load_iris(return_X_y=True)
TREE = DecisionTreeClassifier(random_state=0)
SPACE = {"max_depth": {"type": "int", "low": 1, "high": 6}, "criterion": ["gini", "entropy"]}


def search(**changes: Any) -> SearchCV:
    return SearchCV(TREE, SPACE, **{"cv": 3, "n_trials": 6, "random_state": 0, **changes})


# -- scikit-learn's manners ------------------------------------------------------------------------------------------------------

EXCEPTED = {"check_supervised_y_2d": "a column as y is passed on to the estimator; scikit-learn excepts its own searches too"}
"""Checks of scikit-learn that do not apply, and why."""

HOW: dict[str, Any] = {"cv": 2, "n_trials": 1, "sampler": "random", "random_state": 0, "error_score": "raise"}


def checks() -> Iterator[Any]:
    """All for a regressor, those about classes for a classifier; not those for arrays of libraries that are not there."""
    regressor, classifier = SearchCV(Ridge(), {"alpha": (0.1, 1.0)}, **HOW), SearchCV(RidgeClassifier(), {"alpha": (0.1, 1.0)}, **HOW)
    for one, about in (regressor, ""), (classifier, "class"):
        for estimator, check in estimator_checks_generator(one):
            name = check.func.__name__
            if about in name and not name.startswith("check_array_api"):
                yield pytest.param(estimator, check, id=f"{type(one.estimator).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    if check.func.__name__ in EXCEPTED:
        pytest.skip(EXCEPTED[check.func.__name__])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_the_grid_gives_what_grid_search_gives() -> None:
    mine = search(sampler="grid", return_train_score=True).fit(X, Y)
    theirs = GridSearchCV(TREE, {"max_depth": [1, 2, 4, 5, 6], "criterion": ["gini", "entropy"]}, cv=3, return_train_score=True).fit(X, Y)

    def rows(found: Any) -> dict[tuple[Any, ...], list[float]]:
        keys = sorted(k for k in found.cv_results_ if "score" in k and "time" not in k)
        return {tuple(sorted(p.items())): [found.cv_results_[k][i] for k in keys] for i, p in enumerate(found.cv_results_["params"])}

    assert {p["max_depth"] for p in mine.cv_results_["params"]} == {1, 2, 4, 5, 6}
    assert rows(mine) == rows(theirs) and mine.best_score_ == theirs.best_score_
    assert set(mine.cv_results_) == set(theirs.cv_results_) and not hasattr(mine, "study_")


def test_what_is_found() -> None:
    found = search(n_jobs=1).fit(X, Y)
    params = found.cv_results_["params"]
    assert len(params) == 6 and found.n_splits_ == 3 and found.best_params_ == params[found.best_index_]
    assert all(1 <= p["max_depth"] <= 6 and type(p["max_depth"]) is int and p["criterion"] in ("gini", "entropy") for p in params)
    expected = [cross_val_score(clone(TREE).set_params(**p), X, Y, cv=3).mean() for p in params]
    assert np.allclose(found.cv_results_["mean_test_score"], expected) and np.isclose(found.best_score_, max(expected))
    best = clone(TREE).set_params(**found.best_params_).fit(X, Y)
    assert np.array_equal(found.predict(X), best.predict(X)) and found.score(X, Y) == best.score(X, Y)
    assert [t.value for t in found.study_.trials] == list(found.cv_results_["mean_test_score"])
    assert np.array_equal(pickle.loads(pickle.dumps(found)).predict(X), best.predict(X))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", RandomSampler(seed=3)], ids=str)
def test_the_same_seed_draws_the_same(sampler: Any) -> None:
    first, again = (search(sampler=sampler, n_trials=4).fit(X, Y) for _ in range(2))
    assert first.cv_results_["params"] == again.cv_results_["params"]
    assert first.fit(X, Y).cv_results_["params"] == again.cv_results_["params"], "fitted twice"


def test_seeds_differ() -> None:
    assert len({str(search(sampler="random", random_state=n).fit(X, Y).cv_results_["params"]) for n in range(3)}) == 3


def test_dimensions_that_exist_only_for_some_choices() -> None:
    space = {"splitter": ["best", "random"], "max_depth": {"type": "int", "low": 1, "high": 5, "when": {"splitter": "random"}}}
    found = SearchCV(TREE, space, cv=2, n_trials=8, sampler="random", random_state=1).fit(X, Y)
    assert {p["splitter"] for p in found.cv_results_["params"]} == {"best", "random"}
    assert all(("max_depth" in p) == (p["splitter"] == "random") for p in found.cv_results_["params"])
    assert np.ma.getmaskarray(found.cv_results_["param_max_depth"]).any()


def test_steps_of_a_pipeline_and_ranges_of_every_kind() -> None:
    space = {"decisiontreeclassifier__min_samples_split": (0.1, 0.9),
             "decisiontreeclassifier__ccp_alpha": soma.search(1e-5, 1e-1, scale="log"),
             "standardscaler": ["passthrough", StandardScaler(with_mean=False)]}
    found = SearchCV(make_pipeline(StandardScaler(), TREE), space, cv=2, n_trials=4, random_state=0).fit(X, Y)
    assert found.best_score_ > 0.3 and found.best_estimator_.score(X, Y) == found.score(X, Y)


def test_several_metrics() -> None:
    found = search(scoring=["accuracy", "neg_log_loss"], refit="neg_log_loss").fit(X, Y)
    results = found.cv_results_
    assert found.multimetric_ and found.best_score_ == max(results["mean_test_neg_log_loss"])
    assert [t.value for t in found.study_.trials] == list(results["mean_test_neg_log_loss"])
    first = search(scoring=["accuracy", "neg_log_loss"], refit=False).fit(X, Y)
    assert [t.value for t in first.study_.trials] == list(first.cv_results_["mean_test_accuracy"])
    picked = search(refit=lambda results: 2).fit(X, Y)
    assert picked.best_index_ == 2


class Picky(ClassifierMixin, BaseEstimator):
    """Raises for some parameters."""

    def __init__(self, bad: bool = False) -> None:
        self.bad = bad

    def fit(self, x: Any, y: Any) -> Picky:
        if self.bad:
            raise KeyError("bad")
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x), dtype=int)


def test_fits_that_fail() -> None:
    def of(**how: Any) -> SearchCV:
        return SearchCV(Picky(), {"bad": [True, False]}, cv=2, n_trials=8, sampler="random", random_state=0, **how)

    with pytest.warns(FitFailedWarning, match="'bad': True.*not in cv_results_"):
        found = of().fit(X, Y)
    assert found.best_params_ == {"bad": False} and {t.state.name for t in found.study_.trials} == {"COMPLETE", "FAIL"}
    with pytest.raises(KeyError, match="bad"):
        of(error_score="raise").fit(X, Y)
    with pytest.warns(FitFailedWarning), pytest.raises(ValueError, match="fits failed"):
        of().set_params(space={"bad": [True]}).fit(X, Y)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="'n_trials' parameter"):
        search(n_trials=0).fit(X, Y)
    with pytest.raises(StudyError, match="'tpe', 'random', 'grid'"):
        search(sampler="best").fit(X, Y)
    with pytest.raises(SpaceError, match="max_depth"):
        SearchCV(TREE, {"max_depth": (5, 1)}).fit(X, Y)
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        SearchCV(TREE, {"depth": [1, 2]}, n_trials=1).fit(X, Y)


def test_importing_the_package_imports_no_scikit_learn() -> None:
    code = "import sys, soma.study; assert not {'sklearn', 'optuna', 'joblib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


# -- where it runs ---------------------------------------------------------------------------------------------------------------


class Where(Picky):
    """Its score is the process that fitted it."""

    def fit(self, x: Any, y: Any) -> Where:
        self.pid_ = os.getpid()
        return self

    def score(self, x: Any, y: Any) -> float:
        return self.pid_


def test_it_runs_on_the_cluster_if_there_is_one() -> None:
    found = SearchCV(Where(), {"bad": [False]}, cv=2, n_trials=4, sampler="random", random_state=0)

    def pids() -> set[float]:
        results = found.fit(X, Y).cv_results_
        return {*results["split0_test_score"], *results["split1_test_score"]}

    here = {float(os.getpid())}
    assert pids() == here
    with soma.init(num_cpus=2, log_to_driver=False):
        assert len(pids() - here) == 2
        with joblib.parallel_config("threading", n_jobs=2):
            assert pids() == here, "the user said where"
        found.set_params(n_jobs=1)
        assert pids() == here
