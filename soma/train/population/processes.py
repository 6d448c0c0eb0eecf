"""The processes in which members live, and the loop that gives them their turns.

A member is not tied to a process: its state is kept under a ref, outside of the process that made it, and goes by that ref to whichever
takes the next turn. The program that waits here never holds one. So a process that is killed costs the one turn that it was in.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, ClusterError, RemoteTraceback
from soma.events import MetricReported
from soma.filters.reporting import SINK
from soma.filters.seeds import seeded
from soma.runs import Run
from soma.train.population.evolution import Generation, Turn

GONE = 2.0
"""Seconds that killed processes have to be gone."""

State = ObjectRef[Any]


class PopulationMember:
    """Runs one turn after the other, of whichever member."""

    def __init__(self, functions: tuple[Callable[..., Any], Callable[[Any], Any]]) -> None:
        self._train, self._evaluate = functions
        self._tells = wants_turn(self._train)

    def live(self, turn: Turn, state: Any) -> tuple[Any, float]:
        """Train, then evaluate: (new state, fitness)."""
        token = SINK.set(lambda fields: cluster.tell({**fields, "node": f"member {turn.member}"}))
        try:
            with seeded(turn.seed):
                state = self._train(state, dict(turn.params), **({"turn": turn} if self._tells else {}))
                if state is None:
                    raise TypeError(f"train gave None, not the new state, for {turn}")
                return state, _number(self._evaluate(state), turn)
        finally:
            SINK.reset(token)

    def leave(self) -> None:
        cluster.exit_actor()


def wants_turn(train: Callable[..., Any]) -> bool:
    """Whether it has an argument of that name."""
    try:
        return "turn" in inspect.signature(train).parameters
    except ValueError:  # written in C
        return False


def _number(value: Any, turn: Turn) -> float:
    if not isinstance(value, bool) and hasattr(value, "__float__"):
        with suppress(TypeError, ValueError):  # an array or a tensor with more than one element
            return float(value)
    raise TypeError(f"evaluate gave {value!r:.80} ({type(value).__name__}), which is no number, for {turn}")


@dataclass(frozen=True, slots=True)
class Terms:
    """How many processes a population may have, and of what kind.

    Attributes:
        size: processes at once; members that find none free wait.
        options: of each, e.g. `{"num_cpus": 1}`.
        max_failures: deaths of processes that are made good, in all.
        exploits_errors: whether a member that raised counts as worst; if not, its error ends the run.
    """

    size: int
    options: Mapping[str, Any]
    max_failures: int
    exploits_errors: bool


class Processes:
    """Use it in a `with`, whose end is theirs. They start when they are first needed."""

    def __init__(self, functions: tuple[Callable[..., Any], Callable[..., Any]], terms: Terms, run: Run) -> None:
        self._functions, self._terms, self._run = functions, terms, run
        self._kept: Any = None
        self._all: list[ActorHandle[PopulationMember]] = []
        self._idle: list[ActorHandle[PopulationMember]] = []
        self._deaths = 0

    def live(self, turns: Generation, states: Sequence[State | None]) -> tuple[Generation, list[State | None]]:
        """Every member's turn, with the fitness it came to, and its state after it.

        Args:
            turns: one for each member, in order.
            states: of the last generation, by member.

        Raises:
            ActorDiedError: more processes died than `max_failures`; a note names the member. What a member raised, likewise.
        """
        waiting, ended = deque(turns), list(turns)
        after: list[State | None] = [None] * len(turns)
        errors: list[Exception] = []
        running: dict[ObjectRef[Any], tuple[Turn, State, ActorHandle[PopulationMember]]] = {}
        while waiting or running:
            while waiting and (process := self._free()) is not None:
                turn = waiting.popleft()
                state, fitness = self._start(process, turn, None if turn.source is None else states[turn.source])
                running[fitness] = turn, state, process
            (ready,), _ = cluster.wait(list(running))
            turn, state, process = running.pop(ready)
            try:
                ended[turn.member] = self._evaluated(turn, cluster.get(ready))
                after[turn.member] = state
                self._idle.append(process)
            except Exception as e:
                if self._died(e):
                    self._all.remove(process)
                    waiting.appendleft(turn)
                    continue
                e.add_note(f"in {turn}")
                if not (self._terms.exploits_errors and isinstance(e.__cause__, RemoteTraceback)):
                    raise
                ended[turn.member] = replace(turn, problem=f"{type(e).__name__}: {e}"[:500])
                errors.append(e)
                self._idle.append(process)
        if len(errors) == len(turns):
            raise errors[0]
        return tuple(ended), after

    def _free(self) -> ActorHandle[PopulationMember] | None:
        if self._idle:
            return self._idle.pop()
        if len(self._all) == self._terms.size:
            return None
        if self._kept is None:
            self._kept = cluster.put(self._functions)
        process: ActorHandle[PopulationMember] = cluster.remote(PopulationMember).options(**self._terms.options).remote(self._kept)
        self._all.append(process)
        return process

    def _start(self, process: ActorHandle[PopulationMember], turn: Turn, state: State | None) -> list[ObjectRef[Any]]:
        listener = self._run.told if self._run.wanted else None
        call: Any = process.live.options(num_returns=2, listener=listener)
        state_and_fitness: list[ObjectRef[Any]] = call.remote(turn, state)
        return state_and_fitness

    def _evaluated(self, turn: Turn, fitness: float) -> Turn:
        if not math.isfinite(fitness):
            return replace(turn, fitness=fitness, problem=f"its fitness is {fitness}")
        said = {"fitness": fitness} | {k: v for k, v in turn.params.items() if isinstance(v, int | float)}
        for name, value in said.items():
            self._run.emit(MetricReported, name=name, value=float(value), step=turn.generation, node=f"member {turn.member}")
        return replace(turn, fitness=fitness)

    def _died(self, error: Exception) -> bool:
        """Whether this was the process's death, and is made good: one that came with a traceback was raised by the user's code."""
        if not isinstance(error, ActorDiedError) or isinstance(error.__cause__, RemoteTraceback):
            return False
        self._deaths += 1
        if self._deaths > self._terms.max_failures:
            error.add_note(f"death {self._deaths} of a process of this population; max_failures={self._terms.max_failures}")
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Ends them, whatever they are at, and waits until what they reserved is free."""
        with suppress(ClusterError):  # a cluster that is gone took them along
            for process in self._all:
                cluster.kill(process)
            last = [process.leave.remote() for process in self._all]
            if last:
                cluster.wait(last, num_returns=len(last), timeout=GONE)
