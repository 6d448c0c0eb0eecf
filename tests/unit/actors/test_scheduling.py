"""What is placed fits, is explained, and would be placed so again; who waits has its turn exactly when it can."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from soma.actors.scheduling import (
    Facts,
    Instruction,
    Machine,
    Place,
    Process,
    Refuse,
    Release,
    Request,
    Scheduling,
    Submit,
    Task,
    Waiting,
    Withdraw,
    as_dict,
    event_of,
    instruction_of,
    replay,
    request_of,
)

MIB = 2**20


def machine(id: str, cpu: float = 4, **more: Any) -> Machine:
    return Machine(id, {"CPU": cpu, **more.pop("has", {})}, cores=int(max(1, cpu)), **more)


def core(*machines: Machine) -> Scheduling:
    made = Scheduling()
    assert made.handle(Facts(machines)) == []
    return made


def submit(scheduling: Scheduling, *tasks: Task, owner: str = "g", **more: Any) -> Instruction:
    (said,) = scheduling.handle(Submit(Request(owner, tasks, **more)))
    assert said.owner == owner
    return said


def placed(*args: Any, **more: Any) -> Place:
    said = submit(*args, **more)
    assert isinstance(said, Place), said
    return said


def process_of(place: Place, task: str) -> Process:
    (found,) = [p for p in place.processes if task in p.tasks]
    return found


def where(place: Place) -> dict[str, str]:
    return {task: p.machine for p in place.processes for task in p.tasks}


def why(place: Place, task: str) -> str:
    return process_of(place, task).reasons[task]


def chain(*ids: str, needs: Mapping[str, float] | None = None) -> list[Task]:
    return [Task(id, needs or {}, inputs=((before, MIB),)) for before, id in zip(("", *ids), ids, strict=False)]


# -- which machine ------------------------------------------------------------------------------------------------------------


def test_sequential_work_stays_where_its_data_is() -> None:
    place = placed(core(*map(machine, "abc")), *chain("load", "scale", "fit", needs={"CPU": 1}), data_on={"": "b"})
    assert where(place) == dict.fromkeys(("load", "scale", "fit"), "b")
    assert len(place.processes) == 3  # by default each task is a process
    assert why(place, "scale") == "its input from 'load' is there (1.0 MiB of 1.0 MiB)"


def test_where_the_drivers_data_is() -> None:
    place = placed(core(*map(machine, "abc")), Task("first", inputs=(("", 3 * MIB),)), data_on={"": "c"})
    assert where(place) == {"first": "c"} and why(place, "first") == "the driver's data is there (3.0 MiB of 3.0 MiB)"


def test_parallel_work_spreads() -> None:
    tasks = [Task("src"), *(Task(f"p{i}", inputs=(("src", 5),)) for i in range(8))]
    place = placed(core(*map(machine, "abc")), *tasks)
    assert Counter(where(place).values()) == {"a": 3, "b": 3, "c": 3}
    assert where(place)["p0"] == where(place)["src"]  # the first goes on where the data is, the others are parallel to it
    assert why(place, "p1") == "the least loaded of 3 machines"


def test_load_decides_where_parallel_work_goes() -> None:
    busy = machine("a", load=4.0)
    place = placed(core(busy, machine("b"), machine("c", 8)), *(Task(f"t{i}") for i in range(12)))
    assert Counter(where(place).values()) == {"b": 4, "c": 8}  # a is as loaded as if four of them ran there


def test_what_is_given_back_is_no_load_any_more() -> None:
    scheduling = core(*map(machine, "ab"))
    assert where(placed(scheduling, Task("t"), owner="g")) == {"t": "a"}
    scheduling.handle(Release("g"))
    assert where(placed(scheduling, Task("t"), owner="h")) == {"t": "a"}
    assert where(placed(scheduling, Task("t"), owner="i")) == {"t": "b"}


def test_what_others_reserve_is_load_too() -> None:
    place = placed(core(machine("a", reserved={"other": {"CPU": 3}}), machine("b")), *(Task(f"t{i}") for i in range(5)))
    assert Counter(where(place).values()) == {"a": 1, "b": 4}


def test_a_join_goes_where_most_of_its_bytes_are() -> None:
    tasks = [Task("a0"), Task("b0"), Task("c0"), Task("join", inputs=(("a0", MIB // 10), ("b0", 8 * MIB), ("c0", 0)))]
    place = placed(core(*map(machine, "abc")), *tasks)
    assert where(place)["join"] == where(place)["b0"] == "b"
    assert why(place, "join") == "its input from 'b0' is there (8.0 MiB of 8.1 MiB)"


def test_several_small_inputs_outweigh_a_larger_one() -> None:
    data = {"x": "a", "y": "a", "z": "b"}
    place = placed(core(*map(machine, "abc")), Task("join", inputs=(("z", 5), ("x", 3), ("y", 4))), data_on=data)
    assert where(place) == {"join": "a"} and why(place, "join") == "its input from 'y' is there (7 bytes of 12 bytes)"


def test_where_the_data_is_there_may_be_no_room() -> None:
    full = machine("a", reserved={"other": {"CPU": 4}})
    place = placed(core(full, machine("b"), machine("c")), Task("t", {"CPU": 1}, inputs=(("x", 9),)), data_on={"x": "a"})
    assert where(place) == {"t": "b"} and why(place, "t") == "the least loaded of 3 machines; a, where its data is, has no room"


def test_tags_are_hard() -> None:
    some = core(machine("a", tags=("ssd",)), machine("b", tags=("big", "ssd")), machine("c"))
    place = placed(some, Task("t", tags=("big",), inputs=(("x", 9),)), data_on={"x": "a"})
    assert where(place) == {"t": "b"} and why(place, "t") == "the only machine with the tags 'big'"
    place = placed(some, Task("u", tags=("ssd",)), owner="h")
    assert where(place) == {"u": "a"} and why(place, "u") == "the least loaded of 2 machines"
    place = placed(some, *(Task(f"v{i}", tags=("big",) if i == 3 else ()) for i in range(6)), owner="i", max_processes=1)
    assert [(p.machine, len(p.tasks)) for p in place.processes] == [("c", 3), ("b", 3)]  # one is not enough


def test_the_only_machine_says_so() -> None:
    assert why(placed(core(machine("a")), Task("t", {"CPU": 1})), "t") == "the only machine"
    place = placed(core(machine("a"), machine("b", has={"GPU": 2})), Task("t", {"GPU": 2, "CPU": 1}))
    assert why(place, "t") == "the only machine that has 1 CPU and 2 GPU"


# -- which process ------------------------------------------------------------------------------------------------------------


def test_one_autograd_graph_is_one_process() -> None:
    tasks = [Task("encode", {"CPU": 1}, together="net"), Task("side"), Task("decode", {"GPU": 1, "CPU": 2}, together="net")]
    place = placed(core(machine("a", has={"GPU": 1}), machine("b")), *tasks)
    both = process_of(place, "encode")
    assert both.tasks == ("encode", "decode") and both.needs == {"CPU": 2, "GPU": 1} and len(place.processes) == 2
    assert both.reasons["decode"] == "shares a process with 'encode': one autograd graph"


def test_neighbours_in_sequence_share_first() -> None:
    """Four chains of three on four CPUs: no parallelism is lost, in whatever order the tasks were written."""
    chains = [chain(*(f"{c}{i}" for i in range(3)), needs={"CPU": 1}) for c in "abcd"]
    for tasks in ([t for c in chains for t in c], [c[i] for i in range(3) for c in chains]):
        place = placed(core(machine("m")), *tasks)
        assert sorted(p.tasks for p in place.processes) == [tuple(t.id for t in c) for c in chains]
        assert why(place, "b1") == "shares a process with 'b0': 12 CPU were asked for together and the machine has 4"


def test_no_more_is_shared_than_need_be() -> None:
    place = placed(core(machine("m", 6)), *(t for c in "abcd" for t in chain(*(f"{c}{i}" for i in range(3)), needs={"CPU": 1})))
    assert len(place.processes) == 6


def test_who_asks_for_nothing_that_is_short_keeps_its_process() -> None:
    tasks = [*chain("a", "b", "c", needs={"CPU": 2}), Task("free", inputs=(("c", 1),)), Task("tape", {"tape": 1}, inputs=(("free", 1),))]
    place = placed(core(machine("m", has={"tape": 1})), *tasks)
    assert {p.tasks for p in place.processes} == {("a", "b"), ("c",), ("free",), ("tape",)}


def test_parallel_work_shares_when_there_is_no_sequence_left() -> None:
    place = placed(core(machine("m")), *(Task(f"p{i}", {"CPU": 1}) for i in range(10)))
    assert sorted(len(p.tasks) for p in place.processes) == [2, 2, 3, 3]
    assert why(place, "p4") == "shares a process with 'p0': 10 CPU were asked for together and the machine has 4"


def test_a_plan_that_would_paint_itself_into_a_corner_does_not_wait_for_itself() -> None:
    """3 + 1 CPU are taken when the one comes that needs all four: then it is one process."""
    place = placed(core(machine("m")), *(Task(f"t{i}", {"CPU": n}) for i, n in enumerate((3, 1, 2, 4))))
    assert [p.needs for p in place.processes] == [{"CPU": 4}]


def test_pieces_on_several_machines_are_no_whole() -> None:
    """Nine CPUs are enough for three times three, but not in threes: two processes fit."""
    place = placed(core(machine("a", 5), machine("b", 4)), *(Task(f"t{i}", {"CPU": 3}) for i in range(3)))
    assert len(place.processes) == 2 and {p.machine for p in place.processes} == {"a", "b"}
    assert "no machine had room for it by itself" in why(place, "t2")


def test_a_thousand_trivial_filters_are_not_a_thousand_processes() -> None:
    place = placed(core(machine("m")), *(Task(f"t{i}") for i in range(1000)))
    assert len(place.processes) == 64
    assert {len(p.tasks) for p in place.processes} == {15, 16}
    assert why(place, "t64") == "shares a process with 't0': 1,000 processes would be more than 64"
    assert len(placed(core(machine("m", 10)), *(Task(f"t{i}") for i in range(1000))).processes) == 160  # 16 for each core


@pytest.mark.parametrize("most", [1, 3, 7])
def test_max_processes_cuts_a_sequence_evenly(most: int) -> None:
    place = placed(core(machine("m")), *chain(*(f"t{i}" for i in range(70))), max_processes=most)
    assert len(place.processes) == most
    assert max(len(p.tasks) for p in place.processes) <= 3 * 70 / most
    for p in place.processes:  # pieces of the chain, not a mixture
        first = int(p.tasks[0][1:])
        assert p.tasks == tuple(f"t{first + i}" for i in range(len(p.tasks)))


def test_names_come_from_the_first_task_and_differ() -> None:
    scheduling = core(machine("m"))
    names = [p.name for owner in "xyz" for p in placed(scheduling, Task("encode"), Task("decode"), owner=owner).processes]
    assert len(set(names)) == 6
    stem, mark = names[0].rsplit("-", 1)
    assert stem == "encode" and len(mark) == 8 and int(mark, 16) >= 0
    again = core(machine("m", reserved={names[0]: {}}))  # another scheduler, while an actor of the first one lives
    assert placed(again, Task("encode"), owner="x").processes[0].name != names[0]


# -- GPUs ------------------------------------------------------------------------------------------------------------------------


def test_shares_of_gpus_lie_on_one() -> None:
    scheduling = core(machine("m", gpus=2))
    place = placed(scheduling, Task("a", {"GPU": 0.6}), Task("b", {"GPU": 0.6}))
    assert len(place.processes) == 2
    refused = submit(scheduling, Task("c", {"GPU": 0.7}), owner="h")  # 0.4 here and 0.4 there
    assert isinstance(refused, Refuse) and "task 'c' asked for 0.7 GPU; the machine has 2 GPU, of which" in refused.error
    assert isinstance(submit(scheduling, Task("c", {"GPU": 0.4}), owner="h"), Place)


def test_gpus_in_pieces_are_no_whole_gpu() -> None:
    """What the machine tells of its GPUs decides: two halves on two of them leave none whole."""
    halves = {"x": {"GPU": 0.5}, "y": {"GPU": 0.5}}
    apart = machine("m", gpus=2, reserved=halves, gpu_shares={"x": {"0": 0.5}, "y": {"1": 0.5}})
    on_one = machine("m", gpus=2, reserved=halves, gpu_shares={"x": {"0": 0.5}, "y": {"0": 0.5}})
    assert isinstance(submit(core(apart), Task("t", {"GPU": 1})), Refuse)
    assert isinstance(submit(core(on_one), Task("t", {"GPU": 1})), Place)


def test_a_gpu_and_a_half_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"task 't': GPU=1\.5: a share below 1, or whole GPUs"):
        Task("t", {"GPU": 1.5})


# -- refusals and waits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machines", "task", "text"), [
    ([], Task("t"), "there is work to do; there is no machine"),
    ([machine("a")], Task("t", {"CPU": 64}), "task 't' asked for 64 CPU; the machine has 4 CPU"),
    ([machine("a"), machine("b", 8, tags=("big",))], Task("t", {"GPU": 0.5, "CPU": 1}),
     "task 't' asked for 1 CPU and 0.5 GPU; a has 0 GPU; b has 0 GPU"),
    ([machine("a"), machine("b", 8, tags=("big", "ssd"))], Task("t", {"CPU": 1}, tags=("gpu",)),
     "task 't' asked for 1 CPU and the tags 'gpu'; a has no tags; b has the tags 'big', 'ssd'"),
    ([machine("a"), machine("b", 8, tags=("big",))], Task("t", {"CPU": 5}, tags=("ssd",)),
     "task 't' asked for 5 CPU and the tags 'ssd'; a has no tags; b has the tags 'big'"),
    ([machine("a", has={"memory": 2**30})], Task("t", {"memory": 3 * 2**30}),
     "task 't' asked for 3 GiB of memory; the machine has 1 GiB of memory"),
    ([machine(f"m{i}") for i in range(7)], Task("t", {"tape": 1}),
     "task 't' asked for 1 tape; m0 has 0 tape; m1 has 0 tape; m2 has 0 tape; m3 has 0 tape; m4 has 0 tape; and 2 more"),
])
@pytest.mark.parametrize("wait", [False, True])
def test_what_exceeds_every_machine_is_refused(machines: list[Machine], task: Task, text: str, wait: bool) -> None:
    assert submit(core(*machines), task, wait=wait) == Refuse("g", text)


def test_a_group_that_fits_only_apart_is_refused() -> None:
    refused = submit(core(machine("a", has={"GPU": 1}), machine("b", 8)), Task("x", {"GPU": 1}, together="k"),
                     Task("y", {"CPU": 8}, together="k"))
    assert isinstance(refused, Refuse) and refused.error.startswith("tasks 'x', 'y' in one process asked for 8 CPU and 1 GPU; a has 4 CPU")


def test_a_refusal_says_who_holds_it() -> None:
    scheduling = core(machine("a", reserved={"trainer": {"CPU": 3}}), machine("b"))
    first = placed(scheduling, Task("big", {"CPU": 4}))
    name = first.processes[0].name
    assert first.processes[0].machine == "b"
    assert submit(scheduling, Task("t", {"CPU": 2}), owner="h") == Refuse(
        "h", f"task 't' asked for 2 CPU; a has 4 CPU, of which 'trainer' holds 3; b has 4 CPU, of which '{name}' of 'g' holds 4")


def test_waiting_ends_when_it_fits() -> None:
    scheduling = core(machine("m", reserved={"x": {"CPU": 3}, "y": {"CPU": 1}}))
    assert isinstance(submit(scheduling, Task("t", {"CPU": 2}), wait=True), Waiting)
    assert scheduling.handle(Facts((machine("m", reserved={"x": {"CPU": 3}}),))) == []
    (granted,) = scheduling.handle(Facts((machine("m", reserved={"y": {"CPU": 1}}),)))
    assert isinstance(granted, Place) and granted.owner == "g"


def test_a_big_one_is_not_starved_by_small_ones() -> None:
    scheduling = core(machine("m"))
    placed(scheduling, Task("t", {"CPU": 2}), owner="first")
    assert isinstance(submit(scheduling, Task("t", {"CPU": 4}), owner="big", wait=True), Waiting)
    small = submit(scheduling, Task("t", {"CPU": 1}), owner="small", wait=True)
    assert small == Waiting("small", "task 't' asked for 1 CPU; the machine keeps it for somebody else; 'big' waited for it earlier")
    assert isinstance(submit(scheduling, Task("t", {"CPU": 1}), owner="hasty"), Refuse)
    assert isinstance(submit(scheduling, Task("t"), owner="modest"), Place)  # it asks for nothing that anybody waits for
    (granted,) = scheduling.handle(Release("first"))
    assert granted.owner == "big"
    (granted,) = scheduling.handle(Release("big"))
    assert granted.owner == "small"


def test_who_waits_for_one_machine_does_not_close_the_others() -> None:
    scheduling = core(machine("a", tags=("big",), reserved={"x": {"CPU": 4}}), machine("b"))
    assert isinstance(submit(scheduling, Task("t", {"CPU": 1}, tags=("big",)), owner="w", wait=True), Waiting)
    assert where(placed(scheduling, Task("t", {"CPU": 4}))) == {"t": "b"}


def test_who_withdraws_lets_others_pass() -> None:
    scheduling = core(machine("m", reserved={"x": {"CPU": 2}}))
    submit(scheduling, Task("t", {"CPU": 4}), owner="big", wait=True)
    submit(scheduling, Task("t", {"CPU": 1}), owner="small", wait=True)
    again = submit(scheduling, Task("t"), owner="big")
    assert isinstance(again, Refuse) and "waits already" in again.error
    (granted,) = scheduling.handle(Withdraw("big"))
    assert isinstance(granted, Place) and granted.owner == "small"
    assert scheduling.handle(Withdraw("big")) == scheduling.handle(Release("nobody")) == []


def test_a_machine_that_leaves_takes_its_hope_with_it() -> None:
    scheduling = core(machine("a"), machine("b", has={"GPU": 1}, reserved={"x": {"GPU": 1}}))
    submit(scheduling, Task("t", {"GPU": 1}), wait=True)
    assert scheduling.handle(Facts((machine("a"),))) == [Refuse("g", "task 't' asked for 1 GPU; the machine has 0 GPU")]


def test_what_was_placed_counts_until_its_actor_was_seen_and_is_gone() -> None:
    scheduling = core(machine("m"))
    (process,) = placed(scheduling, Task("t", {"CPU": 3})).processes
    there = machine("m", reserved={process.name: {"CPU": 3}})
    for facts, free in ((machine("m"), False), (there, False), (machine("m"), True)):
        scheduling.handle(Facts((facts,)))
        assert isinstance(submit(scheduling, Task("u", {"CPU": 2}), owner="probe"), Place if free else Refuse)
    assert not scheduling.holds(process.name)


def test_what_is_released_but_still_there_counts_as_anybodys() -> None:
    scheduling = core(machine("m"))
    (process,) = placed(scheduling, Task("t", {"CPU": 3})).processes
    there = machine("m", reserved={process.name: {"CPU": 3}})
    scheduling.handle(Facts((there,)))
    scheduling.handle(Release("g"))
    scheduling.handle(Facts((there,)))
    refused = submit(scheduling, Task("u", {"CPU": 2}), owner="h")
    assert isinstance(refused, Refuse) and f"of which '{process.name}' holds 3" in refused.error
    scheduling.handle(Facts((machine("m"),)))
    assert isinstance(submit(scheduling, Task("u", {"CPU": 2}), owner="h"), Place)


# -- mistakes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "text"), [
    (lambda: Request("", (Task("a"),)), "needs an owner and tasks"),
    (lambda: Request("g", ()), "needs an owner and tasks"),
    (lambda: Request("g", (Task("a"), Task("a"))), "task 'a' is there twice"),
    (lambda: Request("g", (Task("a", inputs=(("b", 1),)), Task("b"))), "task 'a' comes before its input 'b'"),
    (lambda: Request("g", (Task("a", inputs=(("a", 1),)),)), "task 'a' comes before its input 'a'"),
    (lambda: Request("g", (Task("a"),), max_processes=0), "max_processes=0"),
    (lambda: Task(""), "a task needs an id"),
    (lambda: Task("a", {"CPU": -1}), "task 'a': CPU=-1"),
    (lambda: Task("a", weight=float("nan")), "task 'a': weight=nan"),
    (lambda: Task("a", inputs=(("b", -1),)), "less than 0 bytes"),
    (lambda: Machine("m", {}, cores=0), "at least one core"),
    (lambda: Facts((machine("m"), machine("m"))), "two machines have one id"),
    (lambda: request_of({"owner": "g"}), "Request: .*tasks"),
    (lambda: request_of({"owner": "g", "tasks": [{"id": "a", "cpus": 1}]}), "Task has no cpus; it has id, needs"),
    (lambda: event_of({"kind": "Place"}), "kind='Place': one of Facts, Submit, Release, Withdraw"),
    (lambda: instruction_of({"kind": "Submit"}), "one of Place, Refuse, Waiting"),
])
def test_what_cannot_be_is_named(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


# -- any order of events ---------------------------------------------------------------------------------------------------------

RESOURCES = ("CPU", "GPU", "tape")
AMOUNTS: list[dict[str, float]] = [{}, {}, {"CPU": 1}, {"CPU": 0.1}, {"CPU": 2, "tape": 1}, {"tape": 1}, {"CPU": 0.5, "GPU": 1},
                                    {"GPU": 2}, {"CPU": 3}, {"CPU": 4}, {"CPU": 5, "GPU": 1, "tape": 2.5}]
MARKS: list[tuple[str, ...]] = [(), (), (), (), ("ssd",), ("big",), ("ssd", "big")]
FLEET = {"a": ({"CPU": 4, "tape": 1}, ()), "b": ({"CPU": 2, "GPU": 2}, ("ssd",)), "c": ({"CPU": 8, "GPU": 1, "tape": 3}, ("big", "ssd"))}


def random_tasks(random: Random) -> tuple[Task, ...]:
    """Drawn by one number: a list drawn task by task is so large that few of a run's steps would be requests."""
    tasks: list[Task] = []
    for i in range(random.randint(1, 12)):
        known = [t.id for t in tasks[-4:]] + ["", "elsewhere"]
        inputs = tuple((name, random.choice((0, 1, 1, 50))) for name in random.sample(known, random.randint(0, min(3, len(known)))))
        tasks.append(Task(f"t{i}", random.choice(AMOUNTS), random.choice(MARKS), inputs, random.choice((None, None, None, "k", "l")),
                          random.choice((1.0, 1.0, 0.3, 7.0))))
    return tuple(tasks)


