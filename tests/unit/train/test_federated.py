"""Whole trainings, mostly in this very process (`init(local=True)`), against plain training and NumPy."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import QuorumError
from soma.events import Event, MetricReported, RoundCompleted, RoundStarted, RunCompleted, RunFailed
from soma.train.aggregation import trimmed_mean
from soma.train.federated import Federated
from soma.train.servers import FedAdam


@pytest.fixture
def here() -> Iterator[None]:
    with soma.init(local=True):
        yield


@soma.filter
class Mean:
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"m": float(x.mean())}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["m"]


@soma.filter
class Counting:
    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        soma.report("seen", len(x))
        return {"n": state.get("n", 0) + 1, "sum": state.get("sum", 0.0) + float(x.sum())}

    def forward(self, x: Any, state: Any) -> Any:
        return x


@soma.filter
class Linear:
    """Least squares by a step along the gradient, from a state; with FedProx's term if asked."""

    def fit(self, x: Any, y: Any = None, state: Any = None, mu: float = 0.0) -> Any:
        start = np.zeros(x.shape[1]) if state is None else state["w"]
        w = start.copy()
        for _ in range(3):
            w -= 0.1 * (x.T @ (x @ w - y) / len(x) + mu * (w - start))
        return {"w": w}

    def forward(self, x: Any, state: Any) -> Any:
        return x @ state["w"]


