"""A convolutional network on handwritten digits: one process, then two ranks that share every batch; the same weights, in the same steps.

    python examples/convnet.py [--ranks 2] [--epochs 6]
"""

from __future__ import annotations

import argparse
import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

import soma
from soma.train import DataParallel


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10))


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == target).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()

    digits = load_digits()
    images = (digits.images / 16).astype("float32")[:, None]
    train_x, test_x, train_y, test_y = train_test_split(images, digits.target, random_state=0)

    with soma.init():
        weights = []
        for ranks in (1, asked.ranks):
            trainer = DataParallel(network(), ranks, loss_fn=F.cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
            began = time.perf_counter()
            trained = trainer.fit(train_x, train_y, epochs=asked.epochs, batch_size=128, validation=(test_x, test_y),
                                  metrics={"accuracy": accuracy})
            last = trained.history[-1]
            print(f"{ranks} rank(s): loss {last['loss']:.4f}, accuracy on digits never seen {last['val_accuracy']:.3f}, "
                  f"{trained.steps} steps, {last['rows_per_s']:,.0f} rows/s, {time.perf_counter() - began:.1f} s in all")
            weights.append(torch.cat([p.detach().flatten() for p in trained.model.parameters()]))
    print(f"the largest difference between their weights: {(weights[0] - weights[1]).abs().max():.1e}")


if __name__ == "__main__":
    main()
