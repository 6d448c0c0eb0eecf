"""`soma.train.PopulationBased`: what a user holds. Checks what was asked, and drives rules and processes against each other."""

from __future__ import annotations

import inspect
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from soma import cluster
from soma.errors import NonFiniteError
from soma.events import GenerationCompleted, GenerationStarted, MemberExploited
from soma.runs import Run
from soma.train.population import keeping
from soma.train.population.evolution import Evolution, Explore, Generation, Turn, lineage
from soma.train.population.keeping import Progress
from soma.train.population.processes import Processes, Terms, wants_turn
from soma.train.population.spaces import Space
from soma.train.progress import training_bar
from soma.train.recording import Recorded, begin


@dataclass(frozen=True, slots=True, repr=False)
class PopulationResult(Recorded):
    """What a population came to.

    Attributes:
        state: of the best turn of all, as `train` returned it.
        best: that turn: generation, member, hyper-parameters, fitness.
        history: every turn, by generation and member.
        run_id: of its run, which is `run` if it was recorded; `soma runs show` takes it.
    """

    state: Any
    best: Turn
    history: tuple[Generation, ...]
    run_id: str

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters that the best state was trained with last; `schedule` has those before."""
        return dict(self.best.params)

    @property
    def fitness(self) -> float:
        return self.best.fitness

    def lineage(self) -> tuple[Turn, ...]:
        """The turns that the best state went through, across all members it was taken over from."""
        return lineage(self.history, self.best)

    def schedule(self) -> list[dict[str, Any]]:
        """The hyper-parameters of those turns, one dict for each generation: trained with them in this order, a single model has a
        schedule that no search over constants finds."""
        return [dict(turn.params) for turn in self.lineage()]

    def __repr__(self) -> str:
        return f"PopulationResult(fitness {self.fitness:.6g} of {self.best})"


@dataclass(eq=False, repr=False)
class PopulationBased:
    """Train several members at once; between generations the worse ones go on from the better ones' states, with other hyper-parameters.

        def train(state, params):                       # state is None at first
            model = state or make()
            …
            return model

        found = soma.train.PopulationBased(train, evaluate, {"lr": soma.search(1e-4, 1e-1, scale="log")}, generations=10).fit()
        found.state, found.params, found.schedule()

    Args:
        train: `train(state, params) -> state`: one generation's worth of training. The state may be anything that can be pickled; None at
            first. With an argument named `turn` it also gets the `Turn` (generation, member, seed).
        evaluate: `evaluate(state) -> fitness`, a number.
        space: name → `soma.search(…)`, a range `(low, high)` or a list of choices. Member 0 begins with the defaults that are declared.
        members, generations: how many there are; `train` and `evaluate` are each called members × generations times.
        exploit: who takes over whose state. "truncation": the worst `quantile` from the best `quantile`. "binary": each looks at one other.
        explore: what becomes of the hyper-parameters that come with it. "perturb": multiplied by one of `perturb_factors`, or, with
            `resample_probability`, drawn anew; "resample": all drawn anew; or a function of (params, numpy Generator) giving params.
        quantile: above 0, at most 0.5.
        mode: whether more fitness is better, "max", or less, "min".
        fixed: names of hyper-parameters that shape the state (a width): taken over together with it, never explored.
        seed: all decisions follow from it, and so do `random`, numpy's and torch's own generators inside the two functions; None draws one.
        num_cpus, num_gpus: of each process. There are as many as find room, at most one for each member; the others wait for their turn.
        max_failures: how many deaths of processes are made good, in all; that turn is repeated from the last generation's state.
        on_error: when a member raises: "raise", or "exploit": it counts as worst and takes over a better one.
        checkpoint: a file that is replaced after each generation; see `fit(resume=True)`.
        record, progress: whether the run gets a directory; whether it draws a bar (None: in a terminal).

    Raises:
        ValueError, TypeError: something above is not as it must be; names it.
    """

    train: Callable[..., Any]
    evaluate: Callable[[Any], Any]
    space: Mapping[str, Any]
    _: KW_ONLY
    members: int = 4
    generations: int = 3
    exploit: Literal["truncation", "binary"] = "truncation"
    explore: Literal["perturb", "resample"] | Explore = "perturb"
    quantile: float = 0.25
    perturb_factors: Sequence[float] = (0.8, 1.2)
    resample_probability: float = 0.25
    mode: Literal["max", "min"] = "max"
    fixed: Iterable[str] = ()
    seed: int | None = 0
    num_cpus: float = 1
    num_gpus: float = 0
    max_failures: int = 3
    on_error: Literal["raise", "exploit"] = "raise"
    checkpoint: str | PathLike[str] | None = None
    record: bool = True
    progress: bool | None = None

    def __post_init__(self) -> None:
        _takes(self.train, "train", "(state, params)", 2)
        _takes(self.evaluate, "evaluate", "(state)", 1)
        _whole("members", self.members, 2)
        _whole("generations", self.generations, 1)
        _whole("max_failures", self.max_failures, 0)
        _number("quantile", self.quantile, 0 < _real(self.quantile) <= 0.5, "above 0, at most 0.5")
        _number("resample_probability", self.resample_probability, 0 <= _real(self.resample_probability) <= 1, "from 0 to 1")
        for name in ("num_cpus", "num_gpus"):
            _number(name, getattr(self, name), 0 <= _real(getattr(self, name)) < math.inf, "from 0")
        factors = tuple(self.perturb_factors)
        if not factors or not all(0 < _real(f) < math.inf for f in factors):
            raise ValueError(f"perturb_factors={self.perturb_factors!r}: numbers above 0, such as (0.8, 1.2)")
        _one_of("exploit", self.exploit, "truncation", "binary")
        if not callable(self.explore):
            _one_of("explore", self.explore, "perturb", "resample", also=" or a function of (params, rng)")
        _one_of("mode", self.mode, "max", "min")
        _one_of("on_error", self.on_error, "raise", "exploit")
        if self.seed is None:
            self.seed = secrets.randbits(31)
        _whole("seed", self.seed, 0)
        self._rules = Evolution(
            space=Space.of(self.space, self.fixed), members=self.members, exploit=self.exploit, explore=self.explore,
            quantile=self.quantile, factors=factors, resample=self.resample_probability, mode=self.mode, seed=self.seed)

    def __repr__(self) -> str:
        name = getattr(self.train, "__name__", type(self.train).__name__)
        return f"PopulationBased({name}, {self.members} members, {self.generations} generations)"

    def fit(self, *, resume: bool = False) -> PopulationResult:
        """Run all generations. Blocks; Ctrl-C ends the members.

        Args:
            resume: go on from `checkpoint`, where there is one, with the decisions that an undisturbed run would have made.

        Raises:
            NonFiniteError: no member of a generation has a finite fitness.
            ActorDiedError: a process died once more than `max_failures`; names signal or exit code, and the member in a note.
            ValueError: the checkpoint is of another population.

        What a member raises is raised here, with a note that names member, generation and hyper-parameters.
        """
        if resume and self.checkpoint is None:
            raise ValueError("resume=True: from which file? PopulationBased(…, checkpoint=path)")
        listeners = training_bar(repr(self), self.progress, generations=self.generations)
        told = {name: getattr(self, name) for name in ("members", "generations", "exploit", "mode", "quantile")}
        told["space"] = str(self._rules.space)
        with begin(repr(self), seed=self.seed, params=told, record=self.record, listeners=listeners) as run:
            path = Path(self.checkpoint) if self.checkpoint is not None else None
            at = keeping.read(path, self._rules) if resume and path is not None and path.exists() else Progress([], ())
            with Processes((self.train, self.evaluate), self._terms(), run) as processes:
                while len(at.history) < self.generations:
                    self._advance(at, processes, run)
                    if path is not None:
                        keeping.write(path, self._rules, at)
            assert at.best is not None
            return PopulationResult(cluster.get(at.best), self._rules.best(at.history), tuple(at.history), run.id)

    def _advance(self, at: Progress, processes: Processes, run: Run) -> None:
        """One generation."""
        number, turns = len(at.history), self._rules.next(at.history)
        run.emit(GenerationStarted, generation=number, members=self.members)
        for turn in turns:
            if turn.exploits:
                run.emit(MemberExploited, member=turn.member, source=turn.source, generation=number)
        turns, at.states = processes.live(turns, at.states)
        if not any(math.isfinite(t.fitness) for t in turns):
            raise NonFiniteError(f"generation {number}: no member has a finite fitness: " + "; ".join(f"{t}: {t.problem}" for t in turns))
        at.history.append(turns)
        best = self._rules.best(at.history)
        if best.generation == number:
            at.best = at.states[best.member]
        here = self._rules.best([turns])
        run.emit(GenerationCompleted, generation=number, best=here.fitness, member=here.member)

    def _terms(self) -> Terms:
        """As many processes as find room now, at most one for each member. With room for none, the one waits, or is refused by name."""
        free = cluster.available_resources()
        room = [int(free.get(kind, 0.0) / each + 1e-9) for kind, each in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if each]
        options = {name: each for name, each in (("num_cpus", self.num_cpus), ("num_gpus", self.num_gpus)) if each}
        return Terms(max(1, min([self.members, *room])), options, self.max_failures, self.on_error == "exploit")


def _takes(function: Any, name: str, arguments: str, count: int) -> None:
    if not callable(function):
        raise TypeError(f"{name}={function!r:.80}: a function of {arguments}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # written in C: the first call will tell
    extra = {"turn": None} if name == "train" and wants_turn(function) else {}
    try:
        signature.bind(*[None] * count, **extra)
    except TypeError as e:
        raise TypeError(f"{name} takes {arguments}, but {getattr(function, '__name__', function)}{signature}: {e}") from None


def _real(value: Any) -> float:
    return math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value


def _number(name: str, value: Any, ok: bool, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: a number {wanted}")


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number from {least}")


def _one_of(name: str, value: Any, *choices: str, also: str = "") -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: one of {', '.join(map(repr, choices))}{also}")
