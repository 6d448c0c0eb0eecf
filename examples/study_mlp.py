"""A small network for handwritten digits, tuned; training that promises little is given up early.

    python examples/study_mlp.py [--trials 20] [--epochs 12]

After each epoch a trial reports its accuracy on held-out digits. One that is worse than the median of the others at the same epoch is
pruned, in the middle of its training. Needs torch, scikit-learn and optuna: pip install "soma[torch,ml,study]"
"""

import argparse
import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

import soma
from soma.study import TrialPruned

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--trials", type=int, default=20)
parser.add_argument("--epochs", type=int, default=12)
asked = parser.parse_args()
EPOCHS = asked.epochs

digits = load_digits()
pixels, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
rest, test = train_test_split(range(len(labels)), random_state=0, test_size=0.25)
train, held_out = train_test_split(rest, random_state=0, test_size=0.25)

SPACE = {
    "lr": soma.search(1e-4, 1.0, scale="log"),
    "hidden": soma.search(8, 128, scale="log"),
    "dropout": (0.0, 0.6),
    "momentum": [0.0, 0.9],
}


def accuracy(net, rows):
    net.eval()
    with torch.no_grad():
        return float((net(pixels[rows]).argmax(1) == labels[rows]).float().mean())


def trained(params, after_epoch, seed):
    torch.set_num_threads(1)  # a small network, and two trials run at once
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, params["hidden"]), nn.ReLU(), nn.Dropout(params["dropout"]), nn.Linear(params["hidden"], 10))
    step = torch.optim.SGD(net.parameters(), lr=params["lr"], momentum=params["momentum"])
    for epoch in range(EPOCHS):
        net.train()
        for rows in torch.tensor(train)[torch.randperm(len(train))].split(64):
            step.zero_grad()
            F.cross_entropy(net(pixels[rows]), labels[rows]).backward()
            step.step()
        after_epoch(net, epoch)
    return net


def objective(trial):
    def report(net, epoch):
        trial.report("accuracy", accuracy(net, held_out), epoch)
        if trial.should_prune():
            raise TrialPruned

    trained(trial.params, report, trial.seed)


with soma.init():
    began = time.perf_counter()
    study = soma.Study("mlp", SPACE, objectives="accuracy", directions="maximize", sampler="random", pruner="median",
                       n_trials=asked.trials, seed=0, storage="memory",
                       pruner_options={"n_startup_trials": 3, "n_warmup_steps": 1})
    study.run(objective, n_jobs=2, record=False)
    seconds = time.perf_counter() - began

    trials = study.trials
    done = {t.number: len(t.metrics["accuracy"]) for t in trials}
    for t in trials:
        print(f"  trial {t.number:2}: {t.state:9} after {done[t.number]:2} epochs, accuracy {list(t.metrics['accuracy'].values())[-1]:.3f}")
    pruned = [t for t in trials if t.state == "pruned"]
    print(f"{len(trials)} trials in {seconds:.1f} s, {len(pruned)} of them pruned: {sum(done.values())} epochs instead of "
          f"{len(trials) * EPOCHS}, {len(trials) * EPOCHS - sum(done.values())} saved")
    best = study.best_trial
    print(f"best: trial {best.number}, {best.value:.3f} on the held-out digits, with "
          + ", ".join(f"{name}={value:.3g}" for name, value in best.params.items()))
    net = trained(best.params, lambda net, epoch: None, best.seed)
    print(f"trained again: {accuracy(net, test):.3f} on digits that no trial has seen")
