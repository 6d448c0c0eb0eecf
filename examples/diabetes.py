"""Diabetes progression: a scaler, and a torch network in two filters that are trained as one.

    python examples/diabetes.py

Neighbours that torch can differentiate share a process and one autograd graph, so the gradient of the loss reaches all of them. The
network competes with ridge regression, which runs beside it in the same graph. Needs PyTorch and scikit-learn: pip install "soma[ml,torch]"
"""

import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

import soma


class Features(nn.Module):
    """Ten measurements of a patient to a few features."""

    def __init__(self, features=16):
        super().__init__()
        self.layer = nn.Linear(10, features)

    def forward(self, x):
        return torch.relu(self.layer(x))


class Head(nn.Module):
    """Features to one number."""

    def __init__(self, features=16):
        super().__init__()
        self.layer = nn.Linear(features, 1)

    def forward(self, x):
        return self.layer(x).squeeze(1)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3, weight_decay=0.1)


X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
middle, spread = y_train.mean(), y_train.std()

features = soma.filter(Features, optimizer=adam)(features=32)
head = soma.filter(Head, optimizer=adam, epochs=20, batch_size=32, shuffle=True)(features=32)

with soma.init():
    g = soma.Graph(soma.filter(StandardScaler)() >> [features >> head, soma.filter(Ridge)(alpha=1.0)])
    print(g.compile(), "\n")

    g.fit(X_train, (y_train - middle) / spread, seed=0)
    print(f"training loss of the network: {g.losses()['features']:.3f}")

    for model, predicted in g.predict(X_test).items():
        print(f"{model:<6} R² on patients never seen: {r2_score(y_test, predicted * spread + middle):.3f}")

    path = g.save("diabetes.safetensors")  # arrays and tensors as they are: reading it executes no code
    again = soma.Graph(soma.filter(StandardScaler)() >> [soma.filter(Features)(32) >> soma.filter(Head)(32), soma.filter(Ridge)()])
    again.load(path)
    print("read back, the same predictions:", all((again.predict(X_test)[m] == g.predict(X_test)[m]).all() for m in ("head", "ridge")))
    path.unlink()
