"""Studies: the search for good parameters, many trials at once, each in a process of its own.

    study = soma.Study("tune", {"lr": soma.search(1e-4, 1e-1, scale="log")}, n_trials=50, seed=0)
    study.run(objective, n_jobs=2)

optuna samples, prunes and stores (extra `study`); importing this package loads neither optuna nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from soma.study.results import Configuration as Configuration
from soma.study.results import FinishedTrial as FinishedTrial
from soma.study.space import Space as Space
from soma.study.space import edge as edge
from soma.study.study import Study as Study
from soma.study.trial import Trial as Trial
from soma.study.trial import TrialPruned as TrialPruned

if TYPE_CHECKING:
    from soma.study.searching import SearchCV as SearchCV


def __getattr__(name: str) -> Any:
    """`SearchCV` is looked up when it is first used: it needs scikit-learn."""
    if name != "SearchCV":
        raise AttributeError(f"soma.study has no {name!r}")
    value = globals()[name] = importlib.import_module("soma.study.searching").SearchCV
    return value
