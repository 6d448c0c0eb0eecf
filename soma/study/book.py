"""`Book`: the trials of a study, as one driver keeps them in optuna's storage. All that this driver says to optuna goes through it.

How several drivers share a study: a driver takes its next trial while it holds the study's lock. A trial that stands in the storage is
either one of the planned *configurations* (0, 1, 2, …, times the seeds), or the repeat of one whose process or driver died. Nothing else
counts configurations, so their number is exact however often somebody was killed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from optuna.study import Study
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from soma.errors import StudyError
from soma.filters import derived
from soma.study.drafts import drafted, entered
from soma.study.outcome import pareto
from soma.study.results import FinishedTrial, finished
from soma.study.sampling import drawn
from soma.study.terms import (
    ATTEMPT,
    CONFIG,
    DRIVER,
    ERROR,
    ERROR_TYPE,
    METRICS,
    REPEAT_OF,
    RETRIES,
    SEED,
    SIBLING_OF,
    TOLD,
    WORKER,
    Open,
    Terms,
    told,
)


class Book:
    """See the module. `locked` is the lock that drivers share, `lives` says whether a driver may still be there."""

    def __init__(self, study: Study, terms: Terms, locked: Callable[[], AbstractContextManager[None]],
                 lives: Callable[[str], bool]) -> None:
        self.study, self.terms = study, terms
        self._locked, self._lives = locked, lives
        self._storage = study._storage  # a database's is wrapped by a cache, which must see all that is written
        self._mine = threading.RLock()
        self._open: dict[int, Open] = {}
        self.driver = ""
        """Who takes trials; set by a run."""
        self._passed = self._counted = 0  # of so many trials from the first on, all of which have ended; configurations among them
        self.total = terms.total
        """Trials that are planned, repeats not counted: the terms', or more if more were enqueued."""
        self._look_over(self._all())

    @contextlib.contextmanager
    def taken_by(self, driver: str) -> Iterator[None]:
        """Inside, that is the driver."""
        before, self.driver = self.driver, driver
        try:
            yield
        finally:
            self.driver = before

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def trials(self) -> list[FinishedTrial]:
        """All of them, by number."""
        return [finished(t, self.terms.space, self.terms.objectives) for t in self._all()]

    def best(self) -> list[FinishedTrial]:
        """The completed trials that no other is better than in everything; with one objective the first of the best. Those that break
        a constraint are left out."""
        found = [t for t in self.trials() if t.state == "completed" and t.feasible]
        front = [found[i] for i in pareto([tuple(t.values.values()) for t in found], self.terms.directions)]
        return front[:1] if len(self.terms.objectives) == 1 else front

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    # -- taking trials ---------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Put back what drivers that are gone had taken; how many those were."""
        with self._mine, self._locked():
            every = self._all()
            repeated = {told(t.user_attrs).get(REPEAT_OF) for t in every}
            gone = [t for t in every if t.state is TrialState.RUNNING and CONFIG in told(t.user_attrs)
                    and not self._lives(told(t.user_attrs).get(DRIVER, ""))]
            for trial in gone:
                if trial.number not in repeated:
                    self._repeat(trial)
                self._because(trial._trial_id, told(trial.user_attrs), "its driver died before it ended", "DriverDied")
                self.study.tell(trial.number, state=TrialState.FAIL)
                if (at := self._open.pop(trial.number, None)) is not None:
                    at.ended = True
            self._look_over(every)
            return len(gone)

    def ask(self, worker: Mapping[str, Any]) -> Open | None:
        """Take the next trial: one that waits, else a new configuration; None if there are as many as were planned.

        Args:
            worker: who will run it.

        Where the sampler raises, that trial has failed and its parameters wait.
        """
        with self._mine, self._locked():
            every = self._all()
            self.study._thread_local.cached_all_trials = None  # what others ended counts for what comes next
            fresh = self._look_over(every)
            trial = self._waiting(every, worker) or self._fresh(fresh, every, worker)
            if trial is None:
                return None
            at = self._begun(trial)
            if self.terms.seeds and at.seed == self.terms.seeds[0]:
                self._siblings(at, every)
            return at

    def _begun(self, trial: Trial) -> Open:
        """Draw the parameters. A trial that nobody has seen yet is written down with them."""
        try:
            params = drawn(self.terms.space, trial)
        except BaseException as e:
            at = self._taken(trial, {})
            self._repeat(self._storage.get_trial(at.id))
            self._because(at.id, at.told, f"its parameters were not found: {e}", type(e).__name__)
            self._ended(at, TrialState.FAIL)
            raise
        return self._taken(trial, params)

    def _taken(self, trial: Trial, params: Mapping[str, Any]) -> Open:
        trial = entered(trial)
        at = self._open[trial.number] = Open(trial, trial.number, params, told(trial.user_attrs))
        return at

    def _look_over(self, every: Sequence[FrozenTrial]) -> int:
        """How many configurations there are. What was found of trials that have ended is remembered: they do not change."""
        while self._passed < len(every) and every[self._passed].state.is_finished():
            self._counted += _is_configuration(every[self._passed])
            self._passed += 1
        count = self._counted + sum(map(_is_configuration, every[self._passed:]))
        if self.terms.configs is not None:
            self.total = max(count, self.terms.configs) * max(1, len(self.terms.seeds))
        return count

    def _waiting(self, every: Sequence[FrozenTrial], worker: Mapping[str, Any]) -> Trial | None:
        """Take the first that waits. Whose it is is written down before it runs: who dies in between leaves it waiting."""
        config = self._counted
        for trial in every[self._passed:]:
            if trial.state is TrialState.WAITING:
                before = told(trial.user_attrs)  # what has none was put there by somebody else's tool
                ours = {**(before if CONFIG in before else self._marks(config)), DRIVER: self.driver, WORKER: dict(worker)}
                if before != ours:
                    self._storage.set_trial_user_attr(trial._trial_id, TOLD, ours)
                if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return Trial(self.study, trial._trial_id)
            config += _is_configuration(trial)
        return None

    def _fresh(self, config: int, every: Sequence[FrozenTrial], worker: Mapping[str, Any]) -> Trial | None:
        if self.terms.configs is not None and config >= self.terms.configs:
            return None
        ours = {**self._marks(config), DRIVER: self.driver, WORKER: dict(worker)}
        return drafted(self.study, every, create_trial(state=TrialState.RUNNING, user_attrs={TOLD: ours}))

    def _marks(self, config: int) -> dict[str, Any]:
        seed = self.terms.seeds[0] if self.terms.seeds else derived(self.terms.seed, f"config/{config}")
        return {CONFIG: config, SEED: seed}

    def _siblings(self, at: Open, every: Sequence[FrozenTrial]) -> None:
        """The same parameters wait for the other seeds, unless they do already."""
        config, there = at.told[CONFIG], set()
        if REPEAT_OF in at.told:
            there = {told(t.user_attrs).get(SEED) for t in every if told(t.user_attrs).get(CONFIG) == config}
        for seed in self.terms.seeds[1:]:
            if seed not in there:
                self._enqueue(at.trial.params, {CONFIG: config, SEED: seed, SIBLING_OF: at.number})

    def _enqueue(self, params: dict[str, Any], ours: Mapping[str, Any]) -> None:
        self.study.enqueue_trial(params, {TOLD: ours})

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """These parameters are the next configuration. What is left out is sampled."""
        with self._mine, self._locked():
            config = self._look_over(self._all())
            self._enqueue(self.terms.space.encoded(params), self._marks(config))
            self._look_over(self._all())

    # -- what a trial says -----------------------------------------------------------------------------------------------------

    def opened(self, number: int) -> Open:
        try:
            return self._open[number]
        except KeyError:
            raise StudyError(f"trial {number} is not under way here: it has ended, or somebody else runs it") from None

    def report(self, number: int, name: str, value: float, step: int) -> bool | None:
        """One value of a metric. What the pruner says if it was asked: True is to end it; None if it was not its business."""
        with self._mine:
            at = self.opened(number)
            at.metrics.setdefault(name, {})[step] = value
            if name != self.terms.objectives[0] or len(self.terms.objectives) > 1:
                return None
            at.reports += 1
            at.trial.report(value, step)
            if not self.terms.prunes:
                return None
            at.pruned = at.pruned or at.trial.should_prune()
            return at.pruned

    def note(self, number: int, name: str, value: Any) -> None:
        with self._mine:
            self.opened(number).notes[name] = value

    def found(self, at: Open, worker: Mapping[str, Any]) -> None:
        """Who runs it is known better now."""
        with self._mine:
            at.told = {**self.opened(at.number).told, WORKER: dict(worker)}
            self._storage.set_trial_user_attr(at.id, TOLD, at.told)

    # -- how it ended ----------------------------------------------------------------------------------------------------------

    def complete(self, number: int, values: Mapping[str, float], extra: Mapping[str, float]) -> FinishedTrial:
        """With these values; or pruned, if the pruner had said so. A constraint that cannot be computed fails it."""
        with self._mine:
            at = self.opened(number)
            if at.pruned:
                return self.prune(number)
            for name, value in extra.items():
                at.notes.setdefault(name, value)
            if self.terms.constraints is not None:
                try:
                    broken = self._constraints(at, values)
                except Exception as e:
                    return self.fail(number, f"constraints: {e}", type(e).__name__)
                for i, value in enumerate(broken):
                    at.trial.set_constraint(str(i), value)
            return self._ended(at, TrialState.COMPLETE, [values[name] for name in self.terms.objectives])

    def _constraints(self, at: Open, values: Mapping[str, float]) -> list[float]:
        assert self.terms.constraints is not None
        now = finished(self._storage.get_trial(at.id), self.terms.space, self.terms.objectives)
        found = self.terms.constraints(replace(now, state="completed", values=dict(values), metrics=at.metrics, notes=at.notes))
        return [float(c) for c in (found if hasattr(found, "__len__") else [found])]

    def prune(self, number: int) -> FinishedTrial:
        with self._mine:
            return self._ended(self.opened(number), TrialState.PRUNED)

    def fail(self, number: int, error: str, error_type: str, *, repeat: bool = False, died: bool = False) -> FinishedTrial:
        """It failed; with `repeat` its parameters wait to be tried again, which counts as a retry if its process `died`."""
        with self._mine:
            at = self.opened(number)
            if repeat:
                with self._locked():
                    self._repeat(self._storage.get_trial(at.id), died)
            self._because(at.id, at.told, error, error_type)
            return self._ended(at, TrialState.FAIL)

    def _repeat(self, trial: FrozenTrial, died: bool = False) -> None:
        ours = told(trial.user_attrs)
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # it may have died before it had all that it was given
        self._enqueue(params, {CONFIG: ours[CONFIG], SEED: ours[SEED], REPEAT_OF: trial.number,
                               ATTEMPT: int(ours.get(ATTEMPT, 0)) + 1, RETRIES: int(ours.get(RETRIES, 0)) + died})

    def _because(self, id: int, ours: Mapping[str, Any], error: str, error_type: str) -> None:
        self._storage.set_trial_user_attr(id, TOLD, {**ours, ERROR: error[:2000], ERROR_TYPE: error_type})

    def _ended(self, at: Open, state: TrialState, values: list[float] | None = None) -> FinishedTrial:
        """Write down what optuna has no place for (metrics beside the one that is judged, and notes), then the end."""
        kept = self.terms.objectives[0] if len(self.terms.objectives) == 1 else None
        if others := {name: found for name, found in at.metrics.items() if name != kept}:
            at.trial.set_user_attr(METRICS, others)
        for name, value in at.notes.items():
            at.trial.set_user_attr(name, value)
        _tell_with_warning(at.trial.study, at.trial, values, state)  # `Study.tell` is this, and a deep copy of the trial
        at.ended = True
        del self._open[at.number]
        return finished(self._storage.get_trial(at.id), self.terms.space, self.terms.objectives)


def _is_configuration(trial: FrozenTrial) -> bool:
    """Neither the repeat of a trial, nor one of its parameters with a further seed."""
    ours = told(trial.user_attrs)
    return REPEAT_OF not in ours and SIBLING_OF not in ours
