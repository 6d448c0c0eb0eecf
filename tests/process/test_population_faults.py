"""Populations in real processes: what is called how often, what order and deaths change (nothing), what is said when something fails."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import soma
from soma.errors import ActorDiedError, GraphError, NonFiniteError, NotSerializableError
from soma.events import Event, GenerationCompleted, GenerationStarted, MemberExploited, MetricReported, RunFailed
from soma.train.population import PopulationBased, PopulationResult, Turn

SPACE = {"lr": soma.search(1e-3, 1.0, scale="log"), "steps": (1, 9), "act": ["relu", "tanh"]}


class Task:
    """Walks towards 1 and writes down every call. `faults`: (generation, member) → what happens to the first call there, in `train`."""

    def __init__(self, log: Path, faults: dict[tuple[int, int], str] | None = None, delays: tuple[float, ...] = (), size: int = 3) -> None:
        self.log, self.faults, self.delays, self.size = log, faults or {}, delays, size

    def train(self, state: Any, params: dict[str, Any], turn: Turn) -> Any:
        first = self.note(f"train {turn.generation} {turn.member}")
        if self.delays:
            time.sleep(self.delays[turn.member])  # workload: decides who is done first
        match self.faults.get((turn.generation, turn.member)):
            case "kill" if first:
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill always":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise" if first:
                raise ValueError("diverged")
            case "none":
                return None
            case "nan" | "text" | "many" | "inf" as gives:
                return {"gives": gives}
        w = np.zeros(self.size) if state is None or "w" not in state else state["w"]
        for _ in range(params["steps"]):
            w += params["lr"] * (1 - w) * np.random.uniform(0.5, 1)  # the turn's own random numbers
        return {"w": w}

    def evaluate(self, state: Any) -> Any:
        self.note("evaluate")
        gives = {"nan": math.nan, "text": "0.5", "many": np.ones(2), "inf": -math.inf}
        return gives[state["gives"]] if "gives" in state else np.float32(-abs(1 - state["w"]).max())

    def note(self, line: str) -> bool:
        """Whether it is the first such line."""
        with open(self.log, "a+") as f:
            f.seek(0)
            known = line in f.read().splitlines()
            f.write(line + "\n")
        return not known

    def calls(self, what: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(what)]


def population(task: Task, **options: Any) -> PopulationBased:
    return PopulationBased(task.train, task.evaluate, SPACE, **{"seed": 3, "record": False, **options})


def told(result: PopulationResult) -> list[list[tuple[Any, ...]]]:
    """A history that can be compared, NaN included."""
    return [[(t.member, dict(t.params), t.source, repr(t.fitness), t.problem) for t in generation] for generation in result.history]


@pytest.fixture
def heard(shared_cluster: Any) -> Any:
    events: list[Event] = []
    stop = soma.on_event(events.append)
    yield events
    stop()


@pytest.fixture(scope="module")
def undisturbed(shared_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> PopulationResult:
    return population(Task(tmp_path_factory.mktemp("undisturbed") / "log")).fit()


def test_four_members_and_three_generations_are_twelve_calls(heard: list[Event], tmp_path: Path, undisturbed: PopulationResult) -> None:
    heard.clear()
    result = population(task := Task(tmp_path / "log")).fit()
    assert sorted(task.calls("train")) == sorted({f"train {g} {m}" for g in range(3) for m in range(4)})
    assert len(task.calls("evaluate")) == 12
    assert told(result) == told(undisturbed), "same seed, same run"
    best = max((t for g in result.history for t in g), key=lambda t: t.fitness)
    assert result.best == best and result.fitness == task.evaluate(result.state) and result.params == best.params
    assert result.schedule()[-1] == result.params and len(result.schedule()) == best.generation + 1
    assert "member" in repr(result) and len(repr(result)) < 200

    generations = [e for e in heard if isinstance(e, GenerationStarted)]
    assert [(e.generation, e.members) for e in generations] == [(0, 4), (1, 4), (2, 4)]
    assert [e.best for e in heard if isinstance(e, GenerationCompleted)] == [max(t.fitness for t in g) for g in result.history]
    exploited = [(t.generation, t.member, t.source) for g in result.history for t in g if t.exploits]
    assert exploited and exploited == [(e.generation, e.member, e.source) for e in heard if isinstance(e, MemberExploited)]
    reported = {(e.step, e.node): e.value for e in heard if isinstance(e, MetricReported) and e.name == "fitness"}
    assert reported == {(t.generation, f"member {t.member}"): t.fitness for g in result.history for t in g}


@pytest.mark.parametrize("delays", [(0.09, 0.06, 0.03, 0.0), (0.03, 0.0, 0.09, 0.06)])
def test_who_is_done_first_decides_nothing(undisturbed: PopulationResult, tmp_path: Path, delays: tuple[float, ...]) -> None:
    result = population(task := Task(tmp_path / "log", delays=delays)).fit()
    assert [line.split()[1] for line in task.calls("train")] == sorted("012" * 4), "no generation begins before the last one is over"
    assert told(result) == told(undisturbed)


def test_fewer_processes_than_members_decide_nothing(undisturbed: PopulationResult, tmp_path: Path) -> None:
    assert told(population(Task(tmp_path / "log"), num_cpus=2).fit()) == told(undisturbed)  # two at once on four CPUs
    assert told(population(Task(tmp_path / "log"), num_cpus=0).fit()) == told(undisturbed)
    assert soma.available_resources()["CPU"] == 4, "all is given back"


class Meeting:
    """Nobody goes on before all are here."""

    def __init__(self, size: int) -> None:
        self.size, self.here, self.complete = size, 0, asyncio.Event()

    async def arrive(self) -> None:
        self.here += 1
        if self.here == self.size:
            self.complete.set()
        await self.complete.wait()


def test_members_train_at_the_same_time(shared_cluster: Any) -> None:
    meetings = [soma.remote(Meeting).remote(4) for _ in range(2)]

    def train(state: Any, params: Any, turn: Turn) -> Any:
        soma.get(meetings[turn.generation].arrive.remote(), timeout=20)  # alone it would never come back
        return [os.getpid()]

    result = PopulationBased(train, lambda state: float(state[0]), SPACE, generations=2, record=False).fit()
    assert len({t.fitness for t in result.history[1]}) == 4, "a process for each"


def test_states_do_not_pass_through_this_process(shared_cluster: Any, tmp_path: Path) -> None:
    """Eight members' states of 8 MB each: this process would grow by them if it opened them."""
    task = Task(tmp_path / "log", size=2**20)
    population(task, members=2, generations=1).fit()
    before = psutil.Process().memory_full_info().uss
    result = population(task, members=4, generations=2).fit()
    assert psutil.Process().memory_full_info().uss - before < 12 * 2**20 and result.state["w"].shape == (2**20,)