task_lists = st.integers(0, 2**32).map(lambda seed: random_tasks(Random(seed)))


picks = st.integers(0, 50)


def chosen(names: Collection[str], pick: int) -> str:
    """One of them, or nobody."""
    return sorted(names)[pick % len(names)] if names else "nobody"


def exact(amount: float) -> Fraction:
    return Fraction(round(amount * 10_000), 10_000)


def mirrored(value: Any) -> Any:
    """The same plain data with the keys of each mapping the other way round."""
    if isinstance(value, dict):
        return {key: mirrored(value[key]) for key in reversed(list(value))}
    return [mirrored(item) for item in value] if isinstance(value, list) else value


class Cluster(RuleBasedStateMachine):
    """A scheduler, a cluster that does what it says, and plain sums to check both. GPUs are whole here."""

    @initialize(names=st.sampled_from(["a", "b", "c", "bc", "abc", "abc"]))
    def begin(self, names: str) -> None:
        self.names = list(names)
        self.cores = [Scheduling(), Scheduling()]
        self.log: list[dict[str, Any]] = []
        self.said: list[list[dict[str, Any]]] = []
        self.others: dict[str, tuple[str, dict[str, float]]] = {}
        self.alive: dict[str, tuple[str, Mapping[str, float]]] = {}
        self.own: dict[str, tuple[str, Process, bool]] = {}
        """What counts as placed: owner, process, whether its actor was seen."""
        self.told: dict[str, dict[str, dict[str, float]]] = {}
        self.requests: dict[str, Request] = {}
        self.waiting: list[str] = []
        self.count = 0
        self.look()

    # -- what happens ----------------------------------------------------------------------------------------------------------

    def tell(self, event: Any) -> list[Instruction]:
        """The event to all cores: as it is; and to one that hears everything in another order, and was restored from a snapshot."""
        plain = json.loads(json.dumps(as_dict(event)))
        assert event_of(plain) == event
        said = self.cores[0].handle(event)
        other = mirrored(plain)
        if "machines" in other:
            other["machines"].reverse()
        self.cores[1] = Scheduling.restore(json.loads(json.dumps(self.cores[1].snapshot())))
        assert self.cores[1].handle(event_of(other)) == said
        self.log.append({"event": plain})
        self.said.append([as_dict(i) for i in said])
        assert [instruction_of(json.loads(json.dumps(as_dict(i)))) for i in said] == said
        for instruction in said:
            self.check(instruction)
        return said

    @rule()
    def look(self) -> None:
        held: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self.names}
        for name, (where, needs) in (*self.others.items(), *self.alive.items()):
            held[where][name] = dict(needs)
        self.told = held
        for name, (owner, process, seen) in list(self.own.items()):
            here = name in held[process.machine]
            if seen and not here:
                del self.own[name]
            else:
                self.own[name] = (owner, process, seen or here)
        load = 0.25 * (self.count % 3)
        self.tell(Facts(tuple(Machine(n, FLEET[n][0], FLEET[n][1], 4, load=load, reserved=held[n]) for n in self.names)))

    @rule(tasks=task_lists, wait=st.booleans(), most=st.sampled_from([None, 1, 2, 5]), data=st.sampled_from("abcd"))
    def submit(self, tasks: tuple[Task, ...], wait: bool, most: int | None, data: str) -> None:
        self.ask(tasks, wait, most, data)

    @rule(tasks=task_lists, data=st.sampled_from("abc"))
    def submit_what_may_wait(self, tasks: tuple[Task, ...], data: str) -> None:
        self.ask(tasks, True, None, data)

    @rule(seed=st.integers(0, 2**32), most=st.sampled_from([1, 2, 5]))
    def submit_what_asks_for_little(self, seed: int, most: int) -> None:
        tasks = tuple(replace(t, needs={} if i % 2 else {"CPU": 0.1}) for i, t in enumerate(random_tasks(Random(seed))))
        self.ask(tasks, False, most, "a")

    def ask(self, tasks: tuple[Task, ...], wait: bool, most: int | None, data: str) -> None:
        self.count += 1
        request = Request(f"g{self.count}", tasks, wait, most, {"": data, "elsewhere": "a"})
        self.requests[request.owner] = request
        before = self.fitting(request)
        (said,) = self.tell(Submit(request))
        assert isinstance(said, Waiting) <= wait
        if before is None:
            assert isinstance(said, Refuse)
        elif not self.waiting or said.owner in self.waiting[:1]:  # nobody was first
            assert isinstance(said, Place) == before

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        owner = chosen({o for o, _, _ in self.own.values()}, pick)
        for name in [n for n, (o, _, _) in self.own.items() if o == owner]:
            _, process, _ = self.own.pop(name)
            self.told[process.machine].pop(name, None)
        self.tell(Release(owner))

    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        owner = chosen(self.waiting, pick)
        self.waiting = [w for w in self.waiting if w != owner]
        self.tell(Withdraw(owner))

    @rule(pick=picks)
    def an_actor_begins(self, pick: int) -> None:
        name = chosen(self.own, pick)
        if name in self.own:
            process = self.own[name][1]
            self.alive[name] = (process.machine, process.needs)

    @rule(pick=picks)
    def an_actor_ends(self, pick: int) -> None:
        self.alive.pop(chosen(self.alive, pick), None)

    @rule(where=st.sampled_from("abc"), needs=st.sampled_from(AMOUNTS))
    def somebody_else_comes(self, where: str, needs: dict[str, float]) -> None:
        if where in self.names:
            self.count += 1
            self.others[f"other{self.count}"] = (where, needs)

    @rule(pick=picks)
    def somebody_else_goes(self, pick: int) -> None:
        self.others.pop(chosen(self.others, pick), None)

    # -- what must be ----------------------------------------------------------------------------------------------------------

    def left(self, where: str) -> dict[str, Fraction]:
        left = {r: exact(FLEET[where][0].get(r, 0)) for r in RESOURCES}
        for name, needs in self.told[where].items():
            for r, n in needs.items() if name not in self.own else ():
                left[r] -= exact(n)
        for _, process, _ in self.own.values():
            for r, n in process.needs.items() if process.machine == where else ():
                left[r] -= exact(n)
        return left

    def fitting(self, request: Request) -> bool | None:
        """Whether each group of tasks has room somewhere now; None if one of them never had."""
        groups: dict[object, list[Task]] = defaultdict(list)
        for task in request.tasks:
            groups[task.together or ("alone", task.id)].append(task)
        now = True
        for tasks in groups.values():
            needs = {r: max(exact(t.needs.get(r, 0)) for t in tasks) for r in RESOURCES}
            hosts = [m for m in self.names if {g for t in tasks for g in t.tags} <= set(FLEET[m][1])
                     and all(n <= exact(FLEET[m][0].get(r, 0)) for r, n in needs.items())]
            if not hosts:
                return None
            now = now and any(all(n <= max(0, self.left(m)[r]) for r, n in needs.items()) for m in hosts)
        return now

    def check(self, said: Instruction) -> None:
        if isinstance(said, Waiting):
            self.waiting.append(said.owner)
            return
        if said.owner in self.waiting:
            self.waiting.remove(said.owner)
        if isinstance(said, Refuse):
            assert said.error.startswith("task")
            return
        request = self.requests[said.owner]
        assert sorted(t for p in said.processes for t in p.tasks) == sorted(t.id for t in request.tasks)
        tasks = {t.id: t for t in request.tasks}
        order = {t.id: i for i, t in enumerate(request.tasks)}
        groups: dict[str | None, set[str]] = defaultdict(set)
        for p in said.processes:
            assert list(p.tasks) == sorted(p.tasks, key=order.__getitem__)
            assert set(p.reasons) == set(p.tasks) and all(p.reasons.values())
            assert p.name.startswith(f"{p.tasks[0]}-") and p.name not in self.own and p.name not in self.alive
            for r in RESOURCES:
                assert exact(p.needs.get(r, 0)) == max(exact(tasks[t].needs.get(r, 0)) for t in p.tasks)
            for t in p.tasks:
                assert set(tasks[t].tags) <= set(FLEET[p.machine][1])
                groups[tasks[t].together].add(p.name)
            self.own[p.name] = (said.owner, p, False)
        assert all(len(names) == 1 for key, names in groups.items() if key is not None)
        if request.max_processes is not None and not any(t.tags or t.needs for t in request.tasks):
            assert len(said.processes) <= request.max_processes
        for p in said.processes:
            assert all(self.left(p.machine)[r] >= 0 for r, n in p.needs.items() if n)

    @invariant()
    def whoever_is_first_waits_because_it_must(self) -> None:
        if getattr(self, "waiting", None):
            assert self.fitting(self.requests[self.waiting[0]]) is False

    @invariant()
    def it_knows_what_counts(self) -> None:
        if hasattr(self, "cores"):
            state = self.cores[0].state()
            assert {p["name"] for p in state["placed"]} == set(self.own)
            assert state["waiting"] == self.waiting
            assert self.cores[1].state() == state

    def teardown(self) -> None:
        if hasattr(self, "log"):
            again, said = replay(json.loads(json.dumps(self.log)))
            assert said == self.said and again.snapshot() == self.cores[0].snapshot()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=120, stateful_step_count=40)


