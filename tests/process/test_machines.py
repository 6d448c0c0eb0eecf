"""What a cluster of several machines does, on loopback.

Nothing here needs rights; tests over real hosts are in tests/net.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import Fleet, gone, made, reap, until

import soma
from soma.daemon import starting, stopping
from soma.errors import ActorDiedError, ClusterError, ClusterLostError, DeadlockError, ObjectTooLargeError, PlacementError, SecurityError
from soma.transport import values
from soma.util.placement_group import placement_group, remove_placement_group
from soma.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """For a test that harms it."""
    with made(tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """For all tests that harm nobody."""
    with made(tmp_path_factory.mktemp("well")) as fleet:
        yield fleet


@soma.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self, k: int) -> int:
        self.n += k
        return self.n

    def where(self) -> tuple[int, str]:
        return os.getpid(), soma.get_runtime_context().get_node_id()

    def bump(self, x: np.ndarray) -> np.ndarray:
        x += 1
        return x

    def through(self, other: Any, k: int) -> int:
        found: int = soma.get(other.add.remote(k), timeout=10)
        return found

    def give_much(self) -> np.ndarray:
        values.LIMITS = replace(values.LIMITS, message_bytes=1 << 20)
        return np.ones(1_000_000)

    def items(self) -> Iterator[Any]:
        yield 1
        yield np.ones(1_000_000)

    def there_and_back(self, other: Any, me: Any) -> int:
        """Waits for a call of `other` that waits for a call of this one."""
        found: int = soma.get(other.through.remote(me, 1))
        return found

    def wait_until(self, path: str) -> str:
        Path(path + ".begun").touch()
        until(Path(path).exists)
        return "gone"

    def wait_for(self, path: str) -> str:
        Path(path).write_text(str(os.getpid()))
        threading.Event().wait()
        return "never"


def where_now(actor: Any) -> str | None:
    """The machine an actor is on. None for a call to an incarnation that was given up, of which this process has not heard yet."""
    try:
        found: str = soma.get(actor.where.remote(), timeout=10)[1]
        return found
    except ActorDiedError as e:
        assert e.reason == "node" and e.executed == "maybe"
        return None


def wheres(actor: Any) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = soma.get([actor.where.remote() for _ in range(50)], timeout=20)
    return found


def on(node: str, **options: Any) -> Any:
    return Counter.options(tags=(node,), **options).remote()


def names() -> set[str]:
    return {node["NodeID"] for node in soma.nodes()}


def test_everything_that_works_on_one_machine_works_on_two(well: Fleet) -> None:
    with soma.init(well.address):
        assert names() == {"one", "two"}
        a, b = on("one"), on("two")
        assert [soma.get(x.where.remote(), timeout=10)[1] for x in (a, b)] == ["one", "two"]
        assert soma.get(a.through.remote(b, 5), timeout=10) == 5 and soma.get(b.through.remote(a, 7), timeout=10) == 7
        with pytest.raises(DeadlockError, match="Counter waits for Counter"):
            soma.get(a.there_and_back.remote(b, a), timeout=10)
        x = np.arange(3_000_000, dtype=np.float64).reshape(1000, 3000)
        for actor in (a, b):
            y = soma.get(actor.bump.remote(x), timeout=10)
            np.testing.assert_array_equal(y, x + 1)
            y += 1  # writable
        ref = soma.put(x)  # held by the driver, fetched by both
        np.testing.assert_array_equal(soma.get(a.bump.remote(b.bump.remote(ref)), timeout=10), x + 2)
        square = soma.remote(lambda n: (n * n, soma.get_runtime_context().get_node_id()))
        found = soma.get([square.remote(n) for n in range(20)], timeout=20)
        assert [n for n, _ in found] == [n * n for n in range(20)]
        Counter.options(name="known", lifetime="detached", tags=("two",)).remote()
        soma.get(soma.get_actor("known").add.remote(1), timeout=10)
        soma.kill(soma.get_actor("known"))


def test_what_is_too_large_for_another_machine_is_an_error_and_no_wait(well: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real limit is 4 GiB; here it is made small, at the sender alone."""
    with soma.init(well.address):
        actors = {name: on(name) for name in ("one", "two")}
        far = next(a for a in actors.values() if soma.get(a.where.remote(), timeout=10)[1] != soma.get_runtime_context().get_node_id())
        x = np.ones(1_000_000)
        with monkeypatch.context() as patch:
            patch.setattr(values, "LIMITS", replace(values.LIMITS, message_bytes=1 << 20))
            refs = [far.bump.remote(x), far.add.remote(1)]
            with pytest.raises(ObjectTooLargeError, match="other machines"):
                soma.get(refs[0], timeout=5)
            assert soma.get(refs[1], timeout=5) == 1
        with pytest.raises(ObjectTooLargeError, match="other machines"):
            soma.get(far.give_much.remote(), timeout=5)
        items = far.items.options(num_returns="streaming").remote()
        assert soma.get(next(items), timeout=5) == 1
        with pytest.raises(ObjectTooLargeError, match="other machines"):
            soma.get(next(items), timeout=5)
        assert soma.get(far.add.remote(1), timeout=5) == 2


