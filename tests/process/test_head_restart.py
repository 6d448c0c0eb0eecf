"""A head that is killed and started again: what was acknowledged is there, nothing runs twice, nothing stays.

Real processes and real SIGKILL; the nodes, actors and drivers of a cluster live on while its head is away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleets import HEARTBEAT, Fleet, gone, made, reap, until

import soma
from soma.daemon import starting
from soma.errors import ActorDiedError, ClusterError
from soma.util.placement_group import placement_group
from soma.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

GRACE = 5.0


class Restartable(Fleet):
    fresh = False

    def kill_head(self) -> None:
        os.kill(self.head, signal.SIGKILL)
        reap(self.head)

    def start_head(self) -> dict[str, Any]:
        started = starting.start_head(self.address, namespace=None, heartbeat=HEARTBEAT, grace=GRACE, fresh=self.fresh)
        started.process.returncode = 0
        self.head = started.told["pid"]
        assert started.told["address"] == self.address and started.told["continued"] != self.fresh
        return started.told


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Restartable]:
    with made(tmp_path, kind=Restartable, grace=GRACE) as fleet:
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

    def leave(self) -> None:
        soma.exit_actor()

    def through(self, other: Any, k: int) -> int:
        found: int = soma.get(other.add.remote(k), timeout=10)
        return found


def on(node: str, **options: Any) -> Any:
    return Counter.options(tags=(node,), **options).remote()


def names() -> set[str]:
    return {node["NodeID"] for node in soma.nodes()}


class Calling:
    """Calls without end, from a thread; every answer is checked."""

    def __init__(self, call: Callable[[], int]) -> None:
        self._call, self.done, self.error = call, 0, None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        try:
            while not self._over.is_set():
                self.done += 1
                found = self._call()
                assert found == self.done, f"call {self.done} answers {found}"
        except BaseException as e:
            self.error = e

    def __enter__(self) -> Calling:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


def test_everything_goes_on(fleet: Restartable, tmp_path: Path) -> None:
    with soma.init(fleet.address):
        a, b = on("one", num_cpus=1), on("two", name="known", num_cpus=1)
        phoenix = on("two", max_restarts=1)
        mortal, leaver = on("one"), on("one", max_restarts=3)
        soma.get(leaver.add.remote(1), timeout=10)
        pids = [soma.get(x.where.remote(), timeout=10)[0] for x in (a, b)]
        victims = [soma.get(x.where.remote(), timeout=10)[0] for x in (phoenix, mortal)]
        group = placement_group([{"CPU": 1}], strategy="PACK")
        assert group.wait(10)
        inside = Counter.options(num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0)).remote()
        soma.get(inside.add.remote(1), timeout=10)
        before = soma.available_resources()
        assert before["CPU"] == 1
        with Calling(lambda: soma.get(a.add.remote(1), timeout=5)), Calling(lambda: soma.get(b.add.remote(1), timeout=5)) as calling:
            soma.get(a.through.remote(b, 0), timeout=5)
            fleet.kill_head()
            done = calling.done
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            leaver.leave.remote()
            waiting = on("two")
            answer = waiting.add.remote(7)  # asked for while nobody decides
            until(lambda: calling.done > done + 20)
            fleet.start_head()
            began = time.monotonic()
            until(lambda: names() == {"one", "two"})
            assert time.monotonic() - began < 2.0
            assert soma.get(answer, timeout=5) == 7
        assert [soma.get(x.where.remote(), timeout=10)[0] for x in (a, b)] == pids
        assert soma.get(soma.get_actor("known").where.remote(), timeout=5)[0] == pids[1]
        with pytest.raises(ActorDiedError):
            soma.get(mortal.add.remote(1), timeout=5)
        with pytest.raises(ActorDiedError) as left:
            soma.get(leaver.add.remote(1), timeout=5)
        assert left.value.reason == "exit_actor"
        again, _ = soma.get(phoenix.where.remote(), timeout=10)
        assert again != victims[0]
        del waiting, answer
        until(lambda: sorted(row["restarts"] for row in soma.status()["actors"]) == [0, 0, 0, 1])
        assert soma.available_resources() == before and soma.cluster_resources()["CPU"] == 4
        new = on("one")
        assert soma.get(new.add.remote(3), timeout=10) == 3
        square = soma.remote(lambda n: n * n)
        assert soma.get([square.remote(n) for n in range(10)], timeout=10) == [n * n for n in range(10)]
        every = [row["pid"] for row in soma.status()["actors"]]
    until(lambda: all(map(gone, pids)) and gone(again), 5)
    assert every
    assert starting.stop_here(10) == 3
    assert not list((tmp_path / "state" / "clusters").iterdir())


DRIVER = """
import os, sys, time, soma
soma.init(sys.argv[1])
@soma.remote
class A:
    def pid(self):
        return os.getpid()
