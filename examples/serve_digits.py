"""A fitted graph behind HTTP: it is asked what handwritten digits it sees, by a list of pixels.

    python examples/serve_digits.py                  fits the graph, serves it to itself and asks it
    soma serve examples/serve_digits.py --port 5000  serves it to others, until Ctrl-C:

    curl -s localhost:5000/predictions -H 'Content-Type: application/json' -d '{"input": {"pixels": [0, 0, 5, 13, 9, 1, …]}}'

`soma.serve.run(graph)` and `graph.serve()` serve a graph as it is: one input, `x`, for what `graph.forward` takes. A predictor around it
says what clients give and get, and the service describes that at /openapi.json. Needs scikit-learn: pip install "soma[ml,serve]"
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import soma
from soma.serve import BasePredictor, Input


@soma.filter
class Scale:
    """Grey levels from 0 to 1."""

    def forward(self, x, state):
        return np.asarray(x) / 16


def data():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, random_state=0, stratify=y)


def fitted():
    X, _, y, _ = data()
    classify = soma.filter(LogisticRegression)(C=10, max_iter=1000)
    return soma.Graph(Scale() >> soma.filter(PCA)(n_components=24, random_state=0) >> classify).fit(X, y)


class Digits(BasePredictor):
    """Which digit is it?"""

    def setup(self):
        began = time.perf_counter()
        self.graph = fitted()
        print(f"fitted in {time.perf_counter() - began:.2f} s")

    def predict(self, pixels: list[float] = Input(description="64 grey levels from 0 to 16, row by row", ge=0, le=16)) -> int:
        if len(pixels) != 64:
            raise ValueError(f"8 × 8 pixels are needed, and these are {len(pixels)}")
        return int(self.graph.predict(np.array([pixels]))[0])


def main():
    _, X, _, y = data()
    with soma.init():
        with fitted() as graph, soma.serve.test_client(graph) as client:
            began = time.perf_counter()
            answer = client.post("/predictions", json={"input": {"x": X.tolist()}}).json()
            right = (np.array(answer["output"]) == y).mean()
            print(f"the graph: {len(y)} digits at once, {right:.3f} of them right, in {time.perf_counter() - began:.2f} s")

        with soma.serve.test_client(f"{__file__}:Digits") as client:
            print(client.get("/health-check").json()["setup"]["logs"].strip())
            found = [client.post("/predictions", json={"input": {"pixels": x.tolist()}}).json()["output"] for x in X[:100]]
            print(f"the predictor: 100 digits one by one, {np.mean(found == y[:100]):.2f} of them right")
            print("seven pixels:", client.post("/predictions", json={"input": {"pixels": [1] * 7}}).json()["error"])
            print("text:", client.post("/predictions", json={"input": {"pixels": "seven"}}).json()["detail"][0]["msg"])


if __name__ == "__main__":
    main()