def test_an_event_loop_that_reads_for_itself_hears_from_far(well: Fleet) -> None:
    """Small answers, some that come in pieces whose receipt it sends itself, and many at a time, while a thread calls as well."""
    with soma.init(well.address):
        actors = {name: on(name) for name in ("one", "two")}
        x = np.arange(400_000.0)

        async def main() -> None:
            leave = soma.cluster.attend()
            try:
                for actor in actors.values():
                    assert [await actor.add.remote(1) for _ in range(100)] == list(range(1, 101))
                    other = asyncio.create_task(asyncio.to_thread(wheres, actor))
                    for _ in range(5):
                        np.testing.assert_array_equal(await actor.bump.remote(x), x + 1)
                    assert await asyncio.gather(*(actor.add.remote(1) for _ in range(500))) == list(range(101, 601))
                    assert len(set(await other)) == 1
            finally:
                leave()

        asyncio.run(asyncio.wait_for(main(), 25))
        assert actors["two"].add.remote(1).future().result(10) == 601, "the pump reads again"


def test_calls_in_order_and_none_twice_across_machines(well: Fleet) -> None:
    with soma.init(well.address):
        for actor in (on("one"), on("two")):
            assert soma.get([actor.add.remote(1) for _ in range(3000)], timeout=20) == list(range(1, 3001))


