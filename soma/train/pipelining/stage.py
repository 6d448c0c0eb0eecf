"""One stage of a pipeline, in a process of its own: a thin shell around `filters.segment.Segment`.

Inputs come as separate arguments, so that refs to what other stages gave arrive as the values: what flows between stages never passes
through the driver. The data is here already (`hold`), a call only names its rows. Every random number of a call follows from its seed.
After an error every further call of this batch fails with it, so the driver, which waits for the step, hears of it at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from soma import cluster
from soma.errors import NonFiniteError
from soma.filters import derived, rows_of, take
from soma.filters.composite import Member
from soma.filters.seeds import reseed
from soma.filters.segment import Recipe, Segment
from soma.train.pipelining.partition import INPUT, StagePlan


class Micro(NamedTuple):
    """A micro-batch: which rows, of which step, and their part of the step's rows."""

    step: int
    micro: int
    rows: Any
    share: float
    seed: int

    def __str__(self) -> str:
        return f"micro-batch {self.micro}, step {self.step}"


class Stage:
    """Runs the nodes of one partition.

    Args:
        plan: what it has, takes and gives.
        filters: its filters by node id.
        recipe: how the network is trained where its filters do not say.
    """

    __soma_preload__ = ("torch", "torch._dynamo")
    """torch imports the second when an optimizer is first made, which takes a second: once for all stages."""

    def __init__(self, plan: StagePlan, filters: Mapping[str, Any], recipe: Recipe) -> None:
        self._plan = plan
        members = [Member(id, filters[id], inputs) for id, inputs in plan.nodes]
        self._segment = Segment(members, plan.gives, plan.leaves, recipe)
        self._data: tuple[Any, Any] = (None, None)
        self._done: list[int] = []
        self._loss: float | None = None
        self._broken: Exception | None = None

    # -- states and data -------------------------------------------------------------------------------------------------------

    def make(self, seed: int) -> tuple[bool, int]:
        """Fresh nodes: whether they must see data first (`begin`), and how many tensors they train."""
        with self._working("making its nodes", seed):
            return self._segment.make(), len(self._segment.parameters())

    def begin(self, seed: int, *taken: Any) -> Any:
        """Fresh nodes that have seen all the data; what they give for it, and how many tensors they train."""
        with self._working("beginning", seed):
            X, y = self._data
            given = self._segment.begin_part(self._outer(X, taken), y)
        return (*given, len(self._segment.parameters())) if given else len(self._segment.parameters())

    def load(self, states: Mapping[str, Any], momentum: Mapping[str, Any] | None = None) -> int:
        """Take over states, and what optimizers remember; how many tensors it trains. A node without a state begins as it was given."""
        with self._working("loading its states"):
            self._segment.load(states)
            if momentum is not None:
                self._segment.load_momentum(momentum)
            return len(self._segment.parameters())

    def states(self) -> dict[str, Any]:
        """By node."""
        return self._segment.states()

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """States, and what optimizers remember."""
        return self._segment.states(), self._segment.momentum()

    def hold(self, X: Any, y: Any) -> tuple[int | None, int | None]:
        """Keep the data; how many rows inputs and targets have. None lets go of it."""
        self._data, self._broken = (X, y), None
        return rows_of(X), rows_of(y)

    # -- a batch ---------------------------------------------------------------------------------------------------------------

    def forward(self, at: Micro, *taken: Any) -> Any:
        """A micro-batch forward: what it gives to other stages, and None."""
        with self._working(f"forward of {at}", derived(at.seed, f"{at.step}/{at.micro}/{self._plan.index}")):
            X, y = self._data
            given, loss = self._segment.run_part(at.micro, self._outer(take(X, at.rows), taken), take(y, at.rows), at.share)
            if loss is not None:
                if not math.isfinite(loss):
                    raise NonFiniteError(f"step {at.step}: the loss of micro-batch {at.micro} is {loss}")
                self._loss = loss if self._loss is None else self._loss + loss
        return (*given, None) if given else None

    def backward(self, at: Micro, *gradients: Any) -> Any:
        """A micro-batch back: the gradients of what it took from other stages, and None. `gradients` are those of what it gave, by node
        and by who took it."""
        with self._working(f"backward of {at}", derived(at.seed, f"{at.step}/{at.micro}/{self._plan.index}/back")):
            arriving = iter(gradients)
            by_node = {id: [next(arriving) for _ in range(n)] for id, n in zip(self._plan.gives, self._plan.takers, strict=True)}
            pulled = self._segment.pull_back(at.micro, by_node)
            self._done.append(at.micro)
        return (*(pulled.get(id) for id in self._plan.takes), None) if self._plan.takes else None

    def norm(self) -> float:
        """The squared norm of this batch's gradients."""
        with self._working("the norm of its gradients"):
            return self._segment.squared_norm()

    def step(self, micros: int, clip: float | None = None, *norms: float) -> float | None:
        """Step with the gradients of all micro-batches; the batch's loss, None without one.

        Args:
            clip: the most that the norm of all stages' gradients together may be, whose squares `norms` are.
        """
        with self._working("its step"):
            if len(self._done) != micros:
                raise RuntimeError(f"{len(self._done)} of {micros} micro-batches came back")
            norm = math.sqrt(sum(norms))
            if not math.isfinite(norm):
                raise NonFiniteError(f"the norm of the gradients is {norm}")
            self._segment.step_part(1.0 if clip is None or norm <= clip else clip / norm)
        loss, self._loss = self._loss, None
        self._done.clear()
        return loss

    def end_epoch(self) -> None:
        """Learning rates move on."""
        with self._working("its scheduler"):
            self._segment.end_epoch()

    # -- without training ------------------------------------------------------------------------------------------------------

    def infer(self, rows: Any, *taken: Any) -> Any:
        """In evaluation mode, without gradients: what it gives to other stages, and then what its leaves give."""
        with self._working("forward"):
            outputs = self._segment.forward(self._outer(take(self._data[0], rows), taken))
        wanted = (*self._plan.gives, *self._plan.leaves)
        return tuple(outputs[id] for id in wanted) if len(wanted) > 1 else outputs[wanted[0]]

    # -- the process -----------------------------------------------------------------------------------------------------------

    def pid(self) -> int:
        return os.getpid()

    def most_in_flight(self) -> int:
        """The most micro-batches whose activations it ever held at once."""
        return self._segment.most_in_flight

    def shutdown(self) -> None:
        """End this process, after the calls before this one."""
        cluster.exit_actor()

    def _outer(self, x: Any, taken: tuple[Any, ...]) -> dict[str, Any]:
        return {**({INPUT: x} if self._plan.reads else {}), **dict(zip(self._plan.takes, taken, strict=True))}

    @contextmanager
    def _working(self, doing: str, seed: int | None = None) -> Iterator[None]:
        """Inside, random numbers follow from the seed, and an error says where it was."""
        if self._broken is not None:
            raise self._broken
        try:
            if seed is not None:
                reseed(seed)
            yield
        except Exception as e:
            e.add_note(f"in {self._plan}: {doing}")
            self._broken = e
            raise
