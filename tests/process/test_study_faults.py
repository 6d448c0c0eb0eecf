"""Studies on real processes: drivers and trials that are killed, hang, exit or cannot even begin. The total stays exact, nothing is tried
twice, nobody else is harmed, and nothing is left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleets import until

import soma
from soma.errors import ActorInitError, NotSerializableError, PlacementError
from soma.events import Event, StudyProgress, TrialFailed
from soma.study import FinishedTrial

pytest.importorskip("optuna")
pytestmark = pytest.mark.crash

ENDED = ("completed", "pruned", "failed")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Any]:
    with soma.init(num_cpus=3, log_to_driver=False) as context:
        yield context


def study(space: Any = None, **options: Any) -> soma.Study:
    return soma.Study("s", space, **{"storage": "memory", "seed": 0, "sampler": "random", **options})


def run(it: soma.Study, objective: Callable[[Any], Any], n_jobs: int = 2, **options: Any) -> soma.Study:
    return it.run(objective, n_jobs=n_jobs, progress=False, record=False, **options)


def test_within_the_driver_itself() -> None:
    with soma.init(local=True):
        it = study({"x": (0.0, 1.0)}, n_trials=4, pruner="median")
        run(it, lambda trial: trial.report("value", trial["x"]) or trial.should_prune() or trial["x"])
        assert len(it.trials) == 4 and all(t.state in ("completed", "pruned") for t in it.trials)


# -- drivers -----------------------------------------------------------------------------------------------------------------------

SPACE = {"x": (0.0, 1.0), "k": ["a", "b"]}
SEEDS = [1, 2]
CONFIGS = 9

SCRIPT = f"""
import os, sys, time
import soma

def objective(trial):
    with open("log", "a") as f:
        f.write(f"{{trial.number}}\\n")
    name = os.environ["DRIVER"]
    if os.path.exists(name + ".blocks"):
        open(name + ".blocked", "w").close()
        while os.path.exists(name + ".blocks"):
            time.sleep(0.002)  # workload
    for step in range(3):
        trial.report("value", trial["x"], step)
        trial.report("other", 1.0, step)
        time.sleep(0.003)  # workload
    trial.note("n", 1)
    return trial["x"]

if __name__ == "__main__":
    soma.init(num_cpus=2, log_to_driver=False)
    study = soma.Study("s", {SPACE!r}, n_trials={CONFIGS}, seeds={SEEDS!r}, seed=0, sampler="random", storage=eval(os.environ["STORAGE"]))
    study.run(objective, n_jobs=int(os.environ["JOBS"]), progress=False, record=False)
