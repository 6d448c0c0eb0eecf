"""`soma.Study`: what a user holds. Checks what was asked; the work is done by `Book` and `Running`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma.errors import StudyError
from soma.runs import Run, RunFolder
from soma.runs.run import new_id
from soma.study.grid import cells
from soma.study.outcome import outcome
from soma.study.place import Alone, Driver, Guest, Place, checked_name
from soma.study.reading import Studied
from soma.study.results import FinishedTrial
from soma.study.space import Space
from soma.study.trial import Trial

if TYPE_CHECKING:
    from soma.study.book import Book
    from soma.study.terms import Terms


class Study(Studied):
    """A search for good parameters. Trials run at once, each in a worker process; optuna says what to try and what to give up.

        def objective(trial):
            return (trial["x"] - 2) ** 2

        study = soma.Study("parabola", {"x": (-10.0, 10.0)}, n_trials=50, seed=0).run(objective, n_jobs=2)
        study.best_params

    A study is kept under its name (see `storage`): the same program, started again after a crash, goes on where it was.

    Args:
        name: up to 100 letters, digits, '.', '_', '-'. There is one study of a name in a directory of runs.
        space: what is tried: name → `soma.search(…)`, a range `(low, high)`, a list of choices, or a dict with "type", "low", "high",
            "scale", "choices", "step", "when"; or a list of such dicts, each with its "name". `"when": {"kernel": "rbf"}` makes a dimension
            exist only then. None or empty: nothing.
        objectives: the name, or names, of what an objective gives.
        directions: "minimize" or "maximize"; one for all, or one for each.
        sampler: "tpe", "random", "grid", "gp", "cmaes", "qmc", "nsgaii", or a sampler of optuna's. The grid goes through all cells, the
            last dimension fastest; ranges have `points` values each.
        pruner: "median", "percentile", "hyperband", "halving", a pruner of optuna's, or None. With one objective only.
        n_trials: how many sets of parameters are tried; None: the grid's, else no end (then `run` wants a timeout, or Ctrl-C).
        seed: all that is tried follows from it; None draws one.
        seeds: each set of parameters is tried once for each of these, one after the other; `trial.seed` says which.
        frozen: values of dimensions that are not to be searched.
        constraints: of a trial that completed (`FinishedTrial`): a number, or several, at most 0 where they hold. The best are chosen
            among trials that break none; "tpe", "gp" and "nsgaii" search there.
        storage: None, a SQLite file in `directory`; "journal", a file of operations there, several times quicker; "memory", nothing that
            lasts; a URL ("sqlite:///tune.db", "postgresql://…"); or a storage of optuna's. optuna's own tools open it too.
        options: see `Options`: of samplers, pruners, processes and failures.

    Raises:
        SpaceError: a dimension that cannot be; names it. StudyError: another argument, or a study of this name that is another.
        ModuleNotFoundError: optuna is missing; names the extra.
    """

    def __init__(self, name: str, space: Any = None, *, objectives: str | Sequence[str] = "value",
                 directions: str | Sequence[str] = "minimize", sampler: Any = "tpe", pruner: Any = None, n_trials: int | None = None,
                 seed: int | None = None, seeds: Iterable[int] = (), frozen: Mapping[str, Any] | None = None,
                 constraints: Callable[[FinishedTrial], Any] | None = None, storage: Any = None, **options: Any) -> None:
        from soma.study.options import Options, checked_whole, directions_of, names_of

        self.options = Options.of(options)
        self.space = Space.of(space).freeze(frozen)
        self.objectives = names_of(objectives)
        self.directions = directions_of(directions, self.objectives)
        if pruner is not None and len(self.objectives) > 1:
            raise StudyError(f"pruner={pruner!r}: with several objectives there is no telling which trial is worse; use pruner=None")
        if n_trials is not None:
            checked_whole("n_trials", n_trials, 1)
        self.seeds = tuple(checked_whole("seeds", s, 0) for s in seeds)
        if len(set(self.seeds)) < len(self.seeds):
            raise StudyError(f"seeds={self.seeds}: each once")
        self.sampler, self.pruner, self.n_trials, self.constraints = sampler, pruner, n_trials, constraints
        self.run_id: str | None = None
        self._asked_seed = None if seed is None else checked_whole("seed", seed, 0)
        self._driver: Driver | Guest | None = None
        self._open(checked_name(name), storage)

    def _open(self, name: str, storage: Any) -> None:
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as e:
            if e.name != "optuna":
                raise
            raise ModuleNotFoundError('studies need optuna: pip install "soma[study]"', name="optuna") from None
        from soma.study.storing import open_storage

        self._tools(0)  # refuses what is not known before anything is made
        self._place: Place | Alone = Alone(name) if storage == "memory" else Place(name).make()
        with self._place.locked():
            kept, url = open_storage(storage, self._place.path or Path())
            told = self._told(url)
            self._book = self._bound(kept)
            self._place.describe(told)

    def _told(self, url: str) -> dict[str, Any]:
        """What this one is, compared with what is there."""
        from soma.study.options import sameness

        before = self._place.description()
        self.seed = self._asked_seed
        if self.seed is None:
            self.seed = before["seed"] if before else secrets.randbits(31)
        told = {"name": self.name, "space": self.space.describe(), "objectives": list(self.objectives), "directions": list(self.directions),
                "sampler": str(self.sampler), "pruner": None if self.pruner is None else str(self.pruner), "n_trials": self.n_trials,
                "seed": self.seed, "seeds": list(self.seeds), "points": self.options.points, "storage": url}
        if before is not None:
            sameness(before, told)
        return told

    def _tools(self, seed: int) -> tuple[Any, Any]:
        """The sampler and the pruner."""
        from soma.study.pruning import pruner_of
        from soma.study.sampling import sampler_of

        grid = cells(self.space, self.options.points)
        planned = grid.total if self.sampler == "grid" and self.n_trials is None else self.n_trials
        return (sampler_of(self.sampler, seed, lambda i: self.space.encoded(grid[i]), self.options.sampler_options),
                pruner_of(self.pruner, self.options.pruner_options, planned))

    def _bound(self, storage: Any) -> Book:
        from soma.study.book import Book
        from soma.study.storing import open_study

        assert self.seed is not None
        study = open_study(self.name, storage, self.directions, *self._tools(self.seed))
        return Book(study, self._terms(cells(self.space, self.options.points).total), self._place.locked, self._place.lives)

    def _terms(self, grid: int) -> Terms:
        from soma.study.terms import Terms

        configs = self.n_trials
        if self.sampler == "grid":
            configs = grid if configs is None else min(configs, grid)
        elif configs is None and all(name in self.space.frozen for name in self.space.dimensions):
            configs = 1
        assert self.seed is not None
        return Terms(self.space, self.objectives, self.directions, configs, self.seeds, self.seed, prunes=self.pruner is not None,
                     constraints=self.constraints)

    # -- running ---------------------------------------------------------------------------------------------------------------

    def run(self, objective: Callable[[Trial], Any], *, n_jobs: int = 1, timeout: float | None = None, resume: bool = True,
            callbacks: Sequence[Callable[[Study, FinishedTrial], None]] = (), record: bool = True, progress: bool | None = None) -> Study:
        """Try until all planned trials are done; gives the study back. Blocks.

        Args:
            objective: called with each `Trial`; gives a number, a dict of numbers by objective (more of them are kept as notes), a
                sequence of numbers for several objectives, or None: then what it reported last counts. Anything else, and anything it
                raises, fails that trial, and the study goes on.
            n_jobs: trials at once, as far as they find room, each in a worker process with the resources that the options say; -1: as
                many as do. 0: here, in this process, one after the other, for a debugger.
            timeout: seconds after which no further trial begins.
            resume: go on with what is there: finished trials stay, interrupted ones run again. With False, a study that has trials is
                an error.
            callbacks: called here with (study, trial) after each end; `study.stop()` in one ends the run.
            record, progress: whether the run gets a directory of its own; whether it is drawn (None: in a terminal).

        Ctrl-C interrupts what runs; those trials run again next time.

        Raises:
            StudyError: it has trials, and `resume=False`.
            ActorInitError: a worker cannot even begin: the objective cannot be unpickled there, say.
        """
        from soma.study.course import Course, Limits
        from soma.study.running import Running

        self._check_run(objective, n_jobs, timeout, resume)
        o = self.options
        self._place.go_on()
        self._place.record_command()
        with self._place.enter() as driver, self._recorded(record, progress) as run, self._book.taken_by(driver.identity):
            self._book.recover()
            limits = Limits(timeout, o.trial_timeout, o.prune_grace, o.max_failures)
            running = Running(self._book, Course(limits, time.monotonic()), self._place, run, max_retries=o.max_retries,
                              after=[lambda trial, fn=fn: fn(self, trial) for fn in callbacks])  # type: ignore[misc]
            if n_jobs == 0:
                running.here(objective)
            else:
                from soma.study.crew import Crew

                with Crew(objective, self.objectives, n_jobs, o.worker_options(), self.pruner is not None) as crew:
                    running.with_workers(crew)
        return self

    def _check_run(self, objective: Any, n_jobs: int, timeout: float | None, resume: bool) -> None:
        from soma.study.options import checked_seconds, checked_whole

        if not callable(objective):
            raise TypeError(f"objective={objective!r:.80}: a function of a trial")
        checked_whole("n_jobs", n_jobs, -1)
        checked_seconds("timeout", timeout)
        if not resume and (count := len(self._book.study.get_trials(deepcopy=False))):
            raise StudyError(f"study {self.name!r} has {count} trials already: resume=True goes on with it, "
                             f"another name begins another one{f', and to begin anew remove {self.directory}' if self.directory else ''}")

    def _recorded(self, record: bool, progress: bool | None) -> Run:
        from soma.study.live import watching

        self.run_id = new_id("study")
        told = {"study": self.name, "directory": str(self.directory) if self.directory else None, "space": str(self.space),
                "sampler": str(self.sampler), "pruner": str(self.pruner), "objectives": list(self.objectives),
                "directions": list(self.directions)}
        folder = RunFolder.create(self.run_id, "study", seed=self.seed, params=told) if record else None
        return Run("study", folder, watching(self.name, progress, self.objectives, self.directions))

    def stop(self) -> None:
        """Every driver of this study takes no further trial; those under way end by themselves."""
        self._place.stop()

    # -- one at a time ---------------------------------------------------------------------------------------------------------

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """These parameters are tried next. Dimensions that are left out are sampled.

        Raises:
            SpaceError: a value that does not fit; names it. StudyError: the sampler is the grid, which is complete.
        """
        if self.sampler == "grid":
            raise StudyError("enqueue: a grid goes through all its cells, and no others")
        self._book.enqueue(self.space.check(params, partial=True))

    def ask(self) -> Trial | None:
        """The next trial, to be run by the caller and ended by `tell`; None if all that were planned have begun."""
        from soma.study.asking import asked

        if self._driver is None:
            self._driver = self._place.enter()  # for as long as this study is held
            self._book.driver = self._driver.identity
            self._book.recover()
        return asked(self._book)

    def tell(self, trial: Trial | int, returned: Any = None, *, state: str = "completed", error: str = "") -> FinishedTrial:
        """How a trial that was asked for ended.

        Args:
            returned: what an objective would give: a number, a dict, a sequence, or None for what was reported last. What it could not
                give fails the trial.
            state: "completed", "pruned", or "failed" (with `error`).
        """
        number = trial if isinstance(trial, int) else trial.number
        match state:
            case "completed":
                last = {name: found[max(found)] for name, found in self._book.opened(number).metrics.items()}
                try:
                    came = outcome(returned, self.objectives, last)
                except ValueError as e:
                    return self._book.fail(number, str(e), "ValueError")
                return self._book.complete(number, came.values, came.metrics)
            case "pruned":
                return self._book.prune(number)
            case "failed":
                return self._book.fail(number, error, "")
        raise StudyError(f"state={state!r}: 'completed', 'pruned' or 'failed'")
