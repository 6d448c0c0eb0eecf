"""torch modules as members; and that a population in the calling process is the same run as one in processes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import soma
from soma.train.population import PopulationBased, TorchMember


def walk(state: Any, params: dict[str, Any]) -> Any:
    here = np.zeros(3) if state is None else state["here"]
    return {"here": here + params["lr"] * (1 - here) * np.random.uniform(0.5, 1), "pid": os.getpid()}


def distance(state: Any) -> float:
    return float(abs(1 - state["here"]).max())


def test_in_the_calling_process_it_is_the_same_run() -> None:
    population = PopulationBased(walk, distance, {"lr": (0.1, 0.5)}, mode="min", generations=4, record=False)
    with soma.init(local=True):
        local = population.fit()
    with soma.init(num_cpus=2):
        apart = population.fit()
    assert local.history == apart.history and local.state["pid"] == os.getpid() != apart.state["pid"]


@pytest.mark.torch
def test_torch_modules_carry_weights_and_moments_and_take_new_rates() -> None:
    import torch

    x = torch.linspace(-1, 1, 64)[:, None]

    def net(width: int, dropout: float = 0.0) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(width, 1))

    def score(output: Any, y: Any) -> Any:
        return -torch.nn.functional.mse_loss(output, y)

    member = TorchMember(module=net, data=(x, x**2), validation=(x, x**2), loss=torch.nn.functional.mse_loss, metric=score,
                         batch_size=16, epochs=3)
    space = {"lr": soma.search(1e-4, 1e-1, scale="log"), "width": [4, 16], "dropout": (0.0, 0.2)}
    with soma.init(local=True):
        found = PopulationBased(member.train, member.evaluate, space, generations=4, fixed=["width"], record=False).fit()
    assert found.fitness > found.history[0][0].fitness
    assert {d["width"] for d in found.schedule()} == {found.params["width"]}
    assert found.state["optimizer"]["param_groups"][0]["lr"] == found.params["lr"]
    assert found.state["optimizer"]["state"][0]["step"] == 4 * 3 * (found.best.generation + 1)
    torch.testing.assert_close(score(member.load(found.state).eval()(x), x**2).item(), found.fitness)
    with pytest.raises(ValueError, match=r"width=4.* do not fit one with width=16.*fixed=\['width'\]"):
        member.train(member.train(None, {"lr": 0.1, "width": 4}), {"lr": 0.1, "width": 16})
