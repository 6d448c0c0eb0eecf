"""Drafts against optuna alone: whatever drivers, samplers and tools do, a study holds what it would hold if optuna had made each trial."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

pytest.importorskip("optuna")

from optuna import samplers
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import create_study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import event

from soma.study.book import Book
from soma.study.drafts import drafted, entered
from soma.study.pruning import pruner_of
from soma.study.sampling import drawn, quiet
from soma.study.space import Space
from soma.study.storing import open_storage, open_study, silent
from soma.study.terms import Terms

SPACE = Space.of({"x": (0.0, 1.0), "n": (1, 4), "k": ["a", "b"]})
FINITE = Space.of({"n": (1, 4), "k": ["a", "b"]})
CELLS = {"n": [1, 2, 3, 4], "k": ["a", "b"]}
SAMPLERS: dict[str, Any] = {
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: samplers.TPESampler(seed=seed, n_startup_trials=2),
    "liar": lambda seed: samplers.TPESampler(seed=seed, n_startup_trials=2, multivariate=True, group=True, constant_liar=True),
    "cmaes": lambda seed: samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False),
    "qmc": lambda seed: samplers.QMCSampler(seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False),
    "nsgaii": lambda seed: samplers.NSGAIISampler(seed=seed, population_size=2),
    "cells": lambda seed: samplers.GridSampler(CELLS, seed=seed),
    "all": lambda seed: samplers.BruteForceSampler(seed=seed),
}


@contextlib.contextmanager
def database(path: Path) -> Iterator[RDBStorage]:
    """As one driver has it open."""
    storage: Any = open_storage(f"sqlite:///{path}", path.parent)[0]
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def content(trial: FrozenTrial) -> Any:
    """All of it but ids and times, which are nobody's choice."""
    return {"number": trial.number, "state": trial.state, "values": trial.values, "params": trial.params, "user": trial.user_attrs,
            "distributions": trial.distributions, "system": trial.system_attrs, "reported": trial.intermediate_values,
            "over": trial.datetime_complete is not None}


def exactly(trials: list[FrozenTrial]) -> list[str]:
    """Also ids and times, and the order of parameters."""
    return [repr(vars(t) | {name: sorted(getattr(t, name).items()) for name in ("_user_attrs", "_system_attrs")}) for t in trials]


# -- against a model -----------------------------------------------------------------------------------------------------------------