"""


class Drivers:
    """Processes that run the script in one directory."""

    def __init__(self, path: Path, storage: str | None) -> None:
        self.path, self.storage = path, storage
        (path / "script.py").write_text(SCRIPT)
        (path / "log").touch()
        self.began: list[subprocess.Popen[str]] = []

    def start(self, name: str = "a", jobs: int = 2) -> subprocess.Popen[str]:
        env = {**os.environ, "DRIVER": name, "STORAGE": repr(self.storage), "JOBS": str(jobs), "SOMA_RUNS": str(self.path)}
        self.began.append(subprocess.Popen([sys.executable, "script.py"], cwd=self.path, env=env, stdin=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE, text=True))
        return self.began[-1]

    def ends(self, process: subprocess.Popen[str], code: int = 0) -> str:
        _, said = process.communicate(timeout=25)
        assert process.returncode == code, said
        return said

    def blocks(self, name: str, value: bool = True) -> None:
        (self.path / f"{name}.blocks").touch() if value else (self.path / f"{name}.blocks").unlink()

    def begun(self) -> int:
        return len((self.path / "log").read_text().splitlines())

    def until_begun(self, count: int, process: subprocess.Popen[str]) -> None:
        until(lambda: self.begun() >= count or process.poll() is not None, 20)

    def found(self) -> soma.Study:
        return soma.Study("s", SPACE, n_trials=CONFIGS, seeds=SEEDS, seed=0, sampler="random", storage=self.storage)

    def trials(self) -> list[FinishedTrial]:
        return self.found().trials


@pytest.fixture
def drivers(runs: Path, request: pytest.FixtureRequest) -> Iterator[Drivers]:
    made = Drivers(runs, getattr(request, "param", None))
    yield made
    for process in made.began:
        if process.poll() is None:
            process.kill()
            process.communicate()


def exactly_as_planned(trials: list[FinishedTrial]) -> None:
    """Each configuration once with each seed, but for repeats of what was interrupted; each of those repeated once."""
    assert [t.number for t in trials] == list(range(len(trials))) and all(t.state in ENDED for t in trials)
    repeated = Counter(t.repeat_of for t in trials if t.repeat_of is not None)
    assert max(repeated.values(), default=1) == 1
    assert {t.error_type for t in trials if t.number in repeated} <= {"DriverDied", "Interrupted"}
    final = [t for t in trials if t.number not in repeated]
    assert sorted((t.config, t.seed) for t in final) == list(itertools.product(range(CONFIGS), SEEDS))
    assert all(t.state == "completed" and t.value == t.params["x"] for t in final)
    assert all(t.metrics["value"] == dict.fromkeys(range(3), t.params["x"]) and t.metrics["other"][2] == 1.0 for t in final)
    assert len({(t.config, *t.params.items()) for t in final}) == CONFIGS


@pytest.mark.parametrize(("drivers", "rounds"), [(None, 2), ("journal", 2)], indirect=["drivers"])
def test_a_driver_that_is_killed_at_any_moment_repeats_nothing_that_has_ended(drivers: Drivers, rounds: int) -> None:
    chance = random.Random()
    before: list[FinishedTrial] = []
    for _ in range(rounds):
        process, enough = drivers.start(), drivers.begun() + chance.randrange(1, 7)
        drivers.until_begun(enough, process)
        threading.Event().wait(chance.random() * 0.02)
        process.kill()
        process.communicate()
        now = drivers.trials()
        ended = [t for t in before if t.state in ENDED]
        assert [now[t.number] for t in ended] == ended
        before = now
    drivers.ends(drivers.start())
    now = drivers.trials()
    assert [now[t.number] for t in before if t.state in ENDED] == [t for t in before if t.state in ENDED]
    exactly_as_planned(now)
    assert drivers.begun() <= len(now)  # nothing ran twice under one number


def test_two_drivers_share_a_study_without_doubles(drivers: Drivers) -> None:
    drivers.blocks("a"), drivers.blocks("b")
    a, b = drivers.start("a", jobs=1), drivers.start("b", jobs=1)
    until(lambda: all((drivers.path / f"{n}.blocked").exists() for n in "ab"), 20)  # each has one
    drivers.blocks("a", False), drivers.blocks("b", False)
    drivers.ends(a), drivers.ends(b)
    trials = drivers.trials()
    exactly_as_planned(trials)
    assert len(trials) == CONFIGS * len(SEEDS) == drivers.begun() and len({t.worker["pid"] for t in trials}) == 2


def test_what_a_driver_had_under_way_when_it_died_is_done_by_the_other(drivers: Drivers) -> None:
    drivers.blocks("a"), drivers.blocks("b")
    a, b = drivers.start("a", jobs=1), drivers.start("b", jobs=1)
    until(lambda: all((drivers.path / f"{n}.blocked").exists() for n in "ab"), 20)
    b.kill()
    b.communicate()
    drivers.blocks("a", False)
    drivers.ends(a)
    trials = drivers.trials()
    exactly_as_planned(trials)
    assert [t.error_type for t in trials if t.state == "failed"] == ["DriverDied"]
    assert len(trials) == CONFIGS * len(SEEDS) + 1


def test_ctrl_c_puts_running_trials_back(drivers: Drivers) -> None:
    drivers.blocks("a")
    process = drivers.start()
    until(lambda: drivers.begun() == 2, 20)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in drivers.ends(process, -signal.SIGINT)
    trials = drivers.trials()
    assert Counter(t.error_type for t in trials if t.state == "failed") == {"Interrupted": 2}
    assert sorted(t.repeat_of for t in trials if t.repeat_of is not None) == [t.number for t in trials if t.state == "failed"]
    drivers.blocks("a", False)
    drivers.ends(drivers.start())
    exactly_as_planned(drivers.trials())


# -- trials ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared_cluster")
@pytest.mark.parametrize(("death", "named"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"), (lambda: os._exit(3), "3")])
def test_a_trial_that_dies_with_its_process_fails_and_others_are_unharmed(death: Callable[[], None], named: str) -> None:
    def objective(trial: Any) -> float:
        if trial["n"] == 2:
            death()
        return float(trial["n"])

    it = study({"n": (0, 7)}, sampler="grid", points=8)
    told: list[Event] = []
    stop = soma.on_event(told.append)
    run(it, objective)
    stop()
    assert [t.state for t in it.trials] == ["completed"] * 2 + ["failed"] + ["completed"] * 5
    failed = it.trials[2]
    assert named in failed.error and failed.error_type == "ActorDiedError" and failed.worker["pid"]
    assert [e.trial for e in told if isinstance(e, TrialFailed)] == [2]
    assert [e.done for e in told if isinstance(e, StudyProgress)] == list(range(1, 9))


@pytest.mark.usefixtures("shared_cluster")
def test_a_trial_that_dies_is_retried_as_asked() -> None:
    def objective(trial: Any) -> float:
        if trial["n"] == 1 and trial.attempt < 2 or trial["n"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(trial["n"])

    it = study({"n": (0, 3)}, sampler="grid", points=4, max_retries=2)
    told: list[Event] = []
    stop = soma.on_event(told.append)
    run(it, objective)
    stop()
    ends = {n: [(t.state, t.attempt) for t in it.trials if t.params["n"] == n] for n in range(4)}
    assert ends == {0: [("completed", 0)], 1: [("failed", 0), ("failed", 1), ("completed", 2)],
                    2: [("failed", 0), ("failed", 1), ("failed", 2)], 3: [("completed", 0)]}
    last = [e for e in told if isinstance(e, StudyProgress)][-1]
    assert (last.done, last.failed, last.running) == (4, 1, 0)


@pytest.mark.usefixtures("shared_cluster")
def test_a_worker_that_dies_between_trials_costs_none() -> None:
    def kill(which: soma.Study, trial: FinishedTrial) -> None:
        if trial.number == 0:
            worker = psutil.Process(trial.worker["pid"])
            worker.kill()
            psutil.wait_procs([worker], timeout=10)

    it = study({"n": (0, 3)}, sampler="grid", points=4)
    run(it, lambda trial: float(trial["n"]), n_jobs=1, callbacks=[kill])
    repeated = {t.repeat_of for t in it.trials}
    assert sorted(t.value for t in it.trials if t.number not in repeated) == [0.0, 1.0, 2.0, 3.0]
    assert all(t.error_type == "ActorDiedError" for t in it.trials if t.number in repeated)


@pytest.mark.usefixtures("shared_cluster")
def test_trials_that_never_end_are_ended() -> None:
    def objective(trial: Any) -> float:
        match trial["how"]:
            case "sleeps":
                time.sleep(60)  # workload
            case "counts":  # in C, where no exception reaches it
                sum(itertools.repeat(0, 10**13))
            case "swallows":
                while True:
                    with contextlib.suppress(BaseException):
                        time.sleep(60)  # workload
        return 1.0

    it = study({"how": ["sleeps", "counts", "swallows", "ends"]}, sampler="grid", trial_timeout=0.4)
    run(it, objective, n_jobs=3)
    assert [(t.state, t.error_type) for t in it.trials] == [("failed", "TrialTimeout")] * 3 + [("completed", "")]
    durations = [t.duration_s or 0.0 for t in it.trials]
    assert all(0.4 <= d < 6 for d in durations[:3]) and it.best_value == 1.0


@pytest.mark.usefixtures("shared_cluster")
def test_a_pruned_trial_that_goes_on_is_ended_after_its_grace() -> None:
    def objective(trial: Any) -> float:
        trial.report("value", trial["n"])
        if trial["n"] > 0:
            sum(itertools.repeat(0, 10**13))  # it never asks, and hears nothing
        return 0.0

    it = study({"n": (0, 1)}, sampler="grid", points=2, pruner="median", prune_grace=0.2)
    run(it, objective, n_jobs=1)
    first, second = it.trials
    assert (first.state, second.state, second.metrics) == ("completed", "pruned", {"value": {0: 1.0}})
    assert second.duration_s is not None and 0.2 <= second.duration_s < 0.2 + 2 + 2


@pytest.mark.usefixtures("shared_cluster")
def test_a_trial_waits_for_the_verdict_on_what_it_reported() -> None:
    def objective(trial: Any) -> float:
        for step in range(20):
            trial.report("value", trial["n"], step)
            if trial.should_prune():
                raise soma.study.TrialPruned
        return float(trial["n"])

    it = study({"n": (0, 3)}, sampler="grid", points=4, pruner="median")
    run(it, objective, n_jobs=1)
    assert [(t.state, len(t.metrics["value"])) for t in it.trials] == [("completed", 20)] + [("pruned", 1)] * 3


@pytest.mark.usefixtures("shared_cluster")
def test_a_pruner_that_breaks_ends_the_run_and_nobody_waits_for_it() -> None:
    import optuna

    class Broken(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            raise ZeroDivisionError("no verdict")

    def objective(trial: Any) -> float:
        trial.report("value", 1.0)
        return float(trial.should_prune())

    it = study(pruner=Broken(), n_trials=2)
    with pytest.raises(ZeroDivisionError, match="no verdict"):
        run(it, objective)
    assert {t.error_type for t in it.trials if t.state == "failed"} == {"Interrupted"}


# -- what cannot begin -------------------------------------------------------------------------------------------------------------


class Unloadable:
    """Can be sent, and cannot be received."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return _refuse, (self.name,)

    def __call__(self, trial: Any) -> float:
        return 0.0


