"""Handwritten digits: learning rate and width of a small network, found by a population while it trains.

    python examples/population.py

Six networks train, as many at once as there are CPUs. After each generation the worst one goes on from the weights of the best, with
another learning rate. A width cannot be taken over without the weights that have it, so it is `fixed`: it comes along, and is never
explored. Beside it, in this process: random search with the same budget, the same six beginnings, each trained to the end as it began.
Needs scikit-learn and PyTorch: pip install "soma[ml,torch]"
"""

import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import soma

MEMBERS, GENERATIONS = 6, 8


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def accuracy(output, y):
    return (output.argmax(1) == y).float().mean()


def main():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.3, random_state=0, stratify=y)
    X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
    member = soma.train.TorchMember(module=net, data=(X, y), validation=(X_valid, y_valid), loss=nn.functional.cross_entropy,
                                    metric=accuracy, optimizer=sgd, batch_size=32)
    space = {"lr": soma.search(1e-4, 1.0, scale="log"), "width": [8, 16, 32, 64, 128]}

    def tested(state):
        with torch.no_grad():
            return float(accuracy(member.load(state)(torch.as_tensor(X_test, dtype=torch.float32)), torch.as_tensor(y_test)))

    with soma.init():
        began = time.perf_counter()
        found = soma.train.PopulationBased(member.train, member.evaluate, space, members=MEMBERS, generations=GENERATIONS,
                                           fixed=["width"], seed=0).fit()
        print(f"population:    validation {found.fitness:.3f}, test {tested(found.state):.3f}, "
              f"width {found.params['width']}, {time.perf_counter() - began:.1f} s")
    print("               its learning rate went " + ", ".join(f"{params['lr']:.3g}" for params in found.schedule()))

    torch.set_num_threads(1)  # as in each process above; for so small a network more are slower
    began, results = time.perf_counter(), []
    for first in found.history[0]:
        torch.manual_seed(first.seed)
        state = None
        for _ in range(GENERATIONS):
            state = member.train(state, first.params)
        results.append((float(member.evaluate(state)), first.params, state))
    fitness, params, state = max(results, key=lambda r: r[0])
    print(f"random search: validation {fitness:.3f}, test {tested(state):.3f}, width {params['width']}, lr {params['lr']:.3g}, "
          f"{time.perf_counter() - began:.1f} s in one process")


if __name__ == "__main__":
    main()