class Alike(RuleBasedStateMachine):
    """Two drivers of one database that draft, beside two of optuna alone in memory. What is done to both gives the same."""

    stored: tuple[RDBStorage, RDBStorage]

    @initialize(sampler=st.sampled_from(sorted(SAMPLERS)), pruner=st.sampled_from([None, "hyperband"]), seed=st.integers(0, 9))
    def begin(self, sampler: str, pruner: str | None, seed: int) -> None:
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(quiet())
        self.stack.enter_context(silent())
        self.sampler, self.space = sampler, FINITE if sampler in ("cells", "all") else SPACE
        model = InMemoryStorage()
        options = {"min_resource": 1, "max_resource": 4}

        if (old := [s for s in self.stored[0].get_all_studies() if s.study_name == "s"]):
            self.stored[0].delete_study(old[0]._study_id)

        def study(storage: Any, seed: int) -> Any:
            return create_study(study_name="s", storage=storage, sampler=SAMPLERS[sampler](seed), load_if_exists=True,
                                pruner=pruner_of(pruner, options if pruner else {}))

        self.ours = [study(storage, seed + i) for i, storage in enumerate(self.stored)]
        self.theirs = [study(model, seed + i) for i in range(2)]
        self.open: list[tuple[Trial, Trial]] = []

    @rule(who=st.integers(0, 1), tool=st.sampled_from([False, False, False, True]))
    def ask(self, who: int, tool: bool) -> None:
        """By a draft; what waits is there already, and a tool of somebody else's knows of no drafts."""
        ours, theirs = self.ours[who], self.theirs[who]
        if tool or any(t.state is TrialState.WAITING for t in theirs.get_trials(deepcopy=False)):
            pair = ours.ask(), theirs.ask()
            params = [drawn(self.space, trial) for trial in pair]
            assert params[0] == params[1]
        else:
            draft = create_trial(state=TrialState.RUNNING, user_attrs={"who": who})
            pair = drafted(ours, ours.get_trials(deepcopy=False), draft), theirs.ask()
            pair[1].set_user_attr("who", who)
            params = [drawn(self.space, trial) for trial in pair]
            assert params[0] == params[1] and len(ours.get_trials(deepcopy=False)) == pair[1].number  # nobody sees it yet
            assert entered(pair[0]) is pair[0]
        assert pair[0].number == pair[1].number and pair[0].params == pair[1].params
        self.open.append(pair)

    @rule(data=st.data(), value=st.floats(-9, 9))
    def report(self, data: Any, value: float) -> None:
        if self.open:
            ours, theirs = data.draw(st.sampled_from(self.open))
            step = len(self.theirs[0].get_trials(deepcopy=False)[theirs.number].intermediate_values)
            ours.report(value, step), theirs.report(value, step)
            assert ours.should_prune() == theirs.should_prune()

    @rule(data=st.data(), value=st.lists(st.integers(), max_size=2))
    def say(self, data: Any, value: list[int]) -> None:
        if self.open:
            pair = data.draw(st.sampled_from(self.open))
            for trial in pair:
                trial.set_user_attr("said", value)
                trial.study._storage.set_trial_system_attr(trial._trial_id, "noticed", value)
            assert [t.storage.get_trial_system_attrs(t._trial_id)["noticed"] for t in pair] == [value] * 2

    @rule(data=st.data(), end=st.sampled_from([1.5, -2.0, "PRUNED", "FAIL"]))
    def end(self, data: Any, end: float | str) -> None:
        if self.open:
            pair = data.draw(st.sampled_from(self.open))
            self.open.remove(pair)
            for trial in pair:
                trial.study.tell(trial, *([None, TrialState[end]] if isinstance(end, str) else [end]))
            ours, theirs = (content(trial.storage.get_trial(trial._trial_id)) for trial in pair)
            assert ours == theirs

    @rule(who=st.integers(0, 1), n=st.integers(1, 4))
    def enqueue(self, who: int, n: int) -> None:
        if self.sampler != "cells":  # which refuses what it did not choose
            self.ours[who].enqueue_trial({"n": n}), self.theirs[who].enqueue_trial({"n": n})

    @rule(who=st.integers(0, 1))
    def look(self, who: int) -> None:
        for ours, theirs in zip(self.ours[who].get_trials(deepcopy=False), self.theirs[0].get_trials(deepcopy=False), strict=True):
            assert content(ours) == content(theirs)

    def teardown(self) -> None:
        """What drivers remember is what somebody reads who remembers nothing."""
        if hasattr(self, "ours"):
            with self.stack:
                self.look(0), self.look(1)
                read = exactly(self.stored[0].get_all_trials(self.ours[0]._study_id))
                assert exactly(self.ours[0].get_trials()) == exactly(self.ours[1].get_trials()) == read