kept = A.options(name="kept", lifetime="detached", tags=("one",)).remote()
made = [kept, *(A.options(tags=("one",)).remote() for _ in range(2))]
print(*soma.get([a.pid.remote() for a in made]), flush=True)
time.sleep(60)
"""


def test_a_node_and_a_driver_are_killed_meanwhile(fleet: Restartable) -> None:
    """They are lost once their grace is over, also if the head died again at once: who may restarts elsewhere, who may not is over, and
    what the driver made ends but for what it detached."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, fleet.address], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with soma.init(fleet.address), driver, driver.stdout:
        phoenix = Counter.options(max_restarts=1, num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy("two", soft=True)).remote()
        mortal, other = on("two"), on("one")
        assert soma.get(phoenix.where.remote(), timeout=10)[1] == "two"
        soma.get([mortal.add.remote(1), other.add.remote(1)], timeout=10)
        kept, *pids = [int(text) for text in driver.stdout.readline().split()]
        fleet.kill_head()
        driver.kill()
        driver.wait(20)
        os.kill(fleet.nodes["two"], signal.SIGKILL)
        reap(fleet.nodes["two"])
        fleet.start_head()
        fleet.kill_head()
        fleet.start_head()
        assert not any(map(gone, pids))
        with pytest.raises(ActorDiedError, match="machine") as died:
            soma.get(mortal.add.remote(1), timeout=15)
        assert died.value.reason == "node"
        assert soma.get(phoenix.where.remote(), timeout=10)[1] == "one"
        assert names() == {"one"} and soma.available_resources()["CPU"] == 1
        until(lambda: all(map(gone, pids)), 10)
        assert soma.get(soma.get_actor("kept").pid.remote(), timeout=5) == kept and not gone(kept)
        assert soma.get(other.add.remote(1), timeout=5) == 2
        fleet.join("two")
        assert soma.get(on("two").add.remote(1), timeout=10) == 1


def test_who_asks_while_the_head_is_away_is_answered(fleet: Restartable, tmp_path: Path) -> None:
    """Questions and tasks wait for the next head. What was torn at the end of its record is as if it had not been."""
    with soma.init(fleet.address):
        Counter.options(name="known", lifetime="detached").remote()
        square = soma.remote(lambda n: n * n)
        assert soma.get(square.remote(2), timeout=10) == 4
        for tail in (b"", b"\x20\0\0\0torn"):
            fleet.kill_head()
            ledger, = (tmp_path / "state" / "clusters").glob("*/ledger")
            with ledger.open("ab") as f:
                f.write(tail)
            found: list[Any] = []
            asking = threading.Thread(target=lambda found=found: found.append(soma.get(soma.get_actor("known").add.remote(0), timeout=10)))
            asking.start()
            refs = [square.remote(n) for n in range(5)]
            fleet.start_head()
            assert soma.get(refs, timeout=10) == [n * n for n in range(5)]
            asking.join()
            assert found == [0]
        mode = ledger.stat().st_mode, ledger.parent.stat().st_mode, (ledger.parent / "identity.json").stat().st_mode
        assert [m & 0o777 for m in mode] == [0o600, 0o700, 0o600]
        with pytest.raises(ClusterError, match="listens at"):
            fleet.start_head()
        fleet.kill_head()
        fleet.fresh = True
        fleet.start_head()
        until(lambda: all(map(gone, fleet.nodes.values())), 10)  # they belong to the cluster that nobody goes on with


def test_the_command_that_stays_starts_a_killed_head_again(tmp_path: Path) -> None:
    """`soma start --head --block`: its node lives on; told to end, it ends the node first, then the head."""
    keys = {"SOMA_KEYS": str(tmp_path / "keys"), "SOMA_STATE": str(tmp_path / "state")}
    arguments = ["start", "--head", "--bind", "tcp://127.0.0.1:0", "--name", "one", "--num-cpus", "1", "--heartbeat", "0.2", "--block"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        program = [sys.executable, "-u", "-c", "from soma.cli import main; main()", *arguments]
        command = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert command.stdout is not None
        with command, command.stdout:
            try:
                address = next(line for line in command.stdout if line.startswith("drivers here:")).split("'")[1]
                pids = {place.node: pid for _, place, pid in starting.here()}
                with soma.init(address):
                    actor = Counter.remote()
                    assert soma.get(actor.add.remote(1), timeout=10) == 1
                    os.kill(pids[""], signal.SIGKILL)
                    assert any("started again" in line for line in command.stdout)
                    assert soma.get(actor.add.remote(1), timeout=10) == 2
                    until(lambda: names() == {"one"})
                now = {place.node: pid for _, place, pid in starting.here()}
                assert now["one"] == pids["one"] and now[""] != pids[""]
            finally:
                command.terminate()
            assert command.wait(20) == 0
        assert not starting.here() and all(map(gone, now.values()))
