"""What machines there are, their tags, and the scheduler that places by them. The same on every engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil
import pytest

import soma
from soma.actors.scheduler import Scheduler, scheduler_of_cluster
from soma.actors.scheduling import replay
from soma.cluster import machines

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@pytest.fixture(scope="module", params=["local", "processes"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of four CPUs and two marks for all tests of this file; the value says of which kind."""
    options: dict[str, Any] = {"local": True} if request.param == "local" else {"log_to_driver": False}
    with soma.init(num_cpus=4, resources={"license": 2}, tags=["big", "ssd", "big"], **options):
        yield request.param


@pytest.fixture
def scheduler() -> Any:
    return scheduler_of_cluster()


@soma.remote
class Plain:
    def ping(self) -> str:
        return "pong"


def only() -> dict[str, Any]:
    (machine,) = machines()
    return machine


def end(actor: Any) -> None:
    """Kill it, and see it gone: a call just after a kill may still be answered, one of them is not."""
    soma.kill(actor)
    with pytest.raises(soma.ActorDiedError):
        while True:
            get(actor.ping.remote())


def process(owner: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"owner": owner, "tasks": list(tasks), **more}


# -- machines ------------------------------------------------------------------------------------------------------------------


def test_a_machine_is_plain_data_and_tells_what_it_is() -> None:
    told = only()
    assert json.loads(json.dumps(told)) == told
    assert told["node_id"] == soma.get_runtime_context().get_node_id()
    able = told["capabilities"]
    assert able["tags"] == ["big", "ssd"] and able["cpu_cores"] == 4 and able["system"] == sys.platform
    assert able["ram_bytes"] <= psutil.virtual_memory().total and bool(able["gpus"]) == (not able["gpu_reason"])
    assert told["totals"]["CPU"] == 4 and told["totals"]["license"] == 2
    assert 0 < told["load"]["memory_available"] <= psutil.virtual_memory().total and told["load"]["load_1m"] >= 0


def test_what_actors_hold_is_told_by_name_or_id() -> None:
    named = Plain.options(name="holder", num_cpus=1, resources={"license": 0.5}).remote()
    other = Plain.options(num_cpus=0.5).remote()
    idle = Plain.remote()
    twin = Plain.options(name="holder", namespace="elsewhere", num_cpus=0.25).remote()
    get([a.ping.remote() for a in (named, other, idle, twin)])
    held = only()["reserved"]
    assert held["holder"] == {"CPU": 1, "license": 0.5}
    assert held[other.actor_id] == {"CPU": 0.5} and held[idle.actor_id] == {} and held[twin.actor_id] == {"CPU": 0.25}
    end(named)
    assert not {"CPU": 1, "license": 0.5} == only()["reserved"].get("holder")


def test_asking_from_an_actor_gives_the_same() -> None:
    @soma.remote
    class Asker:
        def ask(self) -> Any:
            from soma.cluster import machines

            return [(m["node_id"], m["capabilities"], m["totals"]) for m in machines()]

    told = only()
    assert get(Asker.remote().ask.remote()) == [(told["node_id"], told["capabilities"], told["totals"])]


# -- tags ----------------------------------------------------------------------------------------------------------------------


@soma.remote
def echo(x: int) -> int:
    return x


def test_actors_and_tasks_run_where_their_tags_are() -> None:
    assert get(Plain.options(tags=("ssd",)).remote().ping.remote()) == "pong"
    assert get(echo.options(tags=["big", "ssd"]).remote(3)) == 3


def test_without_its_tags_nothing_runs() -> None:
    with pytest.raises(soma.PlacementError, match=r"^actor Plain asked for the tags 'ssd', 'gpu'; this machine has 'big', 'ssd'$"):
        Plain.options(tags=("ssd", "gpu")).remote()
    with pytest.raises(soma.PlacementError, match=r"^task echo asked for the tags 'gpu'; this machine has 'big', 'ssd'$"):
        echo.options(tags=("gpu",)).remote(1)
    with pytest.raises(ValueError, match=r"tags='gpu': a tuple of strings"):
        Plain.options(tags="gpu").remote()


def test_filters_too() -> None:
    @soma.filter(tags=("gpu",))
    class Picky:
        def forward(self, x: Any, state: Any) -> Any:
            return x

    with soma.Graph(Picky()) as graph, pytest.raises(soma.PlacementError, match=r"asked for the tags 'gpu'"):
        graph.forward([1])


def test_tags_inside_an_actor() -> None:
    @soma.remote
    class Maker:
        def make(self) -> Any:
            soma.remote(Plain._cls).options(tags=("gpu",)).remote()

    with pytest.raises(soma.PlacementError, match="this machine has 'big', 'ssd'"):
        get(Maker.remote().make.remote())


def test_a_status_shows_tags() -> None:
    assert list(soma.status()["capabilities"]["tags"]) == ["big", "ssd"]


# -- the scheduler ------------------------------------------------------------------------------------------------------------


def test_there_is_one_scheduler(scheduler: Any) -> None:
    @soma.remote
    class Finder:
        def find(self) -> Any:
            return scheduler_of_cluster()

    assert scheduler_of_cluster() == scheduler == get(Finder.remote().find.remote()) == soma.get_actor("soma-scheduler", "soma")
    assert only()["reserved"]["soma-scheduler"] == {}