def rows(seed: int, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    return x, x @ np.array([1.0, 2.0, 3.0]) + seed


def test_nine_rows_on_two_clients_give_the_mean_of_nine_rows(here: None) -> None:
    parts = [(np.array([1.0, 2, 2, 3]), None), (np.full(5, 5.6), None)]
    assert Federated(Mean(), parts, rounds=1).fit(record=False).state["m"] == 4.0
    assert Federated(Mean(), {"a": parts[0][0], "b": soma.put(parts[1])}, 1).fit(record=False).state["m"] == 4.0


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_a_filter_against_numpy(here: None, mu: float) -> None:
    data = {"a": rows(0, 10), "b": rows(1, 30), "c": rows(2, 5)}
    w = np.zeros(3)
    for _ in range(4):
        made = []
        for x, y in data.values():
            v = w.copy()
            for _ in range(3):
                v -= 0.1 * (x.T @ (x @ v - y) / len(x) + mu * (v - w))
            made.append(v)
        w = np.average(made, axis=0, weights=[10, 30, 5])
    got = Federated(Linear(), data, rounds=4, mu=mu).fit(record=False)
    np.testing.assert_allclose(got.state["w"], w, rtol=1e-12)
    assert [h.samples for h in got.history] == [{"a": 10, "b": 30, "c": 5}] * 4


@pytest.mark.parametrize("local", [True, False])
def test_each_round_starts_from_the_average_of_the_one_before(local: bool, tmp_path: Path) -> None:
    def client(name: str, step: float, samples: float, state: Any, round: int) -> Any:
        with open(tmp_path / "began", "a") as f:
            print(round, name, state["w"].hex(), file=f)
        return {"w": state["w"] + step}, samples, {"step": step}

    clients = {n: functools.partial(client, n, s, k) for n, s, k in (("a", 1.0, 1), ("b", 3.0, 3), ("c", 5.0, 0.5))}
    with soma.init(local=local):
        result = Federated(None, clients, rounds=4, initial={"w": 0.0}).fit(record=False)
    each = (1 + 9 + 2.5) / 4.5
    began = [line.split() for line in (tmp_path / "began").read_text().splitlines()]
    assert sorted((int(r), name) for r, name, _ in began) == [(r, name) for r in range(4) for name in "abc"]
    for r, _, w in began:
        assert float.fromhex(w) == pytest.approx(int(r) * each)
    np.testing.assert_allclose(result.state["w"], 4 * each)
    assert all(h.metrics == {"step": pytest.approx(each)} for h in result.history)


def test_batches_and_epochs_of_a_filter_that_learns_in_batches(here: None) -> None:
    got = Federated(Counting(), {"a": np.ones(10)}, rounds=2, local_epochs=3, batch_size=4).fit(record=False)
    assert got.state == {"n": 2 * 3 * 3, "sum": 60.0}


def test_an_estimator(here: None) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, y = rows(0, 200)
    label = (y > 0).astype(int)
    model = soma.filter(sklearn.SGDClassifier(random_state=0))
    got = Federated(model, {"a": (x[:50], label[:50]), "b": (x[50:], label[50:])}, rounds=5).fit(record=False)
    assert (model.forward(x, got.state) == label).mean() > 0.95


def test_events_metrics_and_evaluation(here: None) -> None:
    heard: list[Event] = []
    result = Federated(Counting(), {"a": np.ones(4), "b": np.ones(2)}, rounds=2).fit(
        evaluate=lambda state: {"sum": state["sum"]}, listeners=[heard.append])
    assert [type(e) for e in heard if isinstance(e, RoundStarted | RoundCompleted | RunCompleted)] == [
        RoundStarted, RoundCompleted, RoundStarted, RoundCompleted, RunCompleted]
    told = [(e.node, e.name, e.value) for e in heard if isinstance(e, MetricReported)]
    assert told[:3] == [("a", "seen", 4), ("b", "seen", 2), ("", "sum", pytest.approx((4 * 4 + 2 * 2) / 6))]
    done = [e for e in heard if isinstance(e, RoundCompleted)]
    assert done[1].clients == ("a", "b") and done[1].samples == 6 and done[1].metrics["sum"] == result.state["sum"]
    with pytest.raises(TypeError, match="evaluate gave 3"):
        Federated(Counting(), {"a": np.ones(4)}, rounds=1).fit(evaluate=lambda state: 3, record=False)  # type: ignore[arg-type, return-value]


def adds(step: float) -> Any:
    return lambda state, round: ({"w": state["w"] + step}, 1)


def test_robust_rules_and_functions(here: None) -> None:
    steps = {"a": 1.0, "b": 1.1, "c": 1.2, "d": -1e6, "e": 1e6}
    clients = {n: adds(s) for n, s in steps.items()}
    for rule in ("median", "krum", functools.partial(trimmed_mean, cut=1), lambda states, weights: sorted(states, key=lambda s: s["w"])[2]):
        got = Federated(None, clients, rounds=1, aggregation=rule, initial={"w": 0.0}).fit(record=False)
        assert got.state["w"] == pytest.approx(1.1, abs=0.11)


def test_too_few_names_everybody_and_the_cause(here: None) -> None:
    def broken(state: Any, round: int) -> Any:
        raise KeyError("no such column")

    heard: list[Event] = []
    clients = {"a": adds(1), "b": broken, "c": lambda state, round: 3}
    with pytest.raises(QuorumError, match="1 of 3 clients.*'b': KeyError: 'no such column'; 'c': TypeError") as caught:
        Federated(None, clients, rounds=2, initial={"w": 0.0}).fit(listeners=[heard.append])
    assert type(caught.value.__cause__) is KeyError and isinstance(heard[-1], RunFailed)


def test_who_fails_too_often_is_not_asked_again(here: None) -> None:
    def broken(state: Any, round: int) -> Any:
        raise ValueError("never")

    got = Federated(None, {"a": adds(1), "b": broken}, rounds=5, max_failures=2, initial={"w": 0.0}).fit(record=False)
    assert [set(h.left_out) for h in got.history] == [{"b"}, {"b"}, set(), set(), set()]
    with pytest.raises(QuorumError, match="every client was left out 1 times in a row: 'b': ValueError: never|0 of 1"):
        Federated(None, {"b": broken}, rounds=5, max_failures=1, initial={"w": 0.0}).fit(record=False)


@pytest.mark.parametrize("given", [(1, 0), (1, float("nan")), (1, "x"), (1, 1, {"a": "x"})])
def test_what_a_client_gives_is_checked(here: None, given: Any) -> None:
    with pytest.raises(QuorumError, match="client 'a' gave"):
        Federated(None, {"a": lambda state, round: given}, rounds=1).fit(record=False)


def test_seeds_reach_the_clients_and_decide(here: None) -> None:
    def client(state: Any, round: int, seed: int) -> Any:
        return {"w": np.random.random(), "seed": float(seed)}, 1

    def once(seed: int | None) -> Any:
        return Federated(None, {"a": client, "b": client}, rounds=2, initial=None, seed=seed).fit(record=False).state

    assert once(1) == once(1) != once(2)


def test_functions_get_mu(here: None) -> None:
    def client(state: Any, round: int, mu: float) -> Any:
        return {"w": state["w"] + mu}, 1

    got = Federated(None, [client], rounds=2, aggregation="fedprox", mu=0.25, initial={"w": 0.0}).fit(record=False)
    assert got.state == {"w": 0.5}


def test_resuming_gives_the_same_as_not_stopping(here: None, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    data = {n: rows(i, 8) for i, n in enumerate("abcde")}

    def training(rounds: int) -> Federated:
        return Federated(Linear(), data, rounds=rounds, clients_per_round=2, initial={"w": np.zeros(3)}, server_optimizer=FedAdam(), seed=5)

    path = tmp_path / "c.safetensors"
    training(3).fit(checkpoint=path, record=False)
    resumed = training(6).fit(checkpoint=path, resume=True, record=False)
    whole = training(6).fit(record=False)
    assert resumed.state["w"].tobytes() == whole.state["w"].tobytes()
    assert [h.clients for h in resumed.history] == [h.clients for h in whole.history]
    assert training(6).fit(checkpoint=path, resume=True, record=False).state["w"].tobytes() == whole.state["w"].tobytes()


# -- torch ---------------------------------------------------------------------------------------------------------------------


def net(seed: int = 0) -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()


def plain(module: Any, x: Any, y: Any, epochs: int, size: int, lr: float, mu: float = 0.0) -> Any:
    """Training as everybody writes it; with FedProx's term in the loss."""
    import torch

    start = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    for _ in range(epochs):
        for i in range(0, len(x), size):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x[i:i + size]), y[i:i + size])
            if mu:
                loss = loss + mu / 2 * sum(((p - s) ** 2).sum() for p, s in zip(module.parameters(), start, strict=True))
            loss.backward()
            optimizer.step()
    return module