# -- what fails ------------------------------------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("faults", [{(0, 1): "kill"}, {(1, 0): "kill", (2, 3): "kill", (1, 2): "kill"}])
def test_a_killed_process_costs_a_turn_and_nothing_else(undisturbed: PopulationResult, tmp_path: Path, faults: Any) -> None:
    result = population(task := Task(tmp_path / "log", faults)).fit()
    assert told(result) == told(undisturbed)
    assert len(task.calls("train")) == 12 + len(faults) and len(task.calls("evaluate")) == 12
    assert {line for line in task.calls("train") if task.calls("train").count(line) > 1} == {f"train {g} {m}" for g, m in faults}


@pytest.mark.crash
def test_large_states_survive_the_process_that_made_them(shared_cluster: Any, tmp_path: Path) -> None:
    faults = {(g, m): "kill" for g in (1, 2) for m in range(4)}
    killed = population(Task(tmp_path / "killed", faults, size=2**17), max_failures=8).fit()
    whole = population(Task(tmp_path / "whole", size=2**17)).fit()
    assert told(killed) == told(whole)
    np.testing.assert_array_equal(killed.state["w"], whole.state["w"])


@pytest.mark.crash
def test_kills_at_any_moment_change_nothing(undisturbed: PopulationResult, tmp_path: Path) -> None:
    log, over, draw = tmp_path / "pids", threading.Event(), random.Random()
    log.touch()

    class Watched(Task):
        def train(self, state: Any, params: dict[str, Any], turn: Turn) -> Any:
            with open(log, "a") as f:
                f.write(f"{os.getpid()}\n")
            return super().train(state, params, turn)

    def kill() -> None:
        while not over.wait(draw.uniform(0.005, 0.04)):
            training = set(map(int, log.read_text().split()))
            if alive := [p for p in psutil.Process().children(recursive=True) if p.pid in training]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    draw.choice(alive).kill()

    (killer := threading.Thread(target=kill)).start()
    try:
        result = population(Watched(tmp_path / "log", delays=(0.01, 0.02, 0.0, 0.01)), max_failures=10_000).fit()
    finally:
        over.set()
        killer.join()
    assert told(result) == told(undisturbed)


@pytest.mark.crash
@pytest.mark.parametrize("allowed", [0, 2])
def test_one_that_dies_again_and_again_is_named(heard: list[Event], tmp_path: Path, allowed: int) -> None:
    task = Task(tmp_path / "log", {(1, 2): "kill always"})
    with pytest.raises(ActorDiedError) as caught:
        population(task, max_failures=allowed, on_error="exploit").fit()
    notes = "\n".join(caught.value.__notes__)
    assert caught.value.signal == "SIGKILL" and "in member 2, generation 1 (lr=" in notes and f"max_failures={allowed}" in notes
    assert task.calls("train").count("train 1 2") == allowed + 1
    assert [e.error_type for e in heard if isinstance(e, RunFailed)] == ["ActorDiedError"]


