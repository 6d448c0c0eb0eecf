"""A network too slow for one process, cut in two: each half in a process of its own, trained as one on handwritten digits.

    python examples/pipeline.py

A batch goes through the halves in micro-batches, so both work at the same time; activations and gradients go from one process to the
other, and this program holds none of them. The same network trained here, in one process on one core, ends with the same loss and the
same answers. Needs scikit-learn and PyTorch: pip install "soma[ml,torch]"
"""

import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import soma
from soma.train import Pipeline

EPOCHS, BATCH, WIDTH = 8, 674, 1024


def halves():
    """The same two every time."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    second = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    return [first, second]


def optimizer(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def alone(X, y):
    """Plain PyTorch: the trained network, and its mean loss in the last epoch."""
    net = nn.Sequential(*halves())
    steps = optimizer(net.parameters())
    for _ in range(EPOCHS):
        total = 0.0
        for x, wanted in zip(X.split(BATCH), y.split(BATCH), strict=True):
            steps.zero_grad()
            loss = nn.functional.cross_entropy(net(x), wanted)
            loss.backward()
            steps.step()
            total += float(loss.detach()) * len(x)
    return net, total / len(X)


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X.astype("float32") / 16, y, random_state=0, stratify=y)

torch.set_num_threads(1)
alone(torch.from_numpy(X_train[:BATCH]), torch.from_numpy(y_train[:BATCH]))  # what PyTorch does once
began = time.perf_counter()
net, loss = alone(torch.from_numpy(X_train), torch.from_numpy(y_train))
single = time.perf_counter() - began
answers = net(torch.from_numpy(X_test)).argmax(1).numpy()
print(f"one process : loss {loss:.4f}, test accuracy {(answers == y_test).mean():.3f}, {single:.2f} s")

with soma.init(), Pipeline(halves(), micro_batches=4, loss_fn=nn.functional.cross_entropy, optimizer=optimizer) as pipeline:
    pipeline.pids()  # both are there
    result = pipeline.fit(X_train, y_train, epochs=EPOCHS, batch_size=BATCH, shuffle=False)
    answers = pipeline.predict(X_test).argmax(1)
    accuracy = (answers == y_test).mean()
    print(f"two stages  : loss {result.history[-1]['loss']:.4f}, test accuracy {accuracy:.3f}, {result.seconds:.2f} s")

print(f"{single / result.seconds:.2f} times as fast; micro-batches whose activations each stage held at once: {result.in_flight}")