def test_it_places_explains_and_takes_back(scheduler: Any) -> None:
    tasks: list[dict[str, Any]] = [{"id": "a", "needs": {"CPU": 3.0}}, {"id": "b", "inputs": [["a", 5]], "tags": ["big"]}]
    plan = get(scheduler.place.remote(process("g1", *tasks)))
    (a, b) = plan["processes"]
    assert (a["tasks"], a["needs"], a["machine"]) == (["a"], {"CPU": 3}, only()["node_id"])
    assert b["reasons"] == {"b": "the only machine"}
    said = rf"^task 'c' asked for 2 CPU; the machine has 4 CPU, of which '{a['name']}' of 'g1' holds 3"
    with pytest.raises(soma.PlacementError, match=said):
        get(scheduler.place.remote(process("g2", {"id": "c", "needs": {"CPU": 2}})))
    assert [p["name"] for p in get(scheduler.state.remote())["placed"]] == [a["name"], b["name"]]
    get(scheduler.release.remote("g1"))
    assert get(scheduler.place.remote(process("g2", {"id": "c", "needs": {"CPU": 4}})))["processes"][0]["needs"] == {"CPU": 4}
    get(scheduler.release.remote("g2"))
    assert get(scheduler.state.remote())["placed"] == []


def test_what_anybody_reserves_counts(scheduler: Any) -> None:
    holder = Plain.options(num_cpus=3, name="greedy").remote()
    get(holder.ping.remote())
    with pytest.raises(soma.PlacementError, match="of which 'greedy' holds 3"):
        get(scheduler.place.remote(process("g", {"id": "t", "needs": {"CPU": 2}})))
    end(holder)


def test_what_is_wrong_is_said_to_whoever_asked(scheduler: Any) -> None:
    for request, error, text in (
            (process("g", {"id": "t", "needs": {"CPU": 64}}), soma.PlacementError, "task 't' asked for 64 CPU; the machine has 4"),
            (process("g", {"id": "t", "tags": ["gpu"]}), soma.PlacementError, "the machine has the tags 'big', 'ssd'"),
            (process("g"), ValueError, "a request needs an owner and tasks"),
            (process("g", {"id": "t"}, speed=1), ValueError, "Request has no speed")):
        with pytest.raises(error, match=text):
            get(scheduler.place.remote(request))


def test_its_log_replays_to_the_same_decisions(scheduler: Any) -> None:
    holder = Plain.options(num_cpus=1, name="there").remote()
    get(holder.ping.remote())
    tasks = [{"id": f"t{i}", "needs": {"CPU": 1.0}, "inputs": [[f"t{i - 1}", 10]] if i % 3 else []} for i in range(9)]
    plan = get(scheduler.place.remote(process("plan", *tasks)))
    assert [p["tasks"] for p in plan["processes"]] == [[f"t{i}", f"t{i + 1}", f"t{i + 2}"] for i in (0, 3, 6)]
    own = plan.pop("log")
    log = json.loads(json.dumps(get(scheduler.log.remote())))
    core, said = replay(log)
    assert said == [entry["instructions"] for entry in log if "event" in entry]
    assert plan in [i for instructions in said for i in instructions]
    assert plan in [i for instructions in replay(json.loads(json.dumps(own)))[1] for i in instructions]
    get(scheduler.release.remote("plan"))
    assert core.state()["placed"] != get(scheduler.state.remote())["placed"] == []
    end(holder)


@pytest.mark.parametrize("bound", ["LOG_ENTRIES", "LOG_ITEMS"])
def test_the_log_is_bounded(bound: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the class itself, in this process: beyond its bound the log begins anew, and still replays."""
    import asyncio

    from soma.actors import scheduler as module

    monkeypatch.setattr(module, bound, 20)

    async def use() -> tuple[list[int], list[dict[str, Any]], dict[str, Any]]:
        scheduler, lengths = Scheduler(), []
        for i in range(40):
            await scheduler.place(process(f"g{i % 7}", {"id": "t"}, {"id": "u"}))
            lengths.append(len(await scheduler.log()))
            if i % 3 == 0:
                await scheduler.release(f"g{i % 7}")
        return lengths, await scheduler.log(), await scheduler.state()

    with asyncio.Runner() as runner:
        lengths, log, state = runner.run(use())
    assert max(lengths) <= 21 and lengths[-1] < 40 and "snapshot" in log[0]
    core, said = replay(json.loads(json.dumps(log)))
    assert core.state() == state and said == [entry["instructions"] for entry in log[1:]]


def test_waiting_where_nothing_can_end_is_refused(engine: str, scheduler: Any) -> None:
    get(scheduler.place.remote(process("first", {"id": "t", "needs": {"CPU": 4}})))
    second = scheduler.place.remote(process("second", {"id": "t", "needs": {"CPU": 4}}, wait=True))
    if engine == "local":
        with pytest.raises(soma.PlacementError, match="of 'first' holds 4"):
            get(second)
        get(scheduler.release.remote("first"))
        return
    assert get(scheduler.state.remote())["waiting"] == ["second"]
    get(scheduler.release.remote("first"))
    assert get(second)["owner"] == "second"
    get(scheduler.release.remote("second"))
