"""What a population does next. Pure: fitness in, turns out.

Every random number comes from (seed, generation, member), so the order in which members finish changes nothing, and a run that was
interrupted goes on as it would have.

The generations are synchronous. Each begins with exploit and explore, from the last one's fitness; then every member trains, then every
member is evaluated. So one that took over another's weights gets a fitness of its own before anybody compares it, and members × generations
calls of `train` and as many of `evaluate` are all there are (Jaderberg et al., Population Based Training of Neural Networks, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from soma.filters.seeds import derived
from soma.train.population.spaces import Space

if TYPE_CHECKING:
    import numpy as np

Explore = Callable[[dict[str, Any], "np.random.Generator"], Mapping[str, Any]]
LOST = -math.inf
"""The score of a fitness that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a member does in one generation, and, once that is over, what it came to.

    Attributes:
        generation, member: both count from 0.
        params: the hyper-parameters it trains with.
        source: the member whose state of the last generation it goes on from: its own number, or that of a better one; None in
            generation 0, where it begins.
        seed: what its random numbers follow from.
        fitness: what `evaluate` gave; NaN if it gave none.
        problem: why it counts as worst: a fitness that is not finite, or the error that it raised; else "".
    """

    generation: int
    member: int
    params: Mapping[str, Any]
    source: int | None
    seed: int
    fitness: float = math.nan
    problem: str = ""

    @property
    def exploits(self) -> bool:
        """Whether it took over the state of another."""
        return self.source is not None and self.source != self.member

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value!r:.40}"
                           for name, value in self.params.items())
        return f"member {self.member}, generation {self.generation} ({params})"


Generation = tuple[Turn, ...]
History = Sequence[Generation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """The rules of a population; see `PopulationBased` for what they mean."""

    space: Space
    members: int = 4
    exploit: Literal["truncation", "binary"] = "truncation"
    explore: Literal["perturb", "resample"] | Explore = "perturb"
    quantile: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.2)
    resample: float = 0.25
    mode: Literal["max", "min"] = "max"
    seed: int = 0

    def next(self, history: History) -> Generation:
        """The turns of the generation after `history`, whose last one has at least one finite fitness."""
        generation, members = len(history), range(self.members)
        if not history:
            return tuple(self._turn(0, m, self._begin(m), None) for m in members)
        scores, turns = self.scores(history[-1]), []
        for m in members:
            rng = self._rng(generation, m)
            source = self._source(m, scores, rng)
            params = dict(history[-1][source].params)
            turns.append(self._turn(generation, m, params if source == m else self._explored(params, rng), source))
        return tuple(turns)

    def scores(self, turns: Sequence[Turn]) -> list[float]:
        """More is better; `LOST` for a fitness that is not finite."""
        sign = 1 if self.mode == "max" else -1
        return [sign * t.fitness if math.isfinite(t.fitness) else LOST for t in turns]

    def best(self, history: History) -> Turn:
        """The best turn of all; of equal ones the earliest."""
        turns = [t for generation in history for t in generation]
        scores = self.scores(turns)
        return turns[scores.index(max(scores))]

    def _begin(self, member: int) -> dict[str, Any]:
        drawn = self.space.draw(self._rng(0, member))
        return drawn | self.space.defaults() if member == 0 else drawn

    def _turn(self, generation: int, member: int, params: Mapping[str, Any], source: int | None) -> Turn:
        seed = derived(self.seed, f"generation {generation}, member {member}")
        return Turn(generation=generation, member=member, params=params, source=source, seed=seed)

    def _rng(self, generation: int, member: int) -> np.random.Generator:
        import numpy as np

        return np.random.default_rng(np.random.SeedSequence((self.seed, generation, member)))

    def _source(self, member: int, scores: Sequence[float], rng: np.random.Generator) -> int:
        """Whose state a member goes on from. One without a score takes over another's in any case; nobody takes over one that is no
        better than its own."""
        alive = [m for m, score in enumerate(scores) if score > LOST]
        if self.exploit == "binary":
            rivals = [m for m in alive if m != member]
        else:
            order = sorted(range(len(scores)), key=lambda m: (-scores[m], m))
            cut = max(1, int(len(scores) * self.quantile + 1e-9))
            loses = member in order[-cut:] or scores[member] == LOST
            rivals = [m for m in order[:cut] if scores[m] > LOST] if loses else []
        if not rivals:
            return member
        rival = rivals[rng.integers(len(rivals))]
        return rival if scores[rival] > scores[member] else member

    def _explored(self, params: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if self.explore == "perturb":
            return self.space.perturbed(params, rng, self.factors, self.resample)
        if self.explore == "resample":
            return self.space.resampled(params, rng)
        return self.space.checked(self.explore(dict(params), rng), params)


def lineage(history: History, turn: Turn) -> tuple[Turn, ...]:
    """The turns whose weights became those of `turn`, from generation 0 to itself."""
    path = [turn]
    while path[-1].source is not None:
        path.append(history[path[-1].generation - 1][path[-1].source])
    return tuple(reversed(path))
