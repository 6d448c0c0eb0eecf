"""A graph is tuned whose first stage is expensive and does not vary: it is fitted once, for all trials.

    python examples/study_graph.py [--trials 12]

Handwritten digits go through a restricted Boltzmann machine (the slow stage) and, beside it, are reduced to principal components; a
classifier learns from both, or from what the machine gives alone: an edge of the graph is a dimension of the study. Each trial fits the
whole graph; the events say how often each stage was really fitted. Needs scikit-learn and optuna: pip install "soma[ml,study]"
"""

import argparse
import time
from collections import defaultdict

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import BernoulliRBM

import soma
from soma.events import NodeCacheHit, NodeCacheMiss, NodeCompleted

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--trials", type=int, default=12)
asked = parser.parse_args()


@soma.filter
class Join:
    """Side by side what comes in: several inputs come by name, one comes as it is."""

    def forward(self, x, state):
        return np.hstack(list(x.values())) if isinstance(x, dict) else x


X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, random_state=0, stratify=y)

g = soma.Graph()
g.node("rbm", soma.filter(BernoulliRBM)(n_components=150, learning_rate=0.03, n_iter=120, random_state=0))
g.node("pca", soma.filter(PCA)(n_components=soma.search(2, 16, default=8), random_state=0))
g.node("join", Join())
g.node("classify", soma.filter(LogisticRegression)(C=soma.search(1e-3, 1e2, scale="log"), max_iter=5000))
for before, after in (("rbm", "join"), ("pca", "join"), ("join", "classify")):
    g.connect(before, after)

events = []  # of all processes: every trial's graph tells of its runs
with soma.init():
    soma.on_event(events.append)
    study = g.study("digits", X, y, score=accuracy_score, space={
        "pca -> join": soma.study.edge(),
        "pca.n_components": {"type": "int", "low": 2, "high": 16, "when": {"pca -> join": True}},
    }, n_trials=asked.trials, seed=0, storage="memory")
    began = time.perf_counter()
    study.run(n_jobs=2, record=False)
    print(f"{len(study.trials)} trials in {time.perf_counter() - began:.1f} s")
    best = study.best_graph()
    accuracy = accuracy_score(y_test, best.fit(X, y).predict(X_test))

missed, found, ms = defaultdict(set), defaultdict(set), defaultdict(float)
for e in events:
    if isinstance(e, NodeCacheMiss) and e.what == "state":
        missed[e.node].add(e.run_id)
    elif isinstance(e, NodeCacheHit) and e.what == "state":
        found[e.node].add(e.run_id)  # at once, or because another trial made it while this one waited
    elif isinstance(e, NodeCompleted) and e.run_id in missed[e.node]:
        ms[e.node] = max(ms[e.node], e.duration_ms)
for node in ("rbm", "pca", "classify"):
    print(f"  {node:8} fitted {len(missed[node] - found[node]):2} times, taken from the cache {len(found[node]):2} times; "
          f"the longest fit took {ms[node] / 1e3:.2f} s")
for there in (True, False):
    scores = [t.value for t in study.trials if t.params["pca -> join"] is there]
    print(f"{'with' if there else 'without'} the edge pca -> join: {len(scores)} trials"
          + (f", {max(scores):.4f} at best" if scores else ""))
print("best:", study.best_params)
print(f"its graph, fitted on all of it: {accuracy:.4f} on digits that no trial has seen")