@given(task_lists)
def test_a_plan_never_waits_for_itself(tasks: tuple[Task, ...]) -> None:
    """On machines where nobody else is, whatever fits one by one is placed, however much it is together."""
    machines = [Machine(n, *FLEET[n], cores=4) for n in sorted(FLEET)]
    said = submit(core(*machines), *tasks)
    assert isinstance(said, Place) or "in one process" in said.error or any(not said.error.find(f"task '{t.id}'") for t in tasks)  # type: ignore[union-attr]
    alone = [submit(core(*machines), Task(t.id, t.needs, t.tags)) for t in tasks]
    if all(isinstance(one, Place) for one in alone) and all(t.together is None for t in tasks):
        assert isinstance(said, Place)


@given(st.lists(st.sampled_from([0.25, 0.5, 0.7, 1, 2]), min_size=1, max_size=8))
def test_shares_of_gpus_placed_together_can_be_given_together(shares: list[float]) -> None:
    """By the machine's own count, in the order placed."""
    from soma.actors.admission import Pool

    place = placed(core(machine("m", gpus=3)), *(Task(f"t{i}", {"GPU": n}) for i, n in enumerate(shares)))
    pool = Pool({"GPU": 3})
    assert all(pool.try_acquire(p.name, p.needs) for p in place.processes)


# -- cost ------------------------------------------------------------------------------------------------------------------------


def steps(tasks: int, machines: int) -> int:
    """Python functions called to place so many tasks, half of them in sequences, on so many machines."""
    scheduling = core(*(machine(f"m{i}", 8) for i in range(machines)))
    request = Request("g", tuple(Task(f"t{i}", {"CPU": 0.1}, inputs=((f"t{i - 1}", 1),) if i % 2 else ()) for i in range(tasks)))
    count = 0

    def note(frame: Any, what: str, arg: Any) -> None:
        nonlocal count
        count += what == "call"

    sys.setprofile(note)
    try:
        (said,) = scheduling.handle(Submit(request))
    finally:
        sys.setprofile(None)
    assert isinstance(said, Place)
    return count


def test_the_cost_is_linear_in_tasks() -> None:
    """Counted, not timed."""
    assert steps(2000, 1) < 5 * steps(500, 1)
    assert steps(2000, 50) < 5 * steps(500, 50)
    assert steps(2000, 200) < 2 * steps(2000, 10)
    assert steps(2000, 1) < 60 * 2000
