"""The rules of a population, against the same rules written another way; and what a call of it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import soma
from soma.train.population import PopulationBased
from soma.train.population.evolution import Evolution, Generation, lineage
from soma.train.population.spaces import Space

SPACE = Space.of({"lr": soma.search(1e-4, 1e-1, scale="log", default=0.01), "layers": (1, 6), "act": ["relu", "tanh"]})
fitness = st.one_of(st.floats(-100, 100), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]))


@st.composite
def rules(draw: Any) -> Evolution:
    return Evolution(space=SPACE, members=draw(st.integers(2, 12)), exploit=draw(st.sampled_from(["truncation", "binary"])),
                     explore=draw(st.sampled_from(["perturb", "resample"])), quantile=draw(st.floats(0.01, 0.5)),
                     mode=draw(st.sampled_from(["max", "min"])), seed=draw(st.integers(0, 2**40)))


def lived(turns: Generation, values: Sequence[float]) -> Generation:
    return tuple(replace(t, fitness=v) for t, v in zip(turns, values, strict=True))


def some_fitness(data: Any, evolution: Evolution) -> list[float]:
    values = data.draw(st.lists(fitness, min_size=evolution.members, max_size=evolution.members))
    assume(any(map(math.isfinite, values)))
    return list(values)


def played(evolution: Evolution, data: Any, generations: int) -> list[Generation]:
    history: list[Generation] = []
    for _ in range(generations):
        history.append(lived(evolution.next(history), some_fitness(data, evolution)))
    return history


@given(rules(), st.data())
def test_who_exploits_whom(evolution: Evolution, data: Any) -> None:
    """With numpy's ranking instead of the sort that is used, and each rule for each member on its own."""
    first = lived(evolution.next([]), some_fitness(data, evolution))
    values = np.array([t.fitness for t in first]) * (1 if evolution.mode == "max" else -1)
    values[~np.isfinite(values)] = -np.inf
    ranking = np.lexsort((np.arange(len(values)), -values))  # the best first, of equal ones the first
    cut = max(1, math.floor(round(len(values) * evolution.quantile, 9)))
    top, bottom = set(ranking[:cut].tolist()), set(ranking[len(values) - cut:].tolist())
    for turn in evolution.next([first]):
        mine, theirs = values[turn.member], values[turn.source]
        assert theirs > -np.inf, "nobody goes on from a state that is broken"
        if turn.exploits:
            assert theirs > mine
            if evolution.exploit == "truncation":
                assert turn.source in top and (turn.member in bottom or mine == -np.inf)
        else:
            assert turn.params == first[turn.member].params
            if evolution.exploit == "truncation" and turn.member in bottom:
                assert mine >= values[ranking[cut - 1]], "only one that is as good as those on top is spared"
        assert turn.generation == 1 and math.isnan(turn.fitness)


@given(rules(), st.data())
def test_the_same_seed_decides_the_same_and_members_do_not_hear_of_each_other(evolution: Evolution, data: Any) -> None:
    history = played(evolution, data, 3)
    again: list[Generation] = []
    for generation in history:
        turns = replace(evolution).next(again)
        assert [replace(t, fitness=0.0) for t in turns] == [replace(t, fitness=0.0) for t in generation]
        again.append(lived(turns, [t.fitness for t in generation]))
    seeds = [t.seed for generation in history for t in generation]
    assert len(set(seeds)) == len(seeds)


@given(rules(), st.data())
def test_a_lineage_is_unbroken(evolution: Evolution, data: Any) -> None:
    history = played(evolution, data, 4)
    best = evolution.best(history)
    scores = [s for generation in history for s in evolution.scores(generation)]
    assert evolution.scores([best]) == [max(scores)]
    path = lineage(history, best)
    assert [t.generation for t in path] == list(range(best.generation + 1)) and path[-1] is best and path[0].source is None
    for before, after in zip(path, path[1:], strict=False):
        assert before.member == after.source and before is history[before.generation][before.member]
        assert after.exploits or after.params == before.params


