"""Drafts: a trial is in memory only until its parameters are drawn. Then it is written down, whole, by one transaction.

To a database one thing after the other costs twice as much. Whoever dies before leaves nothing. To the sampler a draft looks like any
trial that runs: it is the last of the study's trials, with the number that it will get. Afterwards optuna reads it from memory, too.
Invariant: nobody else writes to it, and what is remembered of it is what the storage has.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, _CachedStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

DRAFT = -1
"""The id of a trial that no storage has; theirs are 0, 1, 2, …"""


def drafted(study: Study, before: Sequence[FrozenTrial], draft: FrozenTrial) -> Trial:
    """The trial that would come after all those `before`. Let nobody else begin one until it is `entered`."""
    draft._trial_id, draft.number = DRAFT, len(before)
    own = copy.copy(study)
    own._storage = _Desk(study._storage, study._study_id, before, draft)
    return Trial(own, DRAFT)


def entered(trial: Trial) -> Trial:
    """Write it down, and give it its id and number. One that is no draft is there already."""
    if trial._trial_id == DRAFT:
        frozen = trial._cached_frozen_trial
        frozen._trial_id, frozen.number = trial.storage.enter()
        trial._trial_id = frozen._trial_id
    return trial


class _Desk:
    """A storage with one trial on top that is known by heart. What does not concern that is left to what lies beneath."""

    def __init__(self, beneath: BaseStorage, study_id: int, before: Sequence[FrozenTrial], trial: FrozenTrial) -> None:
        self._beneath, self._study_id, self._trial = beneath, study_id, trial
        self._before: Sequence[FrozenTrial] | None = before  # as long as it is a draft
        self._next = True  # none came between those and this one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._beneath, name)

    def enter(self) -> tuple[int, int]:
        """Its id and number."""
        trial = self._trial
        id = self._beneath.create_new_trial(self._study_id, trial)
        self._next = self._beneath.get_trial_id_from_study_id_trial_number(self._study_id, trial.number) == id
        if not self._next:  # a tool that knows nothing of the drivers' lock was quicker
            trial.number = self._beneath.get_trial(id).number
        trial._trial_id, self._before = id, None
        return id, trial.number

    # -- what is read ----------------------------------------------------------------------------------------------------------

    def get_trial(self, trial_id: int) -> FrozenTrial:
        open = trial_id == self._trial._trial_id and not self._trial.state.is_finished()
        return copy.deepcopy(self._trial) if open else self._beneath.get_trial(trial_id)

    get_trial_params = BaseStorage.get_trial_params
    get_trial_user_attrs = BaseStorage.get_trial_user_attrs
    get_trial_system_attrs = BaseStorage.get_trial_system_attrs

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        if self._before is None:
            return list(self._beneath.get_all_trials(study_id, deepcopy, states))
        found = [trial for trial in (*self._before, self.get_trial(DRAFT)) if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    # -- what is written -------------------------------------------------------------------------------------------------------

    def _remembers(self, id: int, write: str, *given: Any) -> bool:
        """Have it written, unless it is the draft's; whether it is to be remembered, too."""
        if id != DRAFT or self._before is None:
            getattr(self._beneath, write)(id, *given)
        return id == self._trial._trial_id

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        if self._remembers(trial_id, "set_trial_param", param_name, param_value_internal, distribution):
            self._trial.params[param_name] = distribution.to_external_repr(param_value_internal)
            self._trial.distributions[param_name] = distribution

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        if self._remembers(trial_id, "set_trial_intermediate_value", step, intermediate_value):
            self._trial.intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._remembers(trial_id, "set_trial_user_attr", key, value):
            self._trial.user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._remembers(trial_id, "set_trial_system_attr", key, value):
            self._trial.system_attrs[key] = value

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        done = bool(self._beneath.set_trial_state_values(trial_id, state, values))
        if done and trial_id == self._trial._trial_id:
            self._trial.state, self._trial.values = state, values
            if self._next and isinstance(self._beneath, _CachedStorage):
                _teach(self._beneath, self._study_id, self._trial)
        return done


def _teach(cache: _CachedStorage, study_id: int, trial: FrozenTrial) -> None:
    """Tell optuna's cache of a database of a trial that has ended, which it would read back by seven statements, each time.

    It takes all trials up to the last one that it knows to have ended for known. They are, if all before this one had been read.
    """
    import sqlalchemy

    times = sqlalchemy.column("datetime_start", sqlalchemy.DateTime()), sqlalchemy.column("datetime_complete", sqlalchemy.DateTime())
    found = sqlalchemy.select(*times).select_from(sqlalchemy.table("trials")).where(sqlalchemy.column("trial_id") == trial._trial_id)
    with cache._backend.engine.connect() as connection:
        trial.datetime_start, trial.datetime_complete = connection.execute(found).one()  # the second was the database's to say
    trial.user_attrs, trial.system_attrs = (json.loads(json.dumps(kept)) for kept in (trial.user_attrs, trial.system_attrs))
    with cache._lock:
        cache._add_trials_to_cache(study_id, [trial])
        known = cache._studies[study_id]
        known.unfinished_trial_ids.discard(trial._trial_id)
        known.last_finished_trial_id = max(known.last_finished_trial_id, trial._trial_id)
