"""Breast cancer in five hospitals that keep their patients: one model, and no data leave the house.

    python examples/federated.py

The hospitals are unequal (from 27 to 168 patients) and see different ones: some hardly any malignant tumour, one almost nothing else. Each
trains a logistic regression on its own patients, starting from the common weights; only weights travel. FedAvg lets the hospitals run to
their own optima between two averages; FedProx (mu > 0) holds them back. Beside both: the same model trained as long on all patients in one
process, and what each hospital would have alone. Needs scikit-learn and PyTorch: pip install "soma[ml,torch]"
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch.nn.functional import binary_cross_entropy_with_logits

import soma
from soma.train import Federated

SHARES = {"north": (0.02, 0.20), "south": (0.05, 0.60), "east": (0.85, 0.02), "west": (0.03, 0.08), "island": (0.05, 0.10)}
"""Of the malignant and of the benign tumours, what each hospital sees."""
ROUNDS, LOCAL_EPOCHS = 25, 10


def hospitals(X, y):
    """Name → (rows, labels), split by the shares."""
    parts = {name: [] for name in SHARES}
    for label in (0, 1):
        rows = np.flatnonzero(y == label)
        cuts = np.cumsum([share[label] for share in SHARES.values()])[:-1] * len(rows)
        for name, some in zip(parts, np.split(rows, cuts.astype(int)), strict=True):
            parts[name].extend(some)
    return {name: (X[rows], y[rows, None].astype(np.float32)) for name, rows in parts.items()}


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(30, 1)


def federated(clients, mu=0.0, rounds=ROUNDS):
    """As many epochs in all, in however many rounds."""
    return Federated(model(), clients, rounds, local_epochs=ROUNDS * LOCAL_EPOCHS // rounds, batch_size=16, shuffle=True, mu=mu, seed=0,
                     loss_fn=binary_cross_entropy_with_logits, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))


X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
mean, spread = X_train.mean(0), X_train.std(0)
X_train, X_test = ((part - mean) / spread for part in (X_train, X_test))
X_train, X_test = X_train.astype(np.float32), X_test.astype(np.float32)


def figures(state):
    """On patients never seen by anybody."""
    logits = X_test @ state["weight"].numpy().T + state["bias"].numpy()
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(y_test[:, None].astype(np.float32)))
    return {"accuracy": ((logits[:, 0] > 0) == y_test).mean(), "test loss": loss}


if __name__ == "__main__":
    clients = hospitals(X_train, y_train)
    for name, (_, labels) in clients.items():
        print(f"{name:<7} {len(labels):>4} patients, {(labels == 0).mean():>4.0%} malignant")
    print()
    with soma.init():
        everybody = {"everybody": (X_train, y_train[:, None].astype(np.float32))}
        for title, training in ((f"FedAvg, {ROUNDS} rounds", federated(clients)),
                                (f"FedProx, {ROUNDS} rounds, mu=0.5", federated(clients, mu=0.5)),
                                ("all patients in one process", federated(everybody, rounds=1))):
            history = training.fit(evaluate=figures).history
            last, seconds = history[-1].metrics, sum(r.seconds for r in history)
            print(f"{title:<30} accuracy {last['accuracy']:.3f}, test loss {last['test loss']:.3f}, {seconds:.1f} s")
        alone = {name: federated({name: data}, rounds=1).fit().state for name, data in clients.items()}
    print("alone: " + ", ".join(f"{name} {figures(state)['accuracy']:.3f}" for name, state in alone.items()))