DRIVER = """
import sys, time, soma
soma.init(sys.argv[1])
@soma.remote
class A:
    def pid(self):
        import os
        return os.getpid()
made = [A.options(tags=(t,)).remote() for t in ("one", "two")]
print(*soma.get([a.pid.remote() for a in made]), flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "ends without a word", "shuts down"])
def test_a_driver_goes(well: Fleet, how: str) -> None:
    """What it made is gone on both machines, and nothing else."""
    with soma.init(well.address):
        mine = on("two")
        soma.get(mine.add.remote(1), timeout=10)
        program = DRIVER + ("soma.shutdown()" if how == "shuts down" else "")
        driver = subprocess.Popen([sys.executable, "-c", program, well.address, "stay" if how == "killed" else "go"],
                                  stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        with driver, driver.stdout:
            pids = [int(text) for text in driver.stdout.readline().split()]
            assert len(pids) == 2
            if how == "killed":
                driver.kill()
            driver.wait(20)
        until(lambda: all(map(gone, pids)), 5)
        assert soma.get(mine.add.remote(1), timeout=5) == 2


def test_where_things_go(well: Fleet) -> None:
    with soma.init(well.address):
        spread = [Counter.options(scheduling_strategy="SPREAD").remote() for _ in range(4)]
        assert sorted(node for _, node in soma.get([a.where.remote() for a in spread], timeout=20)) == ["one", "one", "two", "two"]
        there = Counter.options(scheduling_strategy=NodeAffinitySchedulingStrategy("one")).remote()
        assert soma.get(there.where.remote(), timeout=10)[1] == "one"
        with pytest.raises(PlacementError, match="64 CPU"):
            Counter.options(num_cpus=64).remote()
        with pytest.raises(PlacementError, match="'nowhere'"):
            on("nowhere")
        with pytest.raises(PlacementError, match="not in the cluster"):
            Counter.options(scheduling_strategy=NodeAffinitySchedulingStrategy("three")).remote()
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
        assert group.wait(10)
        inside = [Counter.options(num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, i)).remote() for i in (0, 1)]
        assert {node for _, node in soma.get([a.where.remote() for a in inside], timeout=10)} == {"one", "two"}
        remove_placement_group(group)
        with pytest.raises(ActorDiedError, match="placement group"):
            while True:  # the head has given it up; its process may answer until the kill arrives
                soma.get(inside[0].add.remote(1), timeout=5)
        with pytest.raises(PlacementError):
            placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
        assert soma.cluster_resources()["CPU"] == 4


def test_who_has_no_token_does_not_get_in(well: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMA_KEYS", str(tmp_path / "others"))
    with pytest.raises(SecurityError, match="join token"):
        soma.init(well.address)
    with pytest.raises(SecurityError):
        soma.init(well.address, token=well.token.replace(well.token[-4:], "0000"))
    with pytest.raises(SecurityError, match="node"):  # the token is for machines
        soma.init(well.address, token=well.token)


def test_a_node_is_killed(fleet: Fleet, tmp_path: Path) -> None:
    """Waiting callers hear why at once; who may restarts on the other machine; what may have run is not run again."""
    with soma.init(fleet.address):
        events: list[Any] = []
        soma.on_event(events.append)
        mortal = on("two")
        phoenix = Counter.options(max_restarts=1, scheduling_strategy=NodeAffinitySchedulingStrategy("two", soft=True)).remote()
        pid, node = soma.get(phoenix.where.remote(), timeout=10)
        assert node == "two"
        begun = phoenix.wait_for.remote(str(tmp_path / "begun"))
        refs = [mortal.wait_for.remote(str(tmp_path / "other")), begun]
        until(lambda: (tmp_path / "begun").exists() and (tmp_path / "other").exists())
        (tmp_path / "begun").unlink()
        os.kill(fleet.nodes["two"], signal.SIGKILL)
        for ref in refs:
            with pytest.raises(ActorDiedError, match="machine") as died:
                soma.get(ref, timeout=5)
            assert died.value.reason == "node" and died.value.executed == "maybe"
        assert soma.get(phoenix.where.remote(), timeout=10)[1] == "one"
        assert not (tmp_path / "begun").exists(), "a call that had begun was repeated"
        with pytest.raises(ActorDiedError):
            soma.get(mortal.add.remote(1), timeout=5)
        until(lambda: gone(pid), 2)
        lost = [e for e in events if isinstance(e, soma.events.NodeLost)]
        assert [e.node_id for e in lost] == ["two"] and lost[0].why
        reap(fleet.nodes["two"])
        fleet.join("two")
        assert soma.get(on("two").add.remote(1), timeout=10) == 1


def test_a_stream_goes_on_when_a_machine_dies(fleet: Fleet) -> None:
    """Each chunk's result once and in order, and as without the death."""
    @soma.filter
    class Scale:
        def fit(self, x: np.ndarray, y: object = None) -> dict[str, float]:
            return {"by": float(x.max())}

        def forward(self, x: np.ndarray, state: dict[str, float]) -> np.ndarray:
            return x / state["by"]

    with soma.init(fleet.address):
        X = np.arange(1.0, 401.0).reshape(200, 2)
        graph = soma.Graph(Scale() >> soma.filter(lambda x: x + 1), cache=None)
        graph.fit(X)
        found = []
        with graph.stream(X, chunk_size=5, max_restarts=3) as stream:
            for chunk in stream:
                found.append(chunk)
                if len(found) == 10:
                    node = next(a["node_id"] for a in soma.status()["actors"] if a["pid"] and not a["task_worker"])
                    os.kill(fleet.nodes[node], signal.SIGKILL)
        np.testing.assert_array_equal(np.concatenate(found), X / X.max() + 1)
        assert names() == {"one", "two"} - {node}


def test_a_silent_node_is_fenced_before_it_comes_back(fleet: Fleet) -> None:
    """Stopped for longer than the grace: lost. When it goes on, its old actors are gone before it is a member again."""
    with soma.init(fleet.address):
        phoenix = Counter.options(max_restarts=1, scheduling_strategy=NodeAffinitySchedulingStrategy("two", soft=True)).remote()
        old, node = soma.get(phoenix.where.remote(), timeout=10)
        assert node == "two" and soma.get(phoenix.add.remote(5), timeout=5) == 5
        os.kill(fleet.nodes["two"], signal.SIGSTOP)
        until(lambda: names() == {"one"})
        until(lambda: where_now(phoenix) == "one")
        assert not gone(old), "it runs on where nobody can reach it"
        os.kill(fleet.nodes["two"], signal.SIGCONT)
        until(lambda: names() == {"one", "two"})
        assert gone(old)
        assert soma.get(phoenix.add.remote(1), timeout=5) == 1, "the new one is the only one"


