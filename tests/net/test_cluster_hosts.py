"""soma over three hosts: what a program sees of it, as long as nothing dies. See test_cluster_faults for the rest.

Hosts are network namespaces (`hosts`), the cluster is made by the commands that users type (`machines`).
"""

from __future__ import annotations

import hosts as network
import pytest
from console import Console, Raised
from machines import CPUS, SOMA, Machines, machines, soma

pytestmark = pytest.mark.crash


# -- what works ---------------------------------------------------------------------------------------------------------


def test_every_machine_is_there_and_shown(well: Machines) -> None:
    with well.driver() as driver:
        assert driver.ask("len(nodes())") == 3
        assert driver.ask("soma.cluster_resources()['CPU']") == 3 * CPUS
        ids = driver.ask("soma.get([on(f'h{n}').remote().node.remote() for n in range(3)], timeout=15)")
        assert sorted(ids) == driver.ask("nodes()") and len(set(ids)) == 3
        shown = str(well.status(2))
        assert all(node in shown for node in ids)


def test_calls_between_machines(well: Machines) -> None:
    with well.driver() as driver:
        driver.ask("a, b = on('h1').remote(), on('h2').remote()")
        assert driver.ask("soma.get([a.through.remote(b, n) for n in range(50)], timeout=15)") == list(range(50))
        assert driver.ask("soma.get(b.seen.remote(), timeout=5)") == list(range(50)), "in order, each once"
        with pytest.raises(Raised, match="TypeError: can only concatenate"):
            driver.ask("soma.get(a.add_one.remote('text'), timeout=5)")


def test_arrays_of_50_mb_both_ways(well: Machines) -> None:
    with well.driver() as driver:
        received, sent = well.hosts[1].traffic()
        driver.ask("x = np.random.default_rng(0).normal(size=(2500, 2500)); before = x.copy()")
        driver.ask("a = on('h1').remote(); y = soma.get(a.add_one.remote(x), timeout=20)", 25)
        assert driver.ask("bool((y == before + 1).all() and (x == before).all() and y.dtype == x.dtype and y.shape == x.shape)")
        driver.ask("y[0, 0] = 7")  # writable
        now_received, now_sent = well.hosts[1].traffic()
        assert now_received - received > 50_000_000 and now_sent - sent > 50_000_000, "by the network, and no other way"
        driver.ask("b = on('h2').remote(50_000_000); ref = b.give.remote()")
        assert driver.ask("soma.get(a.total.remote(ref), timeout=20)", 25) == 6_250_000 * 6_249_999 / 2, "from node to node"
        driver.ask("ref = soma.put(x)")
        assert driver.ask("soma.get([w.total.remote(ref) for w in (a, b)], timeout=20) == 2 * [float(x.sum())]", 25)


def test_tasks_are_spread(well: Machines) -> None:
    with well.driver() as driver:
        driver.ask("found = soma.get([square.options(scheduling_strategy='SPREAD').remote(n) for n in range(60)], timeout=20)", 25)
        assert driver.ask("[n for n, _ in found]") == [n * n for n in range(60)]
        assert driver.ask("len({node for _, node in found})") == 3


GRAPH = """
@soma.filter
class Centre:
    def fit(self, x, y=None):
        return {"mean": x.mean(axis=0), "node": soma.get_runtime_context().get_node_id()}
    def forward(self, x, state):
        return x - state["mean"]

@soma.filter
class Scale:
    def fit(self, x, y=None):
        return {"scale": np.abs(x).max(axis=0)}
    def forward(self, x, state):
        return x / state["scale"]
"""


def test_a_graph(well: Machines) -> None:
    with well.driver() as driver:
        driver.ask(GRAPH)
        driver.ask("x = np.random.default_rng(1).normal(size=(1000, 3)) + 5; g = soma.Graph(Centre() >> Scale()); g.fit(x)", 20)
        driver.ask("z = x - x.mean(axis=0); wanted = z / np.abs(z).max(axis=0)")
        assert driver.ask("bool(np.allclose(g.forward(x), wanted, atol=1e-12))", 20)


def test_a_named_actor_is_found_from_another_machine(well: Machines) -> None:
    with well.driver(0) as owner, well.driver(2) as other:
        owner.ask("named = on('h1', name='shared').remote(); soma.get(named.call.remote(1), timeout=10)")
        assert other.ask("soma.get(soma.get_actor('shared').call.remote(2), timeout=10)") == 2
        assert owner.ask("soma.get(named.seen.remote(), timeout=5)") == [1, 2]


def test_auto_finds_the_node_of_this_machine(well: Machines) -> None:
    with well.driver(1, "auto") as driver:
        assert driver.ask("len(nodes())") == 3


def test_what_nobody_can_do_is_said_at_once(well: Machines) -> None:
    with well.driver() as driver:
        with pytest.raises(Raised, match="PlacementError.*64"):
            driver.ask("soma.get(Worker.options(num_cpus=64).remote().pid.remote(), timeout=10)")
        with pytest.raises(Raised, match="PlacementError.*h9"):
            driver.ask("soma.get(on('h9').remote().pid.remote(), timeout=10)")


def test_without_a_token_nobody_enters(well: Machines) -> None:
    stranger = Console(well.hosts[2], "import soma", env={"SOMA_KEYS": str(well.hosts[2].folder / "none")})
    with pytest.raises(Raised, match="SecurityError"):
        stranger.ask(f"soma.init({well.address!r})", 20)
    stranger.close()
    code, said = well.hosts[2].call([*SOMA, "join", well.address], env={"SOMA_TOKEN": well.token[:-64] + 64 * "a"})
    assert code == 1 and "Traceback" not in said


# -- in order -----------------------------------------------------------------------------------------------------------


def test_drain_and_stop(hosts: network.Hosts) -> None:
    """A drained node finishes what it has, gets nothing new, and leaves; then nothing of the cluster is left anywhere."""
    with machines(hosts, joined=2) as made:
        with made.driver() as driver:
            driver.ask("a = on('h1').remote()")
            node = driver.ask("soma.get(a.node.remote(), timeout=15)")
            driver.ask("ref = a.nap.remote(1)")
            soma(hosts[0], "drain", node)
            assert driver.ask("soma.get(ref, timeout=10)") == "rested"
            driver.ask("found = soma.get([square.options(scheduling_strategy='SPREAD').remote(n) for n in range(8)], timeout=10)")
            assert node not in driver.ask("[node for _, node in found]")
        soma(hosts[1], "stop")
        soma(hosts[0], "stop")
        hosts.wait_until_nothing_is_left(5)
