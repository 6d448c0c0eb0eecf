"""A support vector machine for the breast-cancer data, tuned: the kernel, and the numbers that belong to it.

    python examples/study_svc.py [--trials 40]

`gamma` exists with the rbf kernel only, `degree` with the polynomial only. What was found is compared with the default on other folds
than those it was chosen by. Needs scikit-learn and optuna: pip install "soma[ml,study]"
"""

import argparse
import time

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import soma

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--trials", type=int, default=40)
asked = parser.parse_args()

X, y = load_breast_cancer(return_X_y=True)
SPACE = {
    "kernel": ["rbf", "poly", "linear"],
    "C": soma.search(1e-2, 1e3, scale="log"),
    "gamma": {"type": "float", "low": 1e-4, "high": 1.0, "scale": "log", "when": {"kernel": "rbf"}},
    "degree": {"type": "int", "low": 2, "high": 4, "when": {"kernel": "poly"}},
}


def model(params):
    return make_pipeline(StandardScaler(), SVC(**params))


def objective(trial):
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    return cross_val_score(model(trial.params), X, y, cv=folds).mean()


def judged(model):
    """Mean accuracy on folds that nothing was chosen by."""
    return cross_val_score(model, X, y, cv=RepeatedStratifiedKFold(n_splits=5, n_repeats=6, random_state=1)).mean()


with soma.init():
    began = time.perf_counter()
    study = soma.Study("svc", SPACE, objectives="accuracy", directions="maximize", n_trials=asked.trials, seed=0, storage="memory")
    study.run(objective, n_jobs=2, record=False)
    print(f"{len(study.trials)} trials in {time.perf_counter() - began:.1f} s")

for kernel in SPACE["kernel"]:
    found = [t for t in study.trials if t.params["kernel"] == kernel]
    best = max((t.value for t in found), default=float("nan"))
    print(f"  {kernel:6} tried {len(found):2} times, with {', '.join(n for n in found[0].params if n != 'kernel') if found else '-'}: "
          f"{best:.4f} at best")
print("best:", ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                         for name, value in study.best_params.items()))
for name, one in (("SVC()", SVC()), ("scaled", model({})), ("tuned", model(study.best_params))):
    print(f"accuracy on other folds, {name:6} {judged(one):.4f}")
