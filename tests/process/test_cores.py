"""What real processes get: cores, GPUs by their variable, tags by way of the daemon; what a status says of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import soma
from soma.cluster import machines

THERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = [pytest.mark.crash, pytest.mark.skipif(len(THERE) < 2, reason="one core cannot be divided")]


@soma.remote
class Probe:
    def __init__(self) -> None:
        self.born_on = sorted(os.sched_getaffinity(0))

    def cores(self) -> list[int]:
        assert self.born_on == sorted(os.sched_getaffinity(0))
        return self.born_on

    def threads(self) -> list[list[int]]:
        return [sorted(os.sched_getaffinity(int(tid))) for tid in os.listdir("/proc/self/task")]

    def gpus(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="class")
def shared_cluster() -> Iterator[Any]:
    """Of each class below; the tests behind them have clusters of their own."""
    with soma.init(num_cpus=8, num_gpus=2, tags=("big",), log_to_driver=False) as context:
        yield context


def get(refs: Any) -> Any:
    return soma.get(refs, timeout=20)


def entry(actor: Any) -> dict[str, Any]:
    (found,) = [a for a in soma.status()["actors"] if a["actor_id"] == actor.actor_id]
    return found


def wait_until_gone(actor: Any) -> None:
    until = time.monotonic() + 10
    while any(a["actor_id"] == actor.actor_id for a in soma.status()["actors"]):
        assert time.monotonic() < until


@pytest.mark.usefixtures("shared_cluster")
class TestCores:
    def test_whole_cpus_are_cores_and_come_back(self) -> None:
        a, b = Probe.options(num_cpus=1).remote(), Probe.options(num_cpus=1).remote()
        first, second = get([a.cores.remote(), b.cores.remote()])
        assert len(first) == len(second) == 1 and first != second and {*first, *second} <= set(THERE)
        assert entry(a)["cores"] == first and entry(b)["cores"] == second
        soma.kill(a)
        wait_until_gone(a)
        assert get(Probe.options(num_cpus=1).remote().cores.remote()) == first

    def test_all_threads_of_the_process_are_kept_there(self) -> None:
        probe = Probe.options(num_cpus=1).remote()
        mine, threads = get(probe.cores.remote()), get(probe.threads.remote())
        assert len(threads) > 1 and all(cores == mine for cores in threads)

    def test_a_restart_runs_on_the_same_cores(self) -> None:
        probe = Probe.options(num_cpus=1, max_restarts=1).remote()
        before, pid = get(probe.cores.remote()), get(probe.pid.remote())
        os.kill(pid, signal.SIGKILL)
        assert get(probe.cores.options(max_task_retries=-1).remote()) == before
        assert get(probe.pid.remote()) != pid

    @pytest.mark.parametrize("cpus", [None, 0, 0.5])
    def test_less_than_a_cpu_is_not_pinned(self, cpus: float | None) -> None:
        probe = Probe.options(num_cpus=cpus).remote()
        assert get(probe.cores.remote()) == THERE and entry(probe)["cores"] == []

    def test_more_cpus_than_cores_are_all_cores(self) -> None:
        probe = Probe.options(num_cpus=min(8, len(THERE) + 1)).remote()
        assert get(probe.cores.remote()) == THERE[:8]

    def test_task_workers_are_not_pinned(self) -> None:
        @soma.remote(num_cpus=1)
        def cores() -> list[int]:
            return sorted(os.sched_getaffinity(0))

        assert get([cores.remote() for _ in range(4)]) == [THERE] * 4


@pytest.mark.usefixtures("shared_cluster")
class TestGpus:
    def test_shares_whole_ones_and_none(self) -> None:
        half, other, none = (Probe.options(num_gpus=n).remote() for n in (0.5, 0.5, None))
        assert get([half.gpus.remote(), other.gpus.remote(), none.gpus.remote()]) == ["0", "0", ""]
        whole = Probe.options(num_gpus=1).remote()
        assert get(whole.gpus.remote()) == "1"
        (told,) = machines()
        assert told["gpu_shares"] == {half.actor_id: {"0": 0.5}, other.actor_id: {"0": 0.5}, whole.actor_id: {"1": 1.0}}
        for actor in (half, other, whole):
            soma.kill(actor)
            wait_until_gone(actor)
        assert get(Probe.options(num_gpus=2).remote().gpus.remote()) == "0,1"

    def test_tasks(self) -> None:
        @soma.remote
        def seen() -> str | None:
            return os.environ.get("CUDA_VISIBLE_DEVICES")

        assert get([seen.remote(), seen.options(num_gpus=2).remote(), seen.remote()]) == ["", "0,1", ""]


@pytest.mark.usefixtures("shared_cluster")
class TestTelling:
    def test_it_waits_for_no_process(self) -> None:
        """A status asks all of them what they hold and gives up on a stopped one; the facts of a machine need nobody."""
        probe = Probe.remote()
        pid = get(probe.pid.remote())
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert probe.actor_id in machines()[0]["reserved"]
            took = time.monotonic() - began
            began = time.monotonic()
            soma.status()
            assert took < (time.monotonic() - began) / 2
        finally:
            os.kill(pid, signal.SIGCONT)

    def test_tasks_that_run_are_lent_what_they_use(self) -> None:
        @soma.remote(num_cpus=2)
        def hold() -> Any:
            from soma.cluster import machines

            return machines()[0]

        told = get(hold.remote())
        assert list(told["lent"].values()) == [{"CPU": 2}] and not set(told["lent"]) & set(told["reserved"])

    def test_who_is_blocked_still_holds_its_cpu(self) -> None:
        @soma.remote(num_cpus=3)
        class Waiter:
            def wait(self, other: Any) -> Any:
                return soma.get(other.look.remote())

        @soma.remote
        class Looker:
            def look(self) -> Any:
                from soma.cluster import available_resources, machines

                until = time.monotonic() + 10
                while available_resources()["CPU"] != 8:
                    assert time.monotonic() < until, available_resources()
                return machines()[0]["reserved"]

        waiter = Waiter.remote()
        assert get(waiter.wait.remote(Looker.remote()))[waiter.actor_id] == {"CPU": 3}

    def test_the_command_shows_cores_and_tags(self) -> None:
        probe = Probe.options(num_cpus=1).remote()
        cores = get(probe.cores.remote())
        done = subprocess.run([sys.executable, "-c", "from soma.cli import main; main(['status', '--json'])"], check=True, timeout=20,
                              capture_output=True, text=True)
        (status,) = [c for c in json.loads(done.stdout) if c["directory"] == soma.status()["directory"]]
        assert status["capabilities"]["tags"] == ["big"]
        assert {a["actor_id"]: a["cores"] for a in status["actors"]}[probe.actor_id] == cores
        assert ["tags", "big"] in [line.strip("│ ").split() for line in drawn(status).splitlines()]
        assert f"{probe.actor_id} Probe ready" in " ".join(drawn(status).split()) and "cores" in drawn(status)


def drawn(status: dict[str, Any]) -> str:
    from rich.console import Console

    from soma.cli import render_status

    out = io.StringIO()
    Console(file=out, width=160).print(render_status(status))
    return out.getvalue()


def test_a_machine_without_marks_or_gpus_says_so() -> None:
    with soma.init(num_cpus=2, log_to_driver=False):
        with pytest.raises(soma.PlacementError, match="asked for the tags 'big'; this machine has none"):
            Probe.options(tags=("big",)).remote()
        status = soma.status()
        reason = status["capabilities"]["gpu_reason"]
        assert bool(reason) != bool(status["capabilities"]["gpus"]) and reason in drawn(status)
        assert not any(line.strip("│ ").startswith("tags") for line in drawn(status).splitlines())
        if reason:
            assert get(Probe.remote().gpus.remote()) == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_fresh_interpreter_is_pinned_as_well() -> None:
    with soma.init(num_cpus=2, start_method="spawn", log_to_driver=False):
        probe = Probe.options(num_cpus=1).remote()
        assert len(get(probe.cores.remote())) == 1
        assert all(len(cores) == 1 for cores in get(probe.threads.remote()))