def test_a_study_of_drafts_is_as_optuna_would_have_made_it(tmp_path: Path) -> None:
    with database(tmp_path / "study.db") as first, database(tmp_path / "study.db") as second:
        class There(Alike):
            stored = first, second

        run_state_machine_as_test(There, settings=settings(max_examples=max(15, settings().max_examples // 8), stateful_step_count=15))


def test_a_tool_that_is_quicker_than_a_driver_costs_no_trial(tmp_path: Path) -> None:
    with database(tmp_path / "study.db") as ours, database(tmp_path / "study.db") as theirs, silent():
        study, tool = (create_study(study_name="s", storage=s, load_if_exists=True) for s in (ours, theirs))
        trial = drafted(study, study.get_trials(deepcopy=False), create_trial(state=TrialState.RUNNING))
        assert trial.number == 0
        tool.tell(tool.ask(), 2.0)
        open = tool.ask()
        assert entered(trial).number == 2
        trial.study.tell(trial, 1.0)
        assert [t.values for t in study.get_trials()] == [[2.0], None, [1.0]]
        tool.tell(open, 3.0)
        assert [t.values for t in study.get_trials()] == [[2.0], [3.0], [1.0]]
        assert exactly(study.get_trials()) == exactly(ours.get_all_trials(study._study_id))


def test_nobody_writes_to_a_draft_by_its_old_id(tmp_path: Path) -> None:
    study = create_study(storage=InMemoryStorage())
    trial = drafted(study, (), create_trial(state=TrialState.RUNNING))
    trial.storage.set_trial_user_attr(-1, "a", 1)
    with pytest.raises(KeyError):
        study._storage.get_trial(-1)
    entered(trial)
    with pytest.raises(KeyError):
        trial.storage.set_trial_user_attr(-1, "a", 2)
    assert study.trials[0].user_attrs == {"a": 1}


# -- whoever dies in between ---------------------------------------------------------------------------------------------------------


class Dead(Exception):
    """Raised by the database in the place of a SIGKILL. What was committed is there, nothing more is."""


WRITES = 127
"""Of `work`, with the ends of transactions."""
TERMS = Terms(SPACE, ("value",), ("minimize",), 2, (1, 2), 0, prunes=False)


def book_of(storage: RDBStorage, driver: str) -> Book:
    study = open_study("s", storage, ("minimize",), samplers.RandomSampler(seed=0), pruner_of(None, {}))
    book = Book(study, TERMS, contextlib.nullcontext, lambda name: name == driver)
    book.driver = driver
    return book


def work(book: Book) -> None:
    """Of every kind: configurations, seeds, what was enqueued, what is to be repeated, and what somebody left."""
    book.recover()
    book.enqueue({"n": 3})
    at = book.ask({})
    assert at is not None
    book.report(at.number, "value", 1.0, 0)
    book.fail(at.number, "no", "E", repeat=True)
    while (at := book.ask({})) is not None:
        book.report(at.number, "value", 1.0, 0)
        book.complete(at.number, {"value": 0.0}, {"more": 1.0})


def written(book: Book, limit: float, engine: Any) -> int:
    """Let it work, and die when it has written or ended transactions so often. How often it did."""
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        if done >= limit:
            raise Dead
        done += 1

    event.listen(engine, "commit", count)
    event.listen(engine, "before_cursor_execute", lambda c, u, statement, *_: None if statement.startswith("SELECT") else count())
    with contextlib.suppress(Dead):
        work(book)
    return done


@given(share=st.floats(0, 1))
@settings(max_examples=max(12, settings().max_examples // 10))
def test_whoever_dies_at_any_moment_leaves_what_the_next_one_can_finish(share: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with database(Path(directory) / "s.db") as storage:
            written(book_of(storage, "a"), share * WRITES, storage.engine)
        with database(Path(directory) / "s.db") as storage:
            book = book_of(storage, "b")
            book.recover()
            while (at := book.ask({})) is not None:
                book.complete(at.number, {"value": 0.0}, {})
            trials = book.trials()
            assert book.recover() == 0
    repeated = Counter(t.repeat_of for t in trials if t.repeat_of is not None)
    final = [t for t in trials if t.number not in repeated]
    assert max(repeated.values(), default=1) == 1 and {t.state for t in trials} <= {"completed", "failed"}
    assert sorted((t.config, t.seed) for t in final) == list(itertools.product(range(2), (1, 2)))
    assert all(t.state == "completed" and set(t.params) == set(SPACE.dimensions) for t in final)
    assert len({(t.config, *t.params.items()) for t in final}) == 2


def test_the_moments_at_which_it_dies_are_all_there_are(tmp_path: Path) -> None:
    with database(tmp_path / "s.db") as storage:
        assert written(book_of(storage, "a"), math.inf, storage.engine) == WRITES


# -- what it costs -------------------------------------------------------------------------------------------------------------------


def test_a_trial_costs_a_database_less_than_one_of_optuna_alone(tmp_path: Path) -> None:
    """Statements, which are what takes the time."""
    done: Counter[str] = Counter()
    with database(tmp_path / "s.db") as storage:
        def count(what: str) -> None:
            event.listen(storage.engine, "before_cursor_execute", lambda *_: done.update([what]))

        count("statements")
        alone = create_study(storage=storage, sampler=samplers.RandomSampler(seed=0))
        terms = Terms(SPACE, ("value",), ("minimize",), None, (), 0, prunes=False)
        book = Book(open_study("s", storage, ("minimize",), samplers.RandomSampler(seed=0), pruner_of(None, {})), terms,
                    contextlib.nullcontext, lambda name: True)
        costs = []
        for _ in range(3):
            done.clear()
            trial = alone.ask()
            alone.tell(trial, drawn(SPACE, trial)["x"])
            theirs, _ = done["statements"], done.clear()
            at = book.ask({})
            assert at is not None
            book.complete(at.number, {"value": at.params["x"]}, {})
            costs.append((done["statements"], theirs))
    assert all(ours <= 2 / 3 * theirs for ours, theirs in costs[1:]), costs
