"""What came of a study: the part of `Study` that reads, counts and draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma.errors import StudyError
from soma.study.place import Alone, Place
from soma.study.results import Configuration, FinishedTrial, by_config, rows
from soma.study.space import Space

if TYPE_CHECKING:
    import optuna
    import pandas
    from matplotlib.figure import Figure

    from soma.study.book import Book


class Studied:
    """Of `book`, at `place`."""

    _book: Book
    _place: Place | Alone
    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    constraints: Callable[[FinishedTrial], Any] | None

    @property
    def name(self) -> str:
        return self._place.name

    @property
    def directory(self) -> Path | None:
        """Where it lies; None if in memory only."""
        return self._place.path

    @property
    def total(self) -> int | None:
        """Trials that are planned; None: no end."""
        return self._book.total

    @property
    def optuna(self) -> optuna.Study:
        """The study beneath, for everything that optuna and its tools can do with it."""
        return self._book.study

    @property
    def trials(self) -> list[FinishedTrial]:
        """All trials, by number; those that run or wait, too."""
        return self._book.trials()

    @property
    def best_trials(self) -> list[FinishedTrial]:
        """With several objectives the Pareto front; with one the best trial. Empty if none has completed."""
        return self._book.best()

    @property
    def best_trial(self) -> FinishedTrial:
        """Of one objective. StudyError if there are several, or if no trial has completed (and broken no constraint)."""
        if len(self.objectives) > 1:
            raise StudyError(f"there is no best of {', '.join(self.objectives)} together: best_trials is their Pareto front")
        if not (best := self.best_trials):
            raise StudyError(f"study {self.name!r}: no trial has completed" + (" within the constraints" if self.constraints else ""))
        return best[0]

    @property
    def best_params(self) -> dict[str, Any]:
        return dict(self.best_trial.params)

    @property
    def best_value(self) -> float:
        """NaN if no trial has completed."""
        best = self.best_trials
        return best[0].value if best and len(self.objectives) == 1 else math.nan

    def configurations(self) -> list[Configuration]:
        """Each set of parameters with the mean and spread of its trials, best mean first: what `seeds` are for."""
        return by_config(self.trials, self.objectives, self.directions)

    def trials_dataframe(self) -> pandas.DataFrame:
        """A row for each trial: number, state, `params_…`, `values_…`, `notes_…`, seed, config, started, duration_s, error."""
        import pandas

        return pandas.DataFrame(rows(self.trials))

    # -- pictures (matplotlib) -------------------------------------------------------------------------------------------------

    def plot_history(self) -> Figure:
        """The objective's value of every trial, and the best so far."""
        from soma.study import plots

        return plots.history(self)

    def plot_importances(self) -> Figure:
        """How much each parameter matters, by optuna's estimate."""
        from soma.study import plots

        return plots.importances(self)

    def plot_parallel(self) -> Figure:
        """Every trial as a line through its parameters."""
        from soma.study import plots

        return plots.parallel(self)

    def plot_slices(self) -> Figure:
        """The objective over each parameter."""
        from soma.study import plots

        return plots.slices(self)

    def plot_timeline(self) -> Figure:
        """When each trial ran, a lane for each worker."""
        from soma.study import plots

        return plots.timeline(self)

    def plot_pareto(self) -> Figure:
        """Two objectives against each other, with the front."""
        from soma.study import plots

        return plots.pareto(self)

    def plot_metrics(self) -> Figure:
        """What trials reported, step by step; pruned ones end early."""
        from soma.study import plots

        return plots.metrics(self)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {len(self.space)} dimensions, {len(self.trials)} of {self.total or '∞'} trials)"
