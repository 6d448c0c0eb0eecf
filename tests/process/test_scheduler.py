"""The scheduler on a real cluster: found from everywhere, right about who lives, and nobody waits who need not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

import pytest

import soma
from soma.actors.scheduler import scheduler_of_cluster
from soma.actors.scheduling import replay
from soma.errors import ActorDiedError, PlacementError, TaskCancelledError

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("cluster")]


def get(refs: Any) -> Any:
    return soma.get(refs, timeout=20)


def request(owner: str, *needs: float, wait: bool = False) -> dict[str, Any]:
    return {"owner": owner, "wait": wait, "tasks": [{"id": f"t{i}", "needs": {"CPU": n} if n else {}} for i, n in enumerate(needs)]}


@soma.remote
class Worker:
    def pid(self) -> int:
        return os.getpid()


def start(process: dict[str, Any]) -> Any:
    worker = Worker.options(name=process["name"], num_cpus=process["needs"].get("CPU")).remote()
    get(worker.pid.remote())
    return worker


def end(actor: Any) -> None:
    """Kill it and wait until its machine knows."""
    soma.kill(actor)
    until(lambda: all(a["actor_id"] != actor.actor_id for a in soma.status()["actors"]))


def until(check: Any) -> None:
    limit = time.monotonic() + 10
    while not check():
        assert time.monotonic() < limit


def test_a_plan_runs_and_its_log_replays() -> None:
    scheduler = scheduler_of_cluster()
    plans, workers = [], []
    for i, needs in enumerate(((1, 1), (0, 0, 0), (2,), (0.5, 1.5))):
        if i == 3:
            end(workers.pop(0))  # those of the first plan: their CPUs are free
            end(workers.pop(0))
        plans.append(get(scheduler.place.remote(request(f"g{i}", *needs))))
        workers += [start(process) for process in plans[-1]["processes"]]
    assert [len(p["processes"]) for p in plans] == [2, 3, 1, 2]
    for plan in plans:  # what came with each answer is enough to come to it again
        entries = json.loads(json.dumps(plan.pop("log")))
        _, said = replay(entries)
        assert said == [entry["instructions"] for entry in entries if "event" in entry] and plan in said[-1]
    log = json.loads(json.dumps(get(scheduler.log.remote())))
    core, said = replay(log)
    assert said == [entry["instructions"] for entry in log if "event" in entry]
    assert [i for instructions in said for i in instructions if i["kind"] == "Place"] == plans
    assert core.state()["placed"] == get(scheduler.state.remote())["placed"]


@pytest.mark.parametrize("how", ["kill", "SIGKILL", "last handle"])
def test_who_waits_is_placed_when_an_actor_ends(how: str) -> None:
    scheduler = scheduler_of_cluster()
    others: Any = Worker.options(num_cpus=3).remote()
    pid = get(others.pid.remote())
    waiting = scheduler.place.remote(request("w", 2, wait=True))
    until(lambda: get(scheduler.state.remote())["waiting"] == ["w"])
    assert soma.wait([waiting], timeout=0) == ([], [waiting])
    if how == "kill":
        soma.kill(others)
    elif how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    else:
        del others
    assert get(waiting)["processes"][0]["needs"] == {"CPU": 2}
    assert get(scheduler.state.remote())["waiting"] == []


def test_what_ended_is_free_without_being_released() -> None:
    """Also when nobody looked in between: the events of its birth and death are enough."""
    scheduler = scheduler_of_cluster()
    (process,) = get(scheduler.place.remote(request("g", 4)))["processes"]
    worker = start(process)
    with pytest.raises(PlacementError, match=f"of which '{process['name']}' of 'g' holds 4"):
        get(scheduler.place.remote(request("h", 1)))
    soma.kill(worker)
    until(lambda: get(scheduler.state.remote())["placed"] == [])
    assert get(scheduler.place.remote(request("h", 4)))


def test_many_wait_in_turn_and_block_nobody() -> None:
    scheduler = scheduler_of_cluster()
    get(scheduler.place.remote(request("first", 4)))
    waiting = [scheduler.place.remote(request(f"w{i}", 1, wait=True)) for i in range(50)]
    until(lambda: len(get(scheduler.state.remote())["waiting"]) == 50)
    assert get(scheduler.place.remote(request("nothing", 0)))
    get(scheduler.release.remote("first"))
    assert [p["owner"] for p in get(waiting[:4])] == ["w0", "w1", "w2", "w3"]
    for i in range(4):
        get(scheduler.release.remote(f"w{i}"))
    assert [p["owner"] for p in get(waiting[4:8])] == ["w4", "w5", "w6", "w7"]
    get(scheduler.withdraw.remote("w49"))
    with pytest.raises(PlacementError, match="the request of 'w49' was withdrawn"):
        get(waiting[49])


def test_a_call_that_is_cancelled_waits_no_more() -> None:
    scheduler = scheduler_of_cluster()
    get(scheduler.place.remote(request("first", 3)))
    big, small = (scheduler.place.remote(request(f"w{n}", n, wait=True)) for n in (4, 1))
    until(lambda: get(scheduler.state.remote())["waiting"] == ["w4", "w1"])
    soma.cancel(big)
    with pytest.raises(TaskCancelledError):
        get(big)
    assert get(small)["owner"] == "w1"


@soma.remote
class Planner:
    """Another process that plans."""

    def find(self) -> Any:
        return scheduler_of_cluster()

    def plan(self, wanted: dict[str, Any]) -> Any:
        return soma.get(scheduler_of_cluster().place.remote(wanted))

    def pid(self) -> int:
        return os.getpid()


def test_it_outlives_the_process_that_made_it() -> None:
    planner = Planner.remote()
    assert get(planner.plan.remote(request("of the planner", 3)))
    made = get(planner.find.remote())
    end(planner)
    scheduler = scheduler_of_cluster()
    assert scheduler == made
    until(lambda: get(scheduler.state.remote())["placed"] == [])  # what was placed for the dead is given back
    assert get(scheduler.place.remote(request("mine", 4)))


def test_who_dies_while_it_waits_is_forgotten() -> None:
    scheduler = scheduler_of_cluster()
    get(scheduler.place.remote(request("first", 4)))
    planner = Planner.options(max_concurrency=2).remote()
    lost = planner.plan.remote(request("lost", 4, wait=True))
    until(lambda: get(scheduler.state.remote())["waiting"] == ["lost"])
    os.kill(get(planner.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        get(lost)
    until(lambda: get(scheduler.state.remote())["waiting"] == [])
    get(scheduler.release.remote("first"))
    assert get(scheduler.place.remote(request("mine", 4)))


def test_all_who_look_at_once_find_one() -> None:
    planners = [Planner.remote() for _ in range(6)]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(scheduler_of_cluster())) for _ in range(4)]
    refs = [p.find.remote() for p in planners]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({*found, *get(refs)}) == 1
    assert sum(a["class_name"] == "Scheduler" for a in soma.status()["actors"]) == 1


def test_it_dies_and_the_next_one_knows_who_is_there() -> None:
    scheduler = scheduler_of_cluster()
    (process,) = get(scheduler.place.remote(request("g", 3)))["processes"]
    worker = start(process)
    end(scheduler)
    fresh = scheduler_of_cluster()
    assert fresh != scheduler
    with pytest.raises(PlacementError, match=f"of which '{process['name']}' holds 3"):
        get(fresh.place.remote(request("g", 2)))
    assert get(fresh.place.remote(request("g", 1)))["processes"][0]["name"] != process["name"]
    del worker


def test_two_thousand_tasks_are_one_call() -> None:
    scheduler = scheduler_of_cluster()
    tasks = [{"id": f"t{i}", "inputs": [[f"t{i - 1}", 1]] if i % 10 else []} for i in range(2000)]
    plan = get(scheduler.place.remote({"owner": "big", "tasks": tasks}))
    assert len(plan["processes"]) == 64 and sum(len(p["tasks"]) for p in plan["processes"]) == 2000
