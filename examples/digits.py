"""Handwritten digits: a graph of filters, each in a process of its own.

    python examples/digits.py

The scaler and the vote are written here, the two classifiers are scikit-learn's. A filter is a plain class: `fit` returns what
it learnt, `forward` applies it. Both classifiers are fitted at the same time, each in its own process, on what the scaler sends
them; this program never holds the scaled pixels. Needs scikit-learn: pip install "soma[ml]"
"""

import time

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

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
class Vote:
    """The class that is most probable on average. Gets one array from each classifier, by name."""

    def forward(self, x, state):
        return sum(x.values()).argmax(axis=1)


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

linear = soma.filter(LogisticRegression, method="predict_proba")(max_iter=300)
neighbors = soma.filter(KNeighborsClassifier, method="predict_proba")(n_neighbors=3)

with soma.init():
    g = soma.Graph(Scale() >> (linear | neighbors) >> Vote())
    print(g.compile())

    began = time.perf_counter()
    g.fit(X_train, y_train)
    accuracy = (g.predict(X_test) == y_test).mean()
    print(f"\ntest accuracy {accuracy:.3f} in {time.perf_counter() - began:.2f} s")
    print("processes:", ", ".join(f"{node} {pid}" for node, pid in g.pids().items()))

    outputs = g.run(X_test[:3])  # every node's output, by id
    print("three digits:", outputs["vote"], "- the linear model alone:", outputs["logistic_regression"].argmax(axis=1))
    print("the scaler learnt:", {name: value.shape for name, value in g.state()["scale"].items()})
