"""A population between two generations, in a file: its rules, what happened, and every member's state. Written whole or not at all.

States are what `soma.store.checkpoint` can write without running code when it is read: nested dicts, lists and tuples of arrays, tensors,
numbers and text. Refuses to go on under other rules than those it was written under; more generations are no other rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma import cluster
from soma.store.checkpoint import read_states, write_states
from soma.train.population.evolution import Evolution, Generation, Turn
from soma.train.population.processes import State


@dataclass(slots=True)
class Progress:
    """How far a population is. `states` are of the last generation, by member; `best` is that of the best turn so far."""

    history: list[Generation]
    states: Sequence[State | None]
    best: State | None = None


def write(path: Path, rules: Evolution, progress: Progress) -> None:
    """Fetches every state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    states = [None if s is None else cluster.get(s) for s in progress.states]
    best = rules.best(progress.history)
    older = best.generation < len(progress.history) - 1
    turns = [[_plain(rules, t) for t in generation] for generation in progress.history]
    write_states({"rules": _rules(rules), "history": turns, "states": states,
                  "best": cluster.get(progress.best) if older and progress.best is not None else None}, path)


def read(path: Path, rules: Evolution) -> Progress:
    """What was written, under refs.

    Raises:
        ValueError: it was written under other rules; names them.
    """
    kept = read_states(path)
    if "rules" not in kept or "history" not in kept:
        raise ValueError(f"{path} holds states, but not those of a population")
    now, then = _rules(rules), kept["rules"]
    if differ := [f"{name}: {then.get(name)!r} there, {value!r} here" for name, value in now.items() if then.get(name) != value]:
        raise ValueError(f"{path} was written by another population: " + "; ".join(differ))
    history = [tuple(Turn(**{**plain, "params": rules.space.unpacked(plain["params"])}) for plain in turns) for turns in kept["history"]]
    states = [None if s is None else cluster.put(s) for s in kept["states"]]
    best = rules.best(history)
    older = best.generation < len(history) - 1
    return Progress(history, states, cluster.put(kept["best"]) if older else states[best.member])


def _plain(rules: Evolution, turn: Turn) -> dict[str, Any]:
    fields = {name: getattr(turn, name) for name in turn.__dataclass_fields__}
    return {**fields, "params": rules.space.packed(turn.params)}


def _rules(rules: Evolution) -> dict[str, Any]:
    """All that a decision depends on, to be compared."""
    plain = {name: getattr(rules, name) for name in rules.__dataclass_fields__}
    explore = rules.explore if isinstance(rules.explore, str) else getattr(rules.explore, "__qualname__", type(rules.explore).__name__)
    return {**plain, "space": str(rules.space), "explore": explore}
