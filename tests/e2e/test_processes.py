"""What a graph of processes must do that one process cannot show."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError

ROOT = Path(soma.__file__).parents[1]


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0), "pid": os.getpid()}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter
class Pid:
    def forward(self, x: Any, state: Any) -> Any:
        return os.getpid()


@soma.filter
class Die:
    """Ends its process: while fitting, or when it is used."""

    def __init__(self, when: str) -> None:
        self.when = when

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        if self.when == "fit":
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_every_filter_has_a_process_of_its_own(shared_cluster: Any) -> None:
    with soma.Graph(Pid() | Pid() | Pid()) as g:
        pids = g.forward(0)
        assert pids == g.pids() == g.forward(1)
        assert len({os.getpid(), *pids.values()}) == 4
        kept = set(pids.values())
    with soma.Graph(Pid()) as g:
        assert g.forward(0) not in kept


def test_the_state_stays_in_its_process(shared_cluster: Any) -> None:
    x = np.arange(12.0).reshape(4, 3)
    with soma.Graph(Center() >> Center()) as g:
        assert np.abs(g.fit(x).forward(x).mean(axis=0)).max() == 0
        assert {id: s["pid"] for id, s in g.state().items()} == g.pids()


def test_large_values_go_from_filter_to_filter(shared_cluster: Any) -> None:
    """Eight megabytes through four processes, to the bit; what comes back is private and writable."""
    x = np.random.default_rng(0).normal(size=(1000, 1000))
    with soma.Graph(Center() >> (Center() | Center()) >> soma.filter(lambda x: sum(x.values()))) as g:
        out = g.fit(x).forward(x)
        first = x - x.mean(axis=0)
        np.testing.assert_array_equal(out, 2 * (first - first.mean(axis=0)))
        out[:] = 0
        np.testing.assert_array_equal(g.forward(x), 2 * (first - first.mean(axis=0)))


@pytest.mark.parametrize("when", ["fit", "forward"])
def test_a_filter_whose_process_dies_is_named(shared_cluster: Any, when: str) -> None:
    with soma.Graph(Center() >> Die(when) >> Center()) as g, pytest.raises(ActorDiedError) as caught:
        g.fit(np.ones((2, 2)))
    assert caught.value.signal == "SIGKILL"
    assert f"in node 'die', attempt 1: Die(when='{when}')" in caught.value.__notes__


def test_the_users_own_error_keeps_its_remote_traceback(shared_cluster: Any) -> None:
    def broken(x: Any) -> Any:
        raise KeyError("no such column")

    with soma.Graph(Pid() >> soma.filter(broken) >> Pid()) as g, pytest.raises(KeyError, match="no such column") as caught:
        g.forward(0)
    assert "in broken" in str(caught.value.__cause__)
    assert "in node 'broken', attempt 1: broken()" in caught.value.__notes__


def test_resources_of_a_filter_are_reserved(shared_cluster: Any) -> None:
    @soma.filter(num_cpus=3)
    class Hungry:
        def forward(self, x: Any, state: Any) -> Any:
            return x

    with soma.Graph(Hungry()) as g:
        assert g.forward(1) == 1
        assert soma.available_resources()["CPU"] == 1

    @soma.filter(num_cpus=64)
    class Impossible:
        def forward(self, x: Any, state: Any) -> Any:
            return x

    with soma.Graph(Impossible()) as g, pytest.raises(soma.PlacementError, match="64"):
        g.forward(1)


def test_a_graph_starts_the_cluster_that_it_needs() -> None:
    g = soma.Graph(Pid())
    try:
        assert g.forward(0) != os.getpid()
    finally:
        soma.shutdown()
    g.close()


def test_a_closed_graph_works_on_the_next_cluster() -> None:
    g = soma.Graph(Center())
    for _ in range(2):
        with soma.init(num_cpus=1), g:
            assert g.fit(np.array([1.0, 3.0])).forward(np.array([3.0])).tolist() == [1.0]