def test_a_suspected_node_gets_nothing_until_it_is_heard_again(tmp_path: Path) -> None:
    with made(tmp_path, grace=15.0) as fleet, soma.init(fleet.address):
        suspected: list[Any] = []
        soma.on_event(lambda e: suspected.append(e) if isinstance(e, soma.events.NodeSuspected) else None)
        soma.get(on("two").add.remote(1), timeout=10)  # it takes some
        os.kill(fleet.nodes["two"], signal.SIGSTOP)
        until(lambda: suspected)
        made_now = [Counter.options(scheduling_strategy="SPREAD").remote() for _ in range(3)]
        assert {node for _, node in soma.get([a.where.remote() for a in made_now], timeout=10)} == {"one"}
        task = soma.remote(lambda: soma.get_runtime_context().get_node_id())
        assert set(soma.get([task.options(num_cpus=1).remote() for _ in range(3)], timeout=10)) == {"one"}
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
        hard = Counter.options(scheduling_strategy=NodeAffinitySchedulingStrategy("two")).remote().where.remote()
        assert not group.wait(0.3) and soma.wait([hard], timeout=0.1)[0] == [] and names() == {"one", "two"}
        os.kill(fleet.nodes["two"], signal.SIGCONT)
        assert soma.get(hard, timeout=10)[1] == "two" and group.wait(10)


def test_a_short_silence_is_not_seen(fleet: Fleet) -> None:
    with soma.init(fleet.address):
        actor = on("two")
        soma.get(actor.add.remote(1), timeout=10)
        os.kill(fleet.nodes["two"], signal.SIGSTOP)
        assert soma.get([actor.add.remote(1) for _ in range(200)], timeout=10)[-1] == 201  # they go to the actor directly
        os.kill(fleet.nodes["two"], signal.SIGCONT)
        assert names() == {"one", "two"} and soma.get(actor.add.remote(1), timeout=10) == 202


def test_the_head_is_killed(fleet: Fleet) -> None:
    """The driver hears of it, and nothing stays."""
    with soma.init(fleet.address):
        actor = on("one")
        soma.get(actor.add.remote(1), timeout=10)
        os.kill(fleet.head, signal.SIGKILL)
        with pytest.raises(ClusterLostError, match="head"):
            until(lambda: soma.nodes() and False)
    assert starting.stop_here(10) == 2


def test_a_node_is_drained(fleet: Fleet) -> None:
    """It gets nothing new, finishes what it has, and leaves."""
    with soma.init(fleet.address):
        busy = on("two")
        soma.get(busy.add.remote(1), timeout=10)
        starting.ask_drain(fleet.address, "two", 60.0, "for the test")
        assert {soma.get(Counter.options(scheduling_strategy="SPREAD").remote().where.remote(), timeout=10)[1] for _ in range(3)} == {"one"}
        assert soma.get(busy.add.remote(1), timeout=5) == 2
        del busy
        until(lambda: names() == {"one"})
        os.waitpid(fleet.nodes["two"], 0)
        with pytest.raises(ClusterError, match="no node 'two'"):
            starting.ask_drain(fleet.address, "two", 60.0, "again")