def test_binary_looks_at_everybody_and_truncation_only_up() -> None:
    first = [Evolution(space=SPACE, members=6, seed=s, exploit="binary").next([]) for s in range(300)]
    sources = [t.source for s, turns in enumerate(first)
               for t in Evolution(space=SPACE, members=6, seed=s, exploit="binary").next([lived(turns, range(6))])]
    assert set(sources[0::6]) == {1, 2, 3, 4, 5}, "the worst meets a better one, whomever it meets"
    kept = sum(source == 3 for source in sources[3::6]) / 300
    assert 0.5 < kept < 0.7, "the fourth of six meets a worse one three times in five"


def test_member_0_begins_with_what_was_declared() -> None:
    turns = Evolution(space=SPACE).next([])
    assert turns[0].params["lr"] == 0.01 and all(t.params["lr"] != 0.01 for t in turns[1:])


def test_an_explore_of_ones_own_gets_a_copy_and_a_generator() -> None:
    def halve(params: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        params["lr"] /= 2
        return {**params, "layers": int(rng.integers(1, 7))}

    evolution = Evolution(space=SPACE, explore=halve)
    first = lived(evolution.next([]), [4, 3, 2, 1])
    last = evolution.next([first])[3]
    assert last.source == 0 and last.params["lr"] == 0.005 and first[0].params["lr"] == 0.01
    with pytest.raises(ValueError, match="explore gave lr=0;"):
        replace(evolution, explore=lambda params, rng: params | {"lr": 0}).next([first])


# -- what a call may be ----------------------------------------------------------------------------------------------------------


def train(state: Any, params: Any) -> Any:
    return params


def evaluate(state: Any) -> float:
    return 0.0


@pytest.mark.parametrize(("given", "says"), [
    ({"members": 1}, "members=1: a whole number from 2"), ({"members": 2.0}, "members=2.0"), ({"members": True}, "members=True"),
    ({"generations": 0}, "generations=0: a whole number from 1"), ({"max_failures": -1}, "max_failures=-1"),
    ({"quantile": 0}, "quantile=0: a number above 0, at most 0.5"), ({"quantile": 0.6}, "quantile=0.6"),
    ({"quantile": "a"}, "quantile='a'"),
    ({"exploit": "best"}, "exploit='best': one of 'truncation', 'binary'"),
    ({"explore": "mutate"}, "explore='mutate': one of 'perturb', 'resample' or a function"),
    ({"mode": "maximum"}, "mode='maximum': one of 'max', 'min'"), ({"on_error": "skip"}, "on_error='skip': one of 'raise', 'exploit'"),
    ({"perturb_factors": ()}, "perturb_factors"), ({"perturb_factors": (0, 1.2)}, "perturb_factors"),
    ({"resample_probability": 1.5}, "resample_probability=1.5: a number from 0 to 1"), ({"seed": -1}, "seed=-1"),
    ({"num_cpus": -1}, "num_cpus=-1"), ({"num_gpus": math.inf}, "num_gpus=inf"), ({"fixed": ["width"]}, "fixed: 'width'"),
])
def test_mistakes_are_named_at_once(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PopulationBased(train, evaluate, {"lr": (0.1, 1.0)}, **given)


@pytest.mark.parametrize(("functions", "says"), [
    ((3, evaluate), "train=3: a function of"), ((train, None), "evaluate=None"),
    ((evaluate, evaluate), r"train takes \(state, params\), but evaluate\(state"), ((train, train), r"evaluate takes \(state\), but train"),
    ((lambda s, p, epochs: 0, evaluate), r"train takes .*missing a required argument: 'epochs'"),
])
def test_functions_of_other_arguments_are_refused(functions: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        PopulationBased(*functions, {"lr": (0.1, 1.0)})


def test_arguments_that_may_be() -> None:
    for f in (train, lambda s, p, turn: 0, lambda s, p, epochs=3: 0, lambda *a: 0, lambda s, p, *, turn: 0):
        assert PopulationBased(f, evaluate, {"lr": (0.1, 1.0)}, seed=None).seed is not None
    with pytest.raises(ValueError, match="from which file"):
        PopulationBased(train, evaluate, {"lr": (0.1, 1.0)}).fit(resume=True)
    assert repr(PopulationBased(train, evaluate, {"lr": (0.1, 1.0)})) == "PopulationBased(train, 4 members, 3 generations)"
