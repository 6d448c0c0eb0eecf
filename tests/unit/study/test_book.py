"""`Book` against a model in plain Python: drivers that take trials, end them and die, in any order.

The model counts only what was planned: pairs of (configuration, seed). However often somebody dies, no pair is tried twice unless the
earlier try was interrupted, each interrupted one is repeated once, and at the end every pair has been tried to its end.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

pytest.importorskip("optuna")

from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from soma.study.book import Book
from soma.study.pruning import pruner_of
from soma.study.space import Space
from soma.study.storing import open_study
from soma.study.terms import Open, Terms

SPACE = Space.of({"x": (0.0, 1.0), "k": ["a", "b"]})
ENDED = ("completed", "pruned", "failed")


class Dying(Exception):
    """Raised by the storage in the place of a SIGKILL: what was written is written, nothing more is."""


class Mortal(InMemoryStorage):
    """Dies before its next-but-`left`th write."""

    left: int | None = None

    def _write(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Dying
            self.left -= 1

    def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
        self._write()
        return super().create_new_trial(study_id, template_trial)

    def set_trial_param(self, *args: Any, **options: Any) -> None:
        self._write()
        super().set_trial_param(*args, **options)

    def set_trial_user_attr(self, *args: Any, **options: Any) -> None:
        self._write()
        super().set_trial_user_attr(*args, **options)

    def set_trial_state_values(self, *args: Any, **options: Any) -> bool:
        self._write()
        return super().set_trial_state_values(*args, **options)


class Drivers(RuleBasedStateMachine):
    @initialize(configs=st.integers(1, 4), seeds=st.lists(st.integers(0, 9), unique=True, max_size=3))
    def begin(self, configs: int, seeds: list[int]) -> None:
        self.storage = Mortal()
        self.terms = Terms(SPACE, ("value",), ("minimize",), configs, tuple(seeds), 0, prunes=True)
        self.pairs = configs * max(1, len(seeds))
        self.books: dict[str, Book] = {}
        self.held: dict[str, dict[int, Open]] = {}
        self.born = 0
        self.ends: dict[int, str] = {}
        self.interrupted: set[int] = set()
        self.enter()

    @rule()
    def enter(self) -> None:
        """A driver comes, and finds what others have left."""
        name = f"driver{self.born}"
        self.born += 1
        study = open_study("s", self.storage, ("minimize",), RandomSampler(seed=self.born), pruner_of("median", {}))
        book = Book(study, self.terms, contextlib.nullcontext, self.books.__contains__)
        book.driver = name
        self.books[name], self.held[name] = book, {}
        self.recover(name)

    def recover(self, name: str) -> None:
        gone = {t.number for t in self.books[name].trials() if t.state == "running" and not any(t.number in h for h in self.held.values())}
        assert self.books[name].recover() == len(gone)
        self.interrupted |= gone
        self.ends |= dict.fromkeys(gone, "failed")

    def someone(self, data: Any, holding: bool = False) -> str | None:
        names = [n for n in self.books if self.held[n] or not holding]
        return data.draw(st.sampled_from(names)) if names else None

    @rule(data=st.data())
    def ask(self, data: Any) -> None:
        if (name := self.someone(data)) is not None and (at := self.books[name].ask({"worker": 0})) is not None:
            assert at.number not in self.ends and not any(at.number in held for held in self.held.values())
            self.held[name][at.number] = at

    @rule(data=st.data(), how=st.sampled_from(["complete", "prune", "fail", "retry", "put back"]))
    def end(self, data: Any, how: str) -> None:
        if (name := self.someone(data, holding=True)) is None:
            return
        number = data.draw(st.sampled_from(list(self.held[name])))
        book, at = self.books[name], self.held[name].pop(number)
        match how:
            case "complete":
                book.note(number, "n", number)
                told = book.complete(number, {"value": 1.0}, {})
            case "prune":
                told = book.prune(number)
            case _:
                told = book.fail(number, "no", "E", repeat=how != "fail", died=how == "retry")
        self.ends[number] = told.state
        assert at.ended and told.state == {"complete": "completed", "prune": "pruned"}.get(how, "failed")
        if how in ("retry", "put back"):
            self.interrupted.add(number)

    @rule(data=st.data())
    def die(self, data: Any) -> None:
        if (name := self.someone(data)) is not None:
            del self.books[name], self.held[name]

    @rule(data=st.data(), left=st.integers(0, 6), ending=st.booleans())
    def die_amid(self, data: Any, left: int, ending: bool) -> None:
        """Between two writes of taking a trial, ending one, or putting back those of others."""
        if (name := self.someone(data)) is None:
            return
        book, held = self.books[name], self.held[name]
        self.storage.left = left
        try:
            if ending and held:
                number = data.draw(st.sampled_from(list(held)))
                told = book.fail(number, "no", "E", repeat=True)
                self.ends[number] = told.state
                self.interrupted.add(number)
            elif book.recover() == 0 and (at := book.ask({"worker": 1})) is not None:
                held[at.number] = at
        except Dying:
            pass
        self.storage.left = None
        for t in book.trials():  # what it had written to its end before it died, it has ended
            if t.state in ENDED and t.number not in self.ends:
                self.ends[t.number] = t.state
                self.interrupted.add(t.number)
        del self.books[name], self.held[name]

    @invariant()
    def nothing_is_tried_twice(self) -> None:
        if not getattr(self, "books", None):
            return
        trials = next(iter(self.books.values())).trials()
        assert [t.number for t in trials] == list(range(len(trials)))
        for t in trials:
            if t.number in self.ends:
                assert t.state == self.ends[t.number]
        first = [t for t in trials if t.repeat_of is None]
        assert len(first) <= self.pairs
        assert max(Counter((t.config, t.seed) for t in first).values(), default=0) <= 1
        repeats = Counter(t.repeat_of for t in trials if t.repeat_of is not None)
        assert max(repeats.values(), default=0) <= 1
        for t in trials:
            if t.repeat_of is not None:
                earlier = trials[t.repeat_of]
                assert (earlier.config, earlier.seed, t.attempt) == (t.config, t.seed, earlier.attempt + 1)
                assert earlier.params.items() <= t.params.items() or t.state != "completed"

    def teardown(self) -> None:
        """One driver is left, and goes on to the end."""
        if not hasattr(self, "books"):
            return
        self.books, self.held = {}, {}
        self.enter()
        name, book = next(iter(self.books.items()))
        while (at := book.ask({"worker": 0})) is not None:
            assert at.number not in self.ends
            self.ends[at.number] = book.complete(at.number, {"value": 0.0}, {}).state
        trials = book.trials()
        assert all(t.state in ENDED for t in trials)
        repeated = {t.repeat_of for t in trials}
        final = [t for t in trials if t.number not in repeated]
        assert len(final) == self.pairs == book.total and len({(t.config, t.seed) for t in final}) == self.pairs
        assert repeated - {None} == self.interrupted
        by_config = {(t.config, tuple(t.params.items())) for t in final if set(t.params) == {"x", "k"}}
        assert len(by_config) == self.terms.configs == len({t.config for t in final})
        assert book.recover() == 0


TestDrivers = Drivers.TestCase
TestDrivers.settings = settings(stateful_step_count=40)


def make(terms: Terms, book_of: Any = None) -> Book:
    study = open_study("s", book_of or InMemoryStorage(), ("minimize",), RandomSampler(seed=0), pruner_of(None, {}))
    book = Book(study, terms, contextlib.nullcontext, lambda name: True)
    book.driver = "me"
    return book


def terms(configs: int | None = None) -> Terms:
    return Terms(SPACE, ("value",), ("minimize",), configs, (), 0, prunes=False)


def test_a_retry_is_counted_apart_from_an_interruption() -> None:
    book = make(terms(1))
    seen = []
    for died in (False, True, True):
        at = book.ask({})
        assert at is not None
        seen.append((at.attempt, at.retries))
        book.fail(at.number, "no", "E", repeat=True, died=died)
    at = book.ask({})
    assert at is not None and [*seen, (at.attempt, at.retries)] == [(0, 0), (1, 0), (2, 1), (3, 2)]


def test_a_sampler_that_raises_leaves_its_parameters_waiting() -> None:
    class Broken(RandomSampler):
        def sample_independent(self, *args: Any) -> Any:
            raise ZeroDivisionError("no")

    book = make(terms(1))
    good, book.study.sampler = book.study.sampler, Broken()
    with pytest.raises(ZeroDivisionError):
        book.ask({})
    assert [t.state for t in book.trials()] == ["failed", "waiting"] and "not found: no" in book.trials()[0].error
    book.study.sampler = good
    at = book.ask({})
    assert at is not None and set(at.params) == {"x", "k"} and (at.number, at.attempt) == (1, 1)


def test_what_is_written_while_a_trial_is_taken() -> None:
    """One transaction to take it, with its parameters, and one to end it."""
    writes: list[str] = []

    class Counting(InMemoryStorage):
        def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
            writes.append("create")
            return super().create_new_trial(study_id, template_trial)

        def set_trial_param(self, *args: Any, **options: Any) -> None:
            writes.append("param")
            super().set_trial_param(*args, **options)

        def set_trial_user_attr(self, *args: Any, **options: Any) -> None:
            writes.append("attribute")
            super().set_trial_user_attr(*args, **options)

        def set_trial_state_values(self, *args: Any, **options: Any) -> bool:
            writes.append("end")
            return super().set_trial_state_values(*args, **options)

    book = make(terms(1), Counting())
    at = book.ask({"worker": 0})
    assert at is not None
    book.complete(at.number, {"value": 1.0}, {})
    assert writes == ["create", "end"]
    assert book.study.get_trials()[0].state is TrialState.COMPLETE