def test_what_a_member_raises_arrives_as_itself(shared_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged") as caught:
        population(Task(tmp_path / "log", {(1, 3): "raise"})).fit()
    assert any(n.startswith("in member 3, generation 1 (lr=") for n in caught.value.__notes__)
    assert "in train" in str(caught.value.__cause__)


def test_or_it_takes_over_a_better_one(shared_cluster: Any, tmp_path: Path) -> None:
    result = population(Task(tmp_path / "log", {(0, 1): "raise", (0, 2): "nan", (0, 3): "inf"}), on_error="exploit").fit()
    first, second = result.history[:2]
    assert [t.problem for t in first] == ["", "ValueError: diverged", "its fitness is nan", "its fitness is -inf"]
    assert [t.source for t in second] == [0, 0, 0, 0] and not any(t.problem for t in second)


def test_if_all_raise_the_first_error_is_raised(shared_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"):
        population(Task(tmp_path / "log", {(1, m): "raise" for m in range(4)}), on_error="exploit").fit()


def test_no_fitness_at_all(shared_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"generation 1: .*member 0, generation 1 \(lr=.*: its fitness is nan; member 1.*is -inf"):
        population(Task(tmp_path / "log", {(1, 0): "nan", (1, 1): "inf", (1, 2): "nan", (1, 3): "nan"})).fit()


@pytest.mark.parametrize(("gives", "says"), [
    ("text", r"evaluate gave '0.5' \(str\), which is no number, for member 2, generation 1"),
    ("many", r"evaluate gave array\(\[1., 1.\]\)"), ("none", "train gave None, not the new state, for member 2, generation 1")])
def test_what_is_no_number_or_no_state(shared_cluster: Any, tmp_path: Path, gives: str, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        population(Task(tmp_path / "log", {(1, 2): gives})).fit()


def test_what_cannot_travel_is_named(shared_cluster: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(NotSerializableError, match="lock"):
        PopulationBased(lambda state, params: lock, lambda state: 0.0, SPACE, record=False).fit()
    with pytest.raises(NotSerializableError, match=r"result\[0\]") as caught:
        PopulationBased(lambda state, params: threading.Lock(), lambda state: 0.0, SPACE, record=False).fit()
    assert any("generation 0" in n for n in caught.value.__notes__)


@pytest.mark.crash
def test_ctrl_c_ends_the_members(shared_cluster: Any, tmp_path: Path) -> None:
    driver, log = os.getpid(), tmp_path / "pids"

    def train(state: Any, params: Any) -> Any:
        with open(log, "a") as f:
            f.write(f"{os.getpid()}\n")
        if len(log.read_text().splitlines()) == 4:
            os.kill(driver, signal.SIGINT)
        time.sleep(60)  # workload: ended by the interrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        PopulationBased(train, lambda state: 0.0, SPACE, record=False).fit()
    pids = log.read_text().split()
    assert time.monotonic() - began < 10 and len(pids) == 4 and not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


# -- checkpoints -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exploit", ["truncation", "binary"])
def test_a_run_that_was_cut_off_goes_on_as_it_would_have(shared_cluster: Any, tmp_path: Path, exploit: str) -> None:
    options = {"exploit": exploit, "generations": 4, "members": 3, "mode": "max"}
    whole = population(Task(tmp_path / "whole"), **options).fit()
    file = tmp_path / "deep" / "population.safetensors"
    with pytest.raises(ValueError, match="diverged"):
        population(Task(tmp_path / "log", {(2, 1): "raise"}), checkpoint=file, **options).fit(resume=True)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    task = Task(tmp_path / "rest")
    rest = population(task, checkpoint=file, **options).fit(resume=True)
    assert told(rest) == told(whole) and len(task.calls("train")) == 6
    np.testing.assert_array_equal(rest.state["w"], whole.state["w"])

    done = population(idle := Task(tmp_path / "idle"), checkpoint=file, **options).fit(resume=True)
    assert told(done) == told(whole) and not idle.log.exists(), "nothing was left to do"
    np.testing.assert_array_equal(done.state["w"], whole.state["w"])


def test_the_best_of_an_earlier_generation_is_kept_too(shared_cluster: Any, tmp_path: Path) -> None:
    def train(state: Any, params: Any, turn: Turn) -> Any:
        return {"value": 10 - turn.generation - turn.member}

    options = {"checkpoint": tmp_path / "p", "record": False}
    first = PopulationBased(train, lambda s: s["value"], SPACE, generations=2, **options).fit()
    again = PopulationBased(train, lambda s: s["value"], SPACE, generations=3, **options).fit(resume=True)
    assert first.state == again.state == {"value": 10} and (again.best.generation, again.best.member) == (0, 0)
    assert len(again.history) == 3 and again.schedule() == [again.params]


def test_another_population_does_not_go_on_from_it(shared_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "p"
    population(Task(tmp_path / "log"), checkpoint=file, generations=1).fit()
    with pytest.raises(ValueError, match="another population: exploit: 'truncation' there, 'binary' here; seed: 3 there, 4 here"):
        population(Task(tmp_path / "log"), checkpoint=file, exploit="binary", seed=4).fit(resume=True)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(GraphError, match="cannot be read"):
        population(Task(tmp_path / "log"), checkpoint=file).fit(resume=True)


def test_a_state_that_only_pickle_can_write_is_named(shared_cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(NotSerializableError, match=r"state\['states'\]\[0\]\['w'\]"):
        PopulationBased(lambda s, p: {"w": range(3)}, lambda s: 0.0, SPACE, checkpoint=tmp_path / "p", record=False).fit()