def tensors(seed: int, n: int) -> Any:
    import torch

    x, y = rows(seed, n)
    return torch.from_numpy(x), torch.from_numpy(y)[:, None] / 10


def sgd(lr: float) -> Any:
    import torch

    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


@pytest.mark.torch
def test_one_client_is_plain_training(here: None) -> None:
    import torch

    module, (x, y) = net(), tensors(0, 20)
    got = Federated(module, {"a": (x, y)}, rounds=3, local_epochs=2, batch_size=8, optimizer=sgd(0.1)).fit(record=False)
    expected = plain(net(), x, y, 6, 8, 0.1).state_dict()
    for name, value in got.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)
    assert torch.equal(module.state_dict()["0.weight"], net().state_dict()["0.weight"]), "the module that was given did not change"
    assert got.state["1.num_batches_tracked"].item() == 3 * 2 * 3 and got.history[0].metrics["loss"] > got.history[-1].metrics["loss"]


@pytest.mark.torch
@pytest.mark.parametrize("mu", [0.0, 2.0])
def test_fedavg_and_fedprox_against_a_loop(here: None, mu: float) -> None:
    import torch

    data = {"a": tensors(0, 6), "b": tensors(1, 18)}
    state = net().state_dict()
    for _ in range(3):
        made = []
        for x, y in data.values():
            module = net()
            module.load_state_dict(state)
            made.append(plain(module, x, y, 2, 6, 0.1, mu).state_dict())
        state = {k: (made[0][k].double() * 6 + made[1][k].double() * 18).div(24) for k in state}
        state["1.num_batches_tracked"] = state["1.num_batches_tracked"].round().long()
    got = Federated(net(), data, rounds=3, local_epochs=2, batch_size=6, optimizer=sgd(0.1), mu=mu).fit(record=False)
    for name, value in got.state.items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-12)


@pytest.mark.torch
def test_running_means_are_no_weights(here: None) -> None:
    """A server optimizer moves weights; a BatchNorm's statistics become the average."""
    import torch

    data = {"a": tensors(0, 8), "b": tensors(1, 8)}
    averaged = Federated(net(), data, rounds=1, optimizer=sgd(0.1)).fit(record=False).state
    adam = Federated(net(), data, rounds=1, optimizer=sgd(0.1), aggregation="fedadam").fit(record=False).state
    assert torch.equal(adam["1.running_var"], averaged["1.running_var"]) and not torch.equal(adam["0.weight"], averaged["0.weight"])


@pytest.mark.torch
def test_processes_give_what_one_process_gives(shared_cluster: Any) -> None:
    data = {"a": tensors(0, 8), "b": tensors(1, 16), "c": tensors(2, 8)}
    states = [Federated(net(), data, rounds=2, optimizer=sgd(0.1), batch_size=4, shuffle=True, max_processes=n).fit(record=False).state
              for n in (1, 3)]
    for name, value in states[0].items():
        assert value.numpy().tobytes() == states[1][name].numpy().tobytes(), name
