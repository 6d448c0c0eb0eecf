"""What is decided without processes: the aggregation of rounds, who takes part, what is refused where a `Federated` is built."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import GraphError, NonFiniteError, QuorumError, StateMismatchError
from soma.train.aggregation import fedavg, krum, median
from soma.train.aggregator import FedAvg, call_aggregation
from soma.train.federated import Federated
from soma.train.federated_plan import Plan, Progress, RoundResult
from soma.train.servers import FedAdam


def state(value: float) -> dict[str, Any]:
    return {"w": np.full(3, float(value))}


# -- the aggregation -----------------------------------------------------------------------------------------------------------


def test_a_round() -> None:
    server = FedAvg(state(0))
    server.begin(0, ["a", "b"], quorum=2)
    assert [server.add(0, "a", 4, state(2.0)), server.add(0, "b", 5, state(5.6))] == ["taken", "taken"]
    new, closed = server.close(0)
    assert new["w"].tolist() == [4, 4, 4] and closed.samples == {"a": 4, "b": 5} and closed.left_out == {}


def test_repeats_and_late_rounds_change_nothing() -> None:
    server = FedAvg(state(0))
    server.begin(0, ["a", "b", "c"])
    assert server.add(0, "b", 1, state(2)) == "taken"
    assert server.add(0, "b", 1, state(100)) == "repeated", "it still waits for a"
    assert server.add(0, "a", 1, state(4)) == "taken"
    assert server.add(0, "a", 1, state(100)) == "repeated"
    server.leave_out(0, "c", "slow")
    assert server.add(0, "c", 1, state(100)) == "late"
    server.leave_out(0, "a", "it did answer")
    new, closed = server.close(0)
    assert new["w"][0] == 3 and closed.left_out == {"c": "slow"}
    assert server.add(0, "c", 1, state(100)) == "late"
    server.begin(1, ["a"])
    assert server.add(0, "a", 1, state(100)) == "late"
    assert server.add(1, "a", 1, state(7)) == "taken" and server.close(1)[0]["w"][0] == 7
    for wrong in (lambda: server.add(2, "a", 1, state(1)), lambda: server.close(2), lambda: server.begin(1, ["a"])):
        with pytest.raises(ValueError, match="round"):
            wrong()
    server.begin(2, ["a"])
    with pytest.raises(ValueError, match="'x' takes no part"):
        server.add(2, "x", 1, state(1))
    with pytest.raises(ValueError, match="samples"):
        server.add(2, "a", 0, state(1))


@pytest.mark.parametrize("rule", [fedavg, median, lambda states: krum(states, 0)])
def test_the_order_of_arrival_does_not_change_a_bit(rule: Any) -> None:
    rng = np.random.default_rng(0)
    updates = {c: (float(rng.integers(1, 9)), {"w": rng.standard_normal(50).astype(np.float32)}) for c in "abcd"}
    results = set()
    for order in itertools.permutations("abcd"):
        for absent in "abcd.":
            server = FedAvg(None, rule)
            server.begin(0, list("abcd"))
            for client in order:
                server.leave_out(0, client, "") if client == absent else server.add(0, client, *updates[client])
            results.add((absent, server.close(0)[0]["w"].tobytes()))
    assert len(results) == 5, "one result for each set of clients"


def test_too_few_updates_and_the_state_is_the_old_one() -> None:
    server = FedAvg(state(0), optimizer=FedAdam())
    server.begin(0, ["a", "b", "c"], quorum=2)
    server.add(0, "a", 1, state(1))
    server.leave_out(0, "c", "ValueError: no")
    with pytest.raises(QuorumError, match=r"round 0: 1 of 3 clients gave an update, 2 are needed. Left out: 'c': ValueError: no; 'b': "):
        server.close(0)
    assert server.state["w"][0] == 0 and server.memory() == {}
    server.begin(0, ["a"])
    server.add(0, "a", 1, state(3))
    server.close(0)
    assert server.memory() != {}


def test_what_does_not_fit_names_path_and_client_in_the_order_of_the_clients() -> None:
    server = FedAvg()
    server.begin(0, ["a", "b"])
    assert server.add(0, "b", 1, {"w": np.zeros(4)}) == "taken", "a decides the form, and has not come yet"
    with pytest.raises(StateMismatchError, match=r"client 'b': state\['w'\] is float64\[4\], but of client 'a' it is float64\[3\]"):
        server.add(0, "a", 1, state(1))
    server = FedAvg(state(0))
    server.begin(0, ["a"])
    with pytest.raises(StateMismatchError, match=r"client 'a': state\['w'\] is missing; the global state has it"):
        server.add(0, "a", 1, {"v": np.zeros(3)})


def test_nan_raises_or_is_skipped() -> None:
    bad = {"w": np.array([1, np.nan, 1])}
    server = FedAvg(state(0))
    server.begin(3, ["a"])
    with pytest.raises(NonFiniteError, match=r"client 'a', round 3: state\['w'\] holds NaN"):
        server.add(3, "a", 1, bad)
    server = FedAvg(state(0), on_nonfinite="skip")
    server.begin(0, ["a", "b"])
    server.add(0, "b", 1, state(2))
    server.add(0, "a", 1, bad)
    new, closed = server.close(0)
    assert new["w"][0] == 2 and closed.left_out == {"a": "state['w'] holds NaN or infinity"} and closed.samples == {"b": 1}


def test_what_an_aggregation_gives_is_checked() -> None:
    server = FedAvg(state(0), lambda states: {"v": 1})
    server.begin(0, ["a"])
    server.add(0, "a", 1, state(1))
    with pytest.raises(StateMismatchError, match="what the aggregation gave"):
        server.close(0)


def test_aggregations_get_weights_if_they_take_them() -> None:
    def by_name(states: Any, *, weights: Any) -> Any:
        return weights

    assert call_aggregation(by_name, [1], [7.0]) == [7.0]
    assert call_aggregation(lambda s, w: (s, w), [1], [7.0]) == ([1], [7.0])
    assert call_aggregation(lambda s, cut=2: (s, cut), [1], [7.0]) == ([1], 2)


# -- who takes part ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.data())
def test_samples_are_as_many_as_asked_and_the_same_for_the_same_seed(n: int, data: Any) -> None:
    names = tuple(f"c{i}" for i in range(n))
    k = data.draw(st.integers(1, n))
    plan = Plan(names=names, rounds=5, clients_per_round=k, seed=data.draw(st.integers(0, 2**32)), max_failures=2)
    drawn = [plan.sample(r, {}) for r in range(5)]
    assert drawn == [plan.sample(r, {}) for r in range(5)]
    for chosen in drawn:
        assert len(chosen) == len(set(chosen)) == k and list(chosen) == [x for x in names if x in chosen]
    failing = data.draw(st.sampled_from(names))
    assert failing not in plan.sample(0, {failing: 2}) and len(plan.sample(0, {failing: 2})) == min(k, n - 1)


def test_everybody_gets_a_turn_and_seeds_matter() -> None:
    plan = Plan(names=tuple("abcdefgh"), rounds=40, fraction=0.25, seed=1)
    assert {c for r in range(40) for c in plan.sample(r, {})} == set("abcdefgh") and plan.chosen == 2
    other = Plan(names=tuple("abcdefgh"), rounds=40, fraction=0.25, seed=2)
    assert [plan.sample(r, {}) for r in range(9)] != [other.sample(r, {}) for r in range(9)]


@pytest.mark.parametrize(("quorum", "many", "needed"), [(0.5, 1, 1), (0.5, 3, 2), (0.5, 4, 2), (1.0, 3, 3), (2, 3, 2), (0.1, 3, 1),
                                                        (0.7, 10, 7)])
def test_quorum(quorum: float, many: int, needed: int) -> None:
    assert Plan(names=("a", "b", "c"), rounds=1, quorum=quorum).needed(many) == needed


# -- what is refused, where it is built ----------------------------------------------------------------------------------------


@soma.filter
class Plain:
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"m": float(x.mean())}

    def forward(self, x: Any, state: Any) -> Any:
        return x


@soma.filter
class GoesOn:
    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"n": state.get("n", 0) + len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return x


def client(state: Any, round: int) -> Any:
    return state, 1


X = np.ones((4, 2))
AB = {"a": (X, None), "b": (X, None)}


@pytest.mark.parametrize(("build", "error", "complaint"), [
    (lambda: Federated(Plain(), AB, rounds=2), TypeError, r"Plain cannot go on from a state.*partial_fit\(self, x, y, state\)"),
    (lambda: Federated(soma.filter(lambda x: x), AB, rounds=1), TypeError, "learns nothing"),
    (lambda: Federated(Plain, AB, rounds=1), TypeError, "not its class"),
    (lambda: Federated(GoesOn(), AB, rounds=1, mu=0.1), TypeError, "mu=0.1"),
    (lambda: Federated(GoesOn(), AB, rounds=1, shuffle=True), TypeError, "shuffle= does nothing"),
    (lambda: Federated(Plain(), AB, rounds=1, local_epochs=2), TypeError, "local_epochs= does nothing"),
    (lambda: Federated(GoesOn(), {"a": (np.ones(8), np.ones(4))}, rounds=1), ValueError, "client 'a' has 8 rows and 4 targets"),
    (lambda: Federated(GoesOn(), {}, rounds=1), ValueError, "at least one"),
    (lambda: Federated(None, {"a": (X, None)}, rounds=1), TypeError, "client 'a' is tuple and model is None"),
    (lambda: Federated(None, {"a": lambda state: 1}, rounds=1), TypeError, "client 'a' must be callable"),
    (lambda: Federated(None, {"a": client}, rounds=1, mu=0.5), TypeError, "client 'a' is a function and takes no mu"),
    (lambda: Federated(None, {"a": client}, rounds=1, batch_size=2), TypeError, "batch_size= does nothing for client 'a'"),
    (lambda: Federated(None, {1: client, "1": client}, rounds=1), ValueError, "two are called '1'"),
    (lambda: Federated(GoesOn(), AB, rounds=0), ValueError, "rounds=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, fraction=0), ValueError, "fraction=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, fraction=0.5, clients_per_round=1), ValueError, "say the same"),
    (lambda: Federated(GoesOn(), AB, rounds=1, clients_per_round=3), ValueError, "clients_per_round=3.*from 1 to 2"),
    (lambda: Federated(GoesOn(), AB, rounds=1, quorum=3), ValueError, "quorum=3"),
    (lambda: Federated(GoesOn(), AB, rounds=1, quorum=1.5), ValueError, "quorum=1.5"),
    (lambda: Federated(GoesOn(), AB, rounds=1, deadline=0), ValueError, "deadline=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, max_failures=0), ValueError, "max_failures=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, mu=-1), ValueError, "mu=-1"),
    (lambda: Federated(GoesOn(), AB, rounds=1, local_epochs=0), ValueError, "local_epochs=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, max_processes=0), ValueError, "max_processes=0"),
    (lambda: Federated(GoesOn(), AB, rounds=1, seed="x"), ValueError, "seed='x'"),
    (lambda: Federated(GoesOn(), AB, rounds=1, aggregation="mean"), ValueError, "aggregation='mean': one of 'fedavg', 'median'"),
    (lambda: Federated(GoesOn(), AB, rounds=1, aggregation=3), TypeError, "aggregation=3"),
    (lambda: Federated(GoesOn(), AB, rounds=1, aggregation="fedprox"), ValueError, "wants mu="),
    (lambda: Federated(GoesOn(), AB, rounds=1, aggregation="fedadam", server_optimizer=FedAdam()), ValueError, "already"),
    (lambda: Federated(GoesOn(), AB, rounds=1, server_optimizer=3), TypeError, "server_optimizer=3"),
    (lambda: Federated(GoesOn(), AB, rounds=1, on_nonfinite="no"), ValueError, "on_nonfinite='no'"),
])
def test_refused(build: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        build()


# -- checkpoints ---------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_where_a_run_stands(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    plan = Plan(names=("a", "b"), rounds=9, seed=3)
    at = Progress(memory={"state['w']": {"m": np.ones(3)}})
    at.add(RoundResult(0, {"a": 4.0}, {"b": "slow"}, {"loss": 0.5}, 1.5), {"w": np.arange(3.0)})
    at.write(tmp_path / "c", plan)
    back = Progress.resumed(tmp_path / "c", plan)
    assert back.history == at.history and back.failures == {"b": 1} and back.state["w"].tolist() == [0, 1, 2]
    assert back.memory["state['w']"]["m"].tolist() == [1, 1, 1]
    assert Progress.resumed(tmp_path / "none", plan).history == []
    with pytest.raises(ValueError, match="another training"):
        Progress.resumed(tmp_path / "c", Plan(names=("a", "c"), rounds=9, seed=3))
    (tmp_path / "torn").write_bytes((tmp_path / "c").read_bytes()[:40])
    with pytest.raises(GraphError):
        Progress.resumed(tmp_path / "torn", plan)