def _refuse(name: str) -> Any:
    raise RuntimeError("it cannot be made again")


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be sent")


@pytest.mark.usefixtures("shared_cluster")
def test_an_objective_that_cannot_travel_is_an_error_at_once() -> None:
    lock = threading.Lock()
    it = study(n_trials=2, pruner="median")
    with pytest.raises(NotSerializableError, match="cannot pickle '_thread.lock' object"):
        run(it, lambda trial: lock)
    assert it.trials == []
    with pytest.raises(ActorInitError, match="it cannot be made again"):
        run(it, Unloadable())
    run(it, lambda trial: 1.0)
    repeated = {t.repeat_of for t in it.trials}
    assert [t.state for t in it.trials if t.number not in repeated] == ["completed"] * 2


@pytest.mark.usefixtures("shared_cluster")
def test_parameters_that_cannot_travel_fail_their_trial() -> None:
    it = study({"choice": ["fine", Unsendable(), Unloadable(), "fine too"]}, sampler="grid")
    run(it, lambda trial: 1.0)
    assert [t.state for t in it.trials] == ["completed", "failed", "failed", "completed"]
    assert "it cannot be sent" in it.trials[1].error and "it cannot be made again" in it.trials[2].error


@pytest.mark.usefixtures("shared_cluster")
def test_what_no_machine_has_is_refused_by_name() -> None:
    with pytest.raises(PlacementError, match="asked for 1 GPU; the cluster has 0"):
        run(study(n_trials=1, num_gpus=1), lambda trial: 1.0)


# -- room ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared_cluster")
@pytest.mark.parametrize(("n_jobs", "options", "at_once"), [(-1, {}, 3), (-1, {"num_cpus": 2}, 1), (9, {"num_cpus": 1.5}, 2),
                                                            (2, {"num_cpus": 0}, 2)])
def test_as_many_trials_at_once_as_find_room(tmp_path: Path, n_jobs: int, options: dict[str, Any], at_once: int) -> None:
    def objective(trial: Any) -> float:
        """The first ones wait for each other."""
        (tmp_path / str(trial.number)).touch()
        end = time.monotonic() + 10
        while len(list(tmp_path.glob("[0-9]*"))) < at_once and time.monotonic() < end:
            time.sleep(0.002)  # workload
        return 1.0

    it = study({"x": (0.0, 1.0)}, n_trials=8, **options)
    run(it, objective, n_jobs=n_jobs)
    assert len({t.worker["pid"] for t in it.trials}) == at_once and len(it.trials) == 8
    assert all((t.duration_s or 0) < 9 for t in it.trials)
