"""Handwritten digits: two views of the same pixels, joined and classified; each filter in a process of its own.

    python examples/digits.py

The scaler and the join are written here, the rest is scikit-learn's. A filter is a plain class: `fit` returns what it learnt, `forward`
applies it. Scaler and PCA are fitted at the same time; this program never holds what they make. With a cache, a second fit of the same
data starts nothing. Needs scikit-learn: pip install "soma[ml]"
"""

import tempfile
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import soma


@soma.filter
class Scale:
    """Every pixel to mean 0 and deviation 1."""

    def fit(self, x, y=None):
        spread = x.std(axis=0)
        spread[spread == 0] = 1  # the corners are always black
        return {"mean": x.mean(axis=0), "spread": spread}

    def forward(self, x, state):
        return (x - state["mean"]) / state["spread"]


@soma.filter
class Join:
    """Both views side by side. Several inputs come by name."""

    def forward(self, x, state):
        return np.hstack([x["scale"], x["pca"]])


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)


def graph(cache):
    pca = soma.filter(PCA)(n_components=24, random_state=0)
    classify = soma.filter(LogisticRegression)(max_iter=1000)
    return soma.Graph((Scale() | pca) >> Join() >> classify, cache="disk", cache_path=cache)


with tempfile.TemporaryDirectory() as cache, soma.init():
    g = graph(cache)
    print(g.compile(), "\n")

    for attempt in ("first", "second"):
        g = graph(cache)
        began = time.perf_counter()
        g.fit(X_train, y_train)
        fitted = time.perf_counter() - began
        accuracy = (g.predict(X_test) == y_test).mean()
        print(f"{attempt} fit: {fitted:.2f} s, test accuracy {accuracy:.3f}, processes started: {len(g.running())}")

    print()
    print(g.explain())
    outputs = graph(cache).fit(X_train, y_train).run(X_test[:3])  # every node's output, by id
    print("\nthree digits:", outputs["logistic_regression"], "from", outputs["join"].shape[1], "columns")