def test_a_stop_with_a_grace_moves_what_may_move_and_lets_calls_end(fleet: Fleet, tmp_path: Path) -> None:
    """The node says that it drains: nothing new comes, who has restarts goes on elsewhere, a running call ends, the rest hears why."""
    with soma.init(fleet.address):
        phoenix = Counter.options(max_restarts=1, scheduling_strategy=NodeAffinitySchedulingStrategy("two", soft=True)).remote()
        busy, idle = on("two"), on("two")
        task = soma.remote(lambda: os.getpid()).options(tags=("two",))
        soma.get([phoenix.add.remote(1), busy.add.remote(1), idle.add.remote(1), task.remote()], timeout=10)
        assert soma.get(phoenix.where.remote(), timeout=5)[1] == "two"
        running = busy.wait_until.remote(str(tmp_path / "go"))
        until(lambda: (tmp_path / "go.begun").exists())
        agent = fleet.nodes["two"]
        path = next(path for path, place, _ in starting.here() if place.node == "two")
        stopping.ask(path, 30.0, "the disk is changed")
        os.kill(agent, signal.SIGTERM)
        until(lambda: where_now(phoenix) == "one")
        assert [n["state"] for n in soma.status()["nodes"]] == ["open", "draining"]
        assert not gone(agent), "a call runs there"
        (tmp_path / "go").touch()
        assert soma.get(running, timeout=10) == "gone"
        stuck = busy.wait_for.remote(str(tmp_path / "never"))
        until(lambda: (tmp_path / "never").exists())
        os.kill(agent, signal.SIGTERM)  # a second time: at once
        with pytest.raises(ActorDiedError, match="node two was shut down: the disk is changed"):
            soma.get(stuck, timeout=5)
        os.waitpid(agent, 0)
        with pytest.raises(ActorDiedError, match="the disk is changed"):
            soma.get(idle.add.remote(1), timeout=5)
        assert names() == {"one"} and soma.get(phoenix.add.remote(1), timeout=5) == 1


def test_what_has_nothing_to_do_ends_at_once_and_so_many_run_at_a_time(fleet: Fleet) -> None:
    """Also: what was kept for actors that went elsewhere while a node was silent is free when it is back."""
    told = fleet.join("three", max_concurrent=1, stop_grace=60.0)
    with soma.init(fleet.address):
        assert {n["NodeID"]: n["MaxConcurrent"] for n in soma.nodes()} == {"one": None, "two": None, "three": 1}
        first, second = on("three", num_cpus=0.5), on("three", num_cpus=0.5)
        light = on("three", num_cpus=0)
        soma.get([first.add.remote(1), light.add.remote(1)], timeout=10)
        waits = second.add.remote(1)
        assert soma.wait([waits], timeout=0.2)[0] == []
        assert [(n["running"], n["max_concurrent"]) for n in soma.status()["nodes"] if n["node_id"] == "three"] == [(1, 1)]
        soma.kill(first)
        assert soma.get(waits, timeout=10) == 1
        soma.kill(second)
        soma.kill(light)
        task = soma.remote(lambda: os.getpid()).options(tags=("three",))
        soma.get([task.remote() for _ in range(3)], timeout=10)
        os.kill(told["pid"], signal.SIGTERM)
        os.waitpid(told["pid"], 0)  # long before its grace is over
        soft = NodeAffinitySchedulingStrategy("two", soft=True)
        phoenix = Counter.options(max_restarts=1, num_cpus=1, scheduling_strategy=soft).remote()
        soma.get(phoenix.add.remote(1), timeout=10)
        (core,) = cores_of("two")
        os.kill(fleet.nodes["two"], signal.SIGSTOP)
        until(lambda: where_now(phoenix) == "one")
        os.kill(fleet.nodes["two"], signal.SIGCONT)
        until(lambda: names() == {"one", "two"})
        fresh = on("two", num_cpus=1)
        soma.get(fresh.add.remote(1), timeout=10)
        assert cores_of("two") == [core]


def cores_of(node: str) -> list[int]:
    return [core for a in soma.status()["actors"] if a["node_id"] == node for core in a["cores"]]


def test_a_head_that_is_stopped_says_why(fleet: Fleet) -> None:
    with soma.init(fleet.address):
        actor = on("one")
        soma.get(actor.add.remote(1), timeout=10)
        assert starting.stop_here(10, 0.3, "moving house") == 3
        with pytest.raises(ClusterLostError, match="was shut down: moving house"):
            until(lambda: soma.nodes() and False)


def test_what_a_node_leaves(fleet: Fleet) -> None:
    """Keys are in a file for this user only, and in no arguments or environment; a command ends everything."""
    with soma.init(fleet.address):
        actor = on("one")
        pid, _ = soma.get(actor.where.remote(), timeout=10)
        for path, place, _ in starting.here():
            file = path / "network.json"
            assert file.stat().st_mode & 0o777 == 0o600
            processes = (pid, fleet.head, *fleet.nodes.values())
            seen = [Path(f"/proc/{p}/{what}").read_bytes() for p in processes for what in ("cmdline", "environ")]
            assert not any(place.data_secret.encode() in text or fleet.token.encode() in text for text in seen)
    assert starting.stop_here(10) == 3
    assert not starting.here()
