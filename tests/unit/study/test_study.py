"""`soma.Study` in one process: what is tried, what becomes of it, what is told, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soma
from soma.errors import SpaceError, StudyError
from soma.events import BestUpdated, Event, StudyCompleted, StudyProgress, StudyStarted, TrialCompleted, TrialFailed, TrialMetric
from soma.runs import load_run

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOMA_RUNS", str(tmp_path))
    return tmp_path


def study(space: Any = None, **options: Any) -> soma.Study:
    """One that leaves nothing behind."""
    return soma.Study("s", space, **{"storage": "memory", "seed": 0, **options})


def run(it: soma.Study, objective: Callable[[Any], Any], **options: Any) -> list[Event]:
    """Here; what was told."""
    heard: list[Event] = []
    stop = soma.on_event(heard.append)
    try:
        it.run(objective, n_jobs=0, progress=False, **{"record": False, **options})
    finally:
        stop()
    return heard


def of(kind: type[Event], events: list[Event]) -> list[Any]:
    return [e for e in events if isinstance(e, kind)]


# -- what is tried -----------------------------------------------------------------------------------------------------------------


def test_a_grid_is_gone_through_in_order_the_last_dimension_fastest() -> None:
    it = study({"lr": soma.search(1e-3, 1e-1, scale="log"), "kernel": ["rbf", "linear"]}, sampler="grid", points=3)
    events = run(it, lambda trial: trial["lr"])
    assert [(t.params["lr"], t.params["kernel"]) for t in it.trials] == list(itertools.product([0.001, 0.01, 0.1], ["rbf", "linear"]))
    assert of(StudyStarted, events)[0].total == it.total == 6


def test_five_by_two_are_ten_and_whole_numbers_come_once() -> None:
    it = study({"x": (0.0, 1.0), "n": (1, 2)}, sampler="grid")
    run(it, lambda trial: trial["x"])
    tried = [(t.params["x"], t.params["n"]) for t in it.trials]
    assert tried == list(itertools.product([0.0, 0.25, 0.5, 0.75, 1.0], [1, 2]))
    assert all(type(n) is int for _, n in tried)


def test_an_empty_space_is_one_trial_and_so_is_one_that_is_frozen() -> None:
    for it in (study(), study({"x": (0.0, 1.0)}, frozen={"x": 0.5})):
        events = run(it, lambda trial: 1.0)
        assert len(it.trials) == it.total == of(StudyStarted, events)[0].total == 1
    assert it.best_params == {"x": 0.5}


def test_the_textbook_case_of_median_pruning() -> None:
    """Losses 1, 2, 3, 4 at every step: the first completes, what is strictly worse than the median of those that completed is pruned."""
    losses = iter([1.0, 2.0, 3.0, 4.0])

    def objective(trial: Any) -> float:
        loss = next(losses)
        for step in range(5):
            trial.report("value", loss, step)
            if trial.should_prune():
                raise soma.study.TrialPruned
        return loss

    it = study(pruner="median", n_trials=4)
    run(it, objective)
    assert [t.state for t in it.trials] == ["completed", "pruned", "pruned", "pruned"]
    assert it.best_value == 1.0
    assert [len(t.metrics["value"]) for t in it.trials] == [5, 1, 1, 1]


def test_what_is_as_good_as_the_median_is_not_pruned() -> None:
    it = study(pruner="median", n_trials=3)
    run(it, lambda trial: trial.report("value", 1.0) or trial.should_prune() or 1.0)
    assert [t.state for t in it.trials] == ["completed"] * 3


SPACE = {"lr": soma.search(1e-4, 1e-1, scale="log"), "n": (1, 100), "k": ["a", "b"]}


def objective(trial: Any) -> float:
    return math.log(trial["lr"]) ** 2 + trial["n"] + (trial["k"] == "a")


def tried(sampler: str, seed: int, storage: str | None = "memory") -> list[Any]:
    it = study(SPACE, sampler=sampler, seed=seed, n_trials=14, storage=storage)
    run(it, objective)
    return [[*t.params.values(), t.seed] for t in it.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "qmc", "nsgaii"])
def test_the_same_seed_tries_the_same(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    first = tried(sampler, 3)
    assert first == tried(sampler, 3) != tried(sampler, 4)
    assert len({json.dumps(p) for p in first}) > 7 and {p[2] for p in first} == {"a", "b"}


def test_the_same_seed_tries_the_same_in_another_process_and_after_an_interruption(runs: Path) -> None:
    told = (f"import sys, json; sys.path[:0] = [{str(Path(__file__).parent)!r}]; from test_study import tried; "
            "print(json.dumps(tried('tpe', 3, None)))")
    there = json.loads(subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True,
                                      env={**os.environ, "SOMA_RUNS": str(runs / "other")}).stdout)
    assert there == tried("tpe", 3)
    for upto in (5, 9, 14):
        it = soma.Study("s", SPACE, seed=3, n_trials=upto)
        run(it, objective)
    assert [[*t.params.values(), t.seed] for t in it.trials] == there


def test_each_configuration_is_tried_with_each_seed_in_order() -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=2, seeds=[7, 8, 9])
    seen = []
    events = run(it, lambda trial: seen.append((trial["x"], trial.seed)) or trial.seed)
    a, b = it.trials[0].params["x"], it.trials[3].params["x"]
    assert a != b and seen == [(x, s) for x in (a, b) for s in (7, 8, 9)]
    assert [t.config for t in it.trials] == [0, 0, 0, 1, 1, 1]
    assert of(StudyStarted, events)[0].total == it.total == 6
    means = it.configurations()
    assert [(c.config, c.values["value"], c.trials) for c in means] == [(0, 8.0, 3), (1, 8.0, 3)]
    assert means[0].spread["value"] == 1.0


def test_frozen_dimensions_are_in_the_parameters_and_conditional_ones_only_where_they_exist() -> None:
    space = {"kernel": ["rbf", "linear"], "gamma": {"type": "float", "low": 1e-4, "high": 1.0, "scale": "log", "when": {"kernel": "rbf"}},
             "C": (0.1, 10.0)}
    it = study(space, n_trials=12, frozen={"C": 1.0})
    run(it, lambda trial: len(trial))
    assert {t.params["kernel"] for t in it.trials} == {"rbf", "linear"}
    assert all(("gamma" in t.params) == (t.params["kernel"] == "rbf") and t.params["C"] == 1.0 for t in it.trials)


def test_enqueued_parameters_come_first_and_what_is_left_out_is_sampled() -> None:
    it = study({"x": (0.0, 1.0), "y": (0.0, 1.0)}, n_trials=3)
    it.enqueue({"x": 0.125, "y": 0.5})
    it.enqueue({"x": 0.25})
    run(it, lambda trial: trial["x"])
    assert [t.params["x"] for t in it.trials[:2]] == [0.125, 0.25] and it.trials[0].params["y"] == 0.5
    assert len(it.trials) == 3 and [t.config for t in it.trials] == [0, 1, 2]
    it.enqueue({"x": 0.375})
    assert it.total == 4
    events = run(it, lambda trial: trial["x"])
    assert len(it.trials) == 4 and of(StudyStarted, events)[0].total == 4
    with pytest.raises(SpaceError, match="'z' is no dimension"):
        it.enqueue({"z": 1})


def test_what_optunas_own_tools_enqueue_is_tried_too() -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=4)
    for x in (0.25, 0.5, 0.75):
        it.optuna.enqueue_trial({"x": x})
    run(it, lambda trial: trial["x"])
    assert [t.params["x"] for t in it.trials[:3]] == [0.25, 0.5, 0.75]
    assert [t.config for t in it.trials] == [0, 1, 2, 3] and len({t.seed for t in it.trials}) == 4


# -- how trials end ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("returned", "why"), [
    ("0.3", "is a str ('0.3'), not a number"), (math.nan, "is NaN"), (1j, "is a complex"), ({"other": 1.0}, "without objective 'value'"),
    (None, "never reported 'value'"), ([1.0, 2.0], "is a list"), (10**400, "too large")])
def test_what_is_no_value_fails_that_trial_with_the_reason_and_the_study_goes_on(returned: Any, why: str) -> None:
    it = study(n_trials=2)
    given = iter([returned, 1.5])
    events = run(it, lambda trial: next(given))
    assert [t.state for t in it.trials] == ["failed", "completed"]
    assert why in it.trials[0].error and it.trials[0].error_type == "ValueError"
    assert it.trials[0].error in of(TrialFailed, events)[0].error and it.best_value == 1.5


def test_an_objective_that_raises_fails_its_trial_and_the_event_has_the_traceback() -> None:
    def objective(trial: Any) -> float:
        if trial.number == 0:
            raise KeyError("depth")
        return 1.0

    it = study(n_trials=2)
    events = run(it, objective)
    assert (it.trials[0].error_type, it.trials[0].error) == ("KeyError", "'depth'")
    told = of(TrialFailed, events)[0]
    assert 'raise KeyError("depth")' in told.error and "played" not in told.error


def test_if_all_fail_the_study_completes_with_nan() -> None:
    it = study(n_trials=3)
    events = run(it, lambda trial: 1 / 0)
    assert math.isnan(it.best_value) and it.best_trials == []
    assert math.isnan(of(StudyCompleted, events)[0].best["value"]) and of(StudyCompleted, events)[0].done == 3
    with pytest.raises(StudyError, match="no trial has completed"):
        _ = it.best_trial


def test_a_verdict_beats_a_return() -> None:
    losses = iter([1.0, 2.0])

    def objective(trial: Any) -> float:
        loss = next(losses)
        trial.report("value", loss)
        return loss if trial.number == 0 else 0.0  # it never asks, and would be the best

    it = study(pruner="median", n_trials=2)
    run(it, objective)
    assert [t.state for t in it.trials] == ["completed", "pruned"] and it.best_value == 1.0


def test_optunas_own_way_to_say_pruned_is_understood() -> None:
    def objective(trial: Any) -> float:
        raise optuna.TrialPruned

    it = study(n_trials=1)
    run(it, objective)
    assert it.trials[0].state == "pruned"


def test_a_dict_gives_the_objective_and_notes_and_none_takes_what_was_reported_last() -> None:
    it = study(n_trials=2, objectives="loss", directions="maximize")

    def objective(trial: Any) -> Any:
        trial.report("loss", 3.0)
        trial.report("loss", 2.0)
        trial.report("accuracy", 0.5, step=10)
        trial.note("about", {"layers": [1, np.int64(2)], "lr": np.float32(0.5)})
        return {"loss": np.float64(4.0), "time": 1} if trial.number == 0 else None

    run(it, objective)
    first, second = it.trials
    assert first.values == {"loss": 4.0} and first.notes == {"about": {"layers": [1, 2], "lr": 0.5}, "time": 1.0}
    assert second.values == {"loss": 2.0} and second.metrics == {"loss": {0: 3.0, 1: 2.0}, "accuracy": {10: 0.5}}
    assert it.best_trial.number == 0


def test_what_a_trial_may_not_report_or_note() -> None:
    trial = study(n_trials=1).ask()
    assert trial is not None
    for value in ("1", None, True, 1j, np.complex128(1), [1.0]):
        with pytest.raises(TypeError, match="a number"):
            trial.report("loss", value)  # type: ignore[arg-type]
    for step in (-1, 1.5, True):
        with pytest.raises(ValueError, match="a whole number from 0"):
            trial.report("loss", 1.0, step=step)  # type: ignore[arg-type]
    trial.report("loss", 1.0, step=3)
    with pytest.raises(ValueError, match="step 3 was reported already"):
        trial.report("loss", 1.0, step=3)
    with pytest.raises(ValueError, match="soma:"):
        trial.note("soma:seed", 1)
    with pytest.raises(TypeError, match="plain data"):
        trial.note("a", object())
    with pytest.raises(KeyError, match="no parameter 'lr'; it has none"):
        trial["lr"]


def test_constraints_choose_among_those_that_keep_them() -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=12, sampler="random", constraints=lambda trial: [0.5 - trial.params["x"], -1.0])
    run(it, lambda trial: trial["x"])
    kept = [t for t in it.trials if t.params["x"] >= 0.5]
    assert it.best_trial == min(kept, key=lambda t: t.value) and 0 < len(kept) < 12
    assert all(t.feasible == (t.params["x"] >= 0.5) for t in it.trials)


def test_a_constraint_that_cannot_be_computed_fails_the_trial() -> None:
    it = study(n_trials=1, constraints=lambda trial: 1 / 0)
    run(it, lambda trial: 1.0)
    assert it.trials[0].error == "constraints: division by zero"


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9), st.tuples(st.booleans(), st.booleans()))
def test_the_front_is_that_of_brute_force(points: list[tuple[int, int]], up: tuple[bool, bool]) -> None:
    it = study(n_trials=len(points), sampler="random", objectives=("a", "b"), directions=["maximize" if u else "minimize" for u in up])
    events = run(it, lambda trial: points[trial.number])
    signed = [tuple(-v if u else v for v, u in zip(p, up, strict=True)) for p in points]

    def front(upto: int) -> list[int]:
        return [i for i in range(upto) if not any(q != signed[i] and q[0] <= signed[i][0] and q[1] <= signed[i][1] for q in signed[:upto])]

    assert [t.number for t in it.best_trials] == front(len(points))
    improving = [i for i in range(len(points)) if i in front(i + 1) and signed[i] not in signed[:i]]
    assert [e.trial for e in of(BestUpdated, events)] == improving


# -- what is told ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, math.inf, math.nan]), min_size=1, max_size=10), st.sampled_from(["minimize", "maximize"]))
def test_the_best_is_told_once_per_improvement(values: list[float], direction: str) -> None:
    it = study(n_trials=len(values), sampler="random", directions=direction)
    events = run(it, lambda trial: values[trial.number])
    better = (lambda a, b: a < b) if direction == "minimize" else (lambda a, b: a > b)
    best, expected = None, []
    for i, v in enumerate(values):
        if not math.isnan(v) and (best is None or better(v, best)):
            best = v
            expected.append((i, v))
    assert [(e.trial, e.values["value"]) for e in of(BestUpdated, events)] == expected
    assert it.best_value == best if best is not None else math.isnan(it.best_value)


def test_events_are_numbered_without_a_gap_recorded_and_the_progress_adds_up() -> None:
    ends = iter(["completed", "pruned", "failed", "completed", "failed"])

    def objective(trial: Any) -> float:
        trial.report("value", 0.5, step=2)
        match next(ends):
            case "pruned":
                raise soma.study.TrialPruned
            case "failed":
                raise ValueError("no")
        return 1.0

    it = study(n_trials=5)
    events = run(it, objective, record=True)
    own = [e for e in events if e.run_id == it.run_id]
    assert [e.seq for e in own] == list(range(len(own)))
    assert [type(e).__name__ for e in own[:5]] == ["StudyStarted", "TrialStarted", "TrialMetric", "TrialCompleted", "BestUpdated"]
    assert isinstance(own[-2], StudyCompleted) and own[-2].done == 5
    assert [(e.done, e.pruned, e.failed, e.running) for e in of(StudyProgress, own)] == [
        (1, 0, 0, 0), (2, 1, 0, 0), (3, 1, 1, 0), (4, 1, 1, 0), (5, 1, 2, 0)]
    assert it.run_id is not None
    record = load_run(it.run_id)
    assert [e.as_dict() for e in record.events()] == [e.as_dict() for e in own]
    told = [(m["node"], m["name"], m["value"], m["step"]) for m in record.metrics()]
    assert told == [(f"trial {e.trial}", e.name, e.value, e.step) for e in of(TrialMetric, own)]
    assert len(told) == 5


def test_going_on_counts_what_was_there() -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=2)
    run(it, lambda trial: trial["x"])
    it = soma.Study("s", {"x": (0.0, 1.0)}, n_trials=4, storage=it.optuna._storage, seed=0)
    events = run(it, lambda trial: 2.0)
    assert [e.done for e in of(StudyProgress, events)] == [3, 4] and of(BestUpdated, events) == []
    assert len(of(TrialCompleted, events)) == 2


# -- callbacks, limits, stopping -----------------------------------------------------------------------------------------------------


def test_a_callback_sees_each_end_and_may_stop_the_study() -> None:
    it, seen = study(n_trials=10), []

    def after(which: soma.Study, trial: Any) -> None:
        seen.append((which is it, trial.number, trial.value))
        if trial.number == 3:
            which.stop()

    run(it, lambda trial: float(trial.number), callbacks=[after])
    assert seen == [(True, i, float(i)) for i in range(4)]
    run(it, lambda trial: float(trial.number))
    assert len(it.trials) == 10


def test_no_trial_begins_after_the_time_limit() -> None:
    it = study({"x": (0.0, 1.0)}, sampler="random")
    run(it, lambda trial: trial["x"], timeout=0.05)
    assert it.trials and all(t.state == "completed" for t in it.trials)
    before = len(it.trials)
    run(it, lambda trial: trial["x"], timeout=0)
    assert len(it.trials) == before


def test_too_many_failures_end_the_run() -> None:
    it = study(n_trials=10, max_failures=2)
    run(it, lambda trial: 1 / 0)
    assert len(it.trials) == 3


def test_ctrl_c_puts_the_trial_back_and_its_numbers_stay_exact() -> None:
    it, calls = study({"x": (0.0, 1.0)}, n_trials=3), itertools.count()

    def objective(trial: Any) -> float:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return trial["x"]

    with pytest.raises(KeyboardInterrupt):
        run(it, objective)
    assert [t.state for t in it.trials] == ["completed", "failed", "waiting"]
    events = run(it, objective)
    assert [(t.state, t.config, t.repeat_of, t.attempt) for t in it.trials] == [
        ("completed", 0, None, 0), ("failed", 1, None, 0), ("completed", 1, 1, 1), ("completed", 2, None, 0)]
    assert it.trials[1].params == it.trials[2].params and it.trials[1].seed == it.trials[2].seed
    assert of(StudyCompleted, events)[0].done == 3 and it.trials[1].error_type == "Interrupted"


def test_a_trial_that_this_process_lost_is_found_again() -> None:
    """An interrupt between taking a trial and running it: nobody has it, though the process lives."""
    it = study({"x": (0.0, 1.0)}, n_trials=2)
    with it._place.enter() as driver, it._book.taken_by(driver.identity):
        assert it._book.ask({"worker": 0}) is not None
    run(it, lambda trial: trial["x"])
    assert [(t.state, t.config) for t in it.trials] == [("failed", 0), ("completed", 0), ("completed", 1)]


# -- one at a time -------------------------------------------------------------------------------------------------------------------


def test_ask_and_tell() -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=5, pruner="median")
    trials = [it.ask() for _ in range(5)]
    assert it.ask() is None and [t.number for t in trials if t is not None] == list(range(5))
    a, b, c, d, e = trials
    assert a is not None and b is not None and c is not None and d is not None and e is not None
    a.report("value", 1.0)
    assert it.tell(a, 1.0).state == "completed"
    b.report("value", 2.0)
    assert b.should_prune() and it.tell(b, 0.0).state == "pruned"
    assert it.tell(c.number, "no").error == "objective 'value' is a str ('no'), not a number"
    d.report("value", 0.25)
    assert it.tell(d).value == 0.25
    assert it.tell(e, state="failed", error="no power").error == "no power"
    assert it.best_trial.number == d.number
    with pytest.raises(StudyError, match="trial 0 is not under way here"):
        it.tell(a, 2.0)
    with pytest.raises(StudyError, match="'completed', 'pruned' or 'failed'"):
        it.tell(4, state="done")


def test_trials_that_were_asked_for_stay_with_who_holds_them() -> None:
    it = soma.Study("held", {"x": (0.0, 1.0)}, n_trials=3, seed=0)
    trial = it.ask()
    assert trial is not None
    other = soma.Study("held", {"x": (0.0, 1.0)}, n_trials=3, seed=0)
    run(other, lambda trial: trial["x"])
    assert [t.state for t in other.trials] == ["running", "completed", "completed"]
    run(it, lambda trial: trial["x"])
    assert it.tell(trial, 1.0).state == "completed" and len(it.trials) == 3
    del trial, it
    assert list((other.directory or Path()).joinpath("drivers").iterdir()) == []


def test_a_trial_of_somebody_who_is_gone_is_asked_for_again() -> None:
    it = soma.Study("gone", {"x": (0.0, 1.0)}, n_trials=1, seed=0)
    trial = it.ask()
    assert trial is not None and it.ask() is None
    params = dict(trial)
    del trial, it
    other = soma.Study("gone", {"x": (0.0, 1.0)}, n_trials=1, seed=0)
    again = other.ask()
    assert again is not None and (again.number, again.attempt, dict(again)) == (1, 1, params)
    assert other.tell(again, 0.5).repeat_of == 0 and other.ask() is None


# -- what is kept --------------------------------------------------------------------------------------------------------------------


def test_a_study_is_found_again_and_described(runs: Path) -> None:
    it = soma.Study("kept", {"x": (0.0, 1.0)}, n_trials=2, pruner="median", objectives="loss", directions="maximize")
    run(it, lambda trial: trial["x"])
    assert it.directory == runs / "studies" / "kept"
    told = json.loads((it.directory / "description.json").read_text())
    assert (told["name"], told["objectives"], told["directions"]) == ("kept", ["loss"], ["maximize"])
    assert (told["sampler"], told["pruner"], told["n_trials"], told["seed"], told["seeds"]) == ("tpe", "median", 2, it.seed, [])
    assert told["space"][0]["name"] == "x" and told["storage"].startswith("sqlite:///") and told["argv"] and told["cwd"]
    again = soma.Study("kept", {"x": (0.0, 1.0)}, n_trials=3, objectives="loss", directions="maximize")
    assert again.trials == it.trials and again.seed == it.seed
    with pytest.raises(StudyError, match="has 2 trials already: resume=True"):
        run(again, lambda trial: 0.0, resume=False)
    run(again, lambda trial: trial["x"])
    assert len(again.trials) == 3
    frame = again.trials_dataframe()
    assert list(frame["params_x"]) == [t.params["x"] for t in again.trials] and set(frame["state"]) == {"completed"}


@pytest.mark.parametrize("storage", [None, "journal", "memory"])
def test_storages_keep_the_same(storage: str | None) -> None:
    it = study({"x": (0.0, 1.0)}, n_trials=3, storage=storage, seeds=[0, 1])
    run(it, lambda trial: trial.report("a", math.inf, 4) or trial.note("n", [1, None]) or {"value": trial["x"], "b": math.nan})
    assert all(t.metrics == {"a": {4: math.inf}} and t.notes["n"] == [1, None] and math.isnan(t.notes["b"]) for t in it.trials)
    assert [t.value for t in it.trials] == [t.params["x"] for t in it.trials] and len(it.trials) == 6
    assert all(t.started is not None and t.duration_s is not None and 0 <= t.duration_s < 30 for t in it.trials)


@pytest.mark.parametrize(("changed", "named"), [({"directions": "maximize"}, "directions"), ({"objectives": "loss"}, "objectives"),
                                                ({"seed": 1}, "seed"), ({"seeds": [1]}, "seeds"), ({"sampler": "tpe"}, "sampler"),
                                                ({"space": {"x": (0.0, 2.0)}}, "space"), ({"points": 4}, "points"),
                                                ({"storage": "journal"}, "storage")])
def test_another_study_of_that_name_is_refused(changed: dict[str, Any], named: str) -> None:
    first: dict[str, Any] = {"space": {"x": (0.0, 1.0), "k": [(1, 2), "b"]}, "sampler": "grid", "seed": 0}
    for _ in range(2):
        soma.Study("other", **first)
    with pytest.raises(StudyError, match=f"'other' is there already, with {named}="):
        soma.Study("other", **{**first, **changed})
    soma.Study("other", **first)


def test_a_refused_study_leaves_nothing(runs: Path) -> None:
    for wrong in ({"sampler": "nope"}, {"pruner": "nope"}, {"directions": "up"}, {"sampler_options": {"nope": 1}}, {"n_trials": 0},
                  {"seeds": [1, 1]}, {"seed": -1}, {"storage": "file"}, {"sampler": "grid", "points": 0}):
        with pytest.raises((StudyError, SpaceError)):
            soma.Study("wrong", {"x": (0.0, 1.0)}, **wrong)  # type: ignore[arg-type]
    it = soma.Study("wrong", {"x": (0.0, 1.0)}, sampler="random", n_trials=1)
    run(it, lambda trial: trial["x"])
    assert len(it.trials) == 1


@pytest.mark.parametrize(("wrong", "said"), [
    ({"sampler": "bayes"}, "'tpe', 'random', 'grid', 'gp', 'cmaes', 'qmc', 'nsgaii'"),
    ({"pruner": "mean"}, "'median', 'percentile', 'hyperband', 'halving'"), ({"directions": "down"}, "'minimize' nor 'maximize'"),
    ({"directions": ["minimize", "maximize"]}, "2 for 1 objectives"), ({"storage": "redis"}, '"memory", "journal"'),
    ({"objectives": ()}, "a name, or several different ones"), ({"objectives": ("a", "b"), "pruner": "median"}, "several objectives"),
    ({"trial_timeout": -1}, "seconds from 0"), ({"sampler_options": {"colour": 1}}, "colour"), ({"max_retries": 1.5}, "whole number")])
def test_what_is_refused_lists_the_choices(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study({"x": (0.0, 1.0)}, **wrong)


def test_an_unknown_argument_and_a_bad_name() -> None:
    with pytest.raises(TypeError, match="no argument 'workers'; further ones are points"):
        study(workers=2)
    for name in ("", "a/b", "..", "x" * 101, 3):
        with pytest.raises(StudyError, match="letters, digits"):
            soma.Study(name, storage="memory")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="a grid goes through all its cells"):
        study({"x": [1, 2]}, sampler="grid").enqueue({"x": 1})
    with pytest.raises(TypeError, match="a function of a trial"):
        study().run(3)  # type: ignore[arg-type]


def test_importing_studies_loads_neither_optuna_nor_a_database() -> None:
    told = ("import sys, soma; soma.Study; import soma.study; "
            "print([m for m in ('optuna', 'sqlalchemy', 'pandas', 'matplotlib') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_seeds_reach_the_generators() -> None:
    draws: list[tuple[int, float]] = []
    it = study(n_trials=2, seeds=[5, 6])
    run(it, lambda trial: draws.append((trial.seed, float(np.random.random()))) or 0.0)
    assert [d for _, d in draws] == [np.random.RandomState(seed).random_sample() for seed, _ in draws]
    assert Counter(s for s, _ in draws) == {5: 2, 6: 2}
