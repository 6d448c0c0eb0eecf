"""The aggregation of federated rounds: what came, from whom, and the state that follows from it. Pure; `Aggregator` makes an actor of it.

The key of an update is (round, client): one that comes twice, or after its round, changes nothing. Updates are taken in the order of the
round's clients, whatever the order they come in, so the result has the same bits each time; with the weighted mean each is added to the
sum and forgotten as soon as those before it are there. A round is all or nothing: until `close` succeeds the state is the old one.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soma.actors.methods import method
from soma.errors import NonFiniteError, QuorumError
from soma.train.aggregation import Mean, NonFinite, fedavg
from soma.train.pytrees import Layout, numbers
from soma.train.servers import Memory, ServerOptimizer, stepped

Aggregation = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of a round: the samples of each client whose update counted, and why each other one was left out."""

    samples: Mapping[str, float]
    left_out: Mapping[str, str]


@dataclass(slots=True)
class _Round:
    number: int
    clients: tuple[str, ...]
    quorum: int
    layout: Layout | None
    came: dict[str, tuple[float, Any]] = field(default_factory=dict)
    """Updates that wait for those before them."""
    left_out: dict[str, str] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)
    mean: Mean | None = None
    states: list[Any] = field(default_factory=list)
    seen: int = 0


class FedAvg:
    """Rounds, one after the other.

    Args:
        state: where the first round starts from; None takes the form and the dtypes of its first update.
        aggregation: `fedavg`, or a function `states -> state` or `(states, weights) -> state`.
        optimizer: what is done with the aggregate; None makes it the new state.
        excluded: paths of leaves that the optimizer leaves alone.
        memory: what the optimizer remembers, from a checkpoint.
        on_nonfinite: an update with NaN or infinity is an error ("raise"), or its client is left out ("skip").
    """

    def __init__(self, state: Any = None, aggregation: Aggregation = fedavg, optimizer: ServerOptimizer | None = None, *,
                 excluded: Collection[str] = (), memory: Memory | None = None, on_nonfinite: NonFinite = "raise") -> None:
        self.state = state
        self._aggregation, self._optimizer, self._excluded, self._nonfinite = aggregation, optimizer, frozenset(excluded), on_nonfinite
        self._memory: Memory = memory or {}
        self._last = -1
        self._round: _Round | None = None

    def begin(self, round: int, clients: Sequence[str], quorum: int = 1) -> None:
        """Open a round; an open one is dropped, with all that came."""
        if round <= self._last:
            raise ValueError(f"round {round} is over; the next one is {self._last + 1}")
        layout = None if self.state is None else Layout(self.state, "the global state")
        self._round = _Round(round, tuple(clients), quorum, layout)

    def add(self, round: int, client: str, samples: float, state: Any) -> str:
        """An update: "taken", or why it changes nothing: "late" (its round is over, or the client was left out), "repeated".

        Raises:
            StateMismatchError, NonFiniteError: of this update, or of one that waited for it; names client and path.
        """
        if round <= self._last:
            return "late"
        now = self._open(round, client)
        if client in now.left_out:
            return "late"
        if client in now.came or client in now.taken:
            return "repeated"
        if not (math.isfinite(samples) and samples > 0):
            raise ValueError(f"client {client!r} gave {samples!r} samples: a number above 0")
        now.came[client] = (float(samples), state)
        self._take(now)
        return "taken"

    def leave_out(self, round: int, client: str, reason: str) -> None:
        """Go on without a client; what it sends later is late."""
        now = self._open(round, client)
        if client not in now.taken and client not in now.came:
            now.left_out.setdefault(client, reason)
            self._take(now)

    def close(self, round: int) -> tuple[Any, Closed]:
        """End the round; the new state.

        Raises:
            QuorumError: too few updates came. The state is the old one.
            StateMismatchError, NonFiniteError: see `add`.
        """
        now = self._open(round)
        for client in now.clients:
            if client not in now.taken and client not in now.came:
                now.left_out.setdefault(client, "gave nothing")
        self._take(now)
        if len(now.taken) < now.quorum or not now.taken:
            why = "; ".join(f"{client!r}: {reason}" for client, reason in now.left_out.items())
            raise QuorumError(f"round {round}: {len(now.taken)} of {len(now.clients)} clients gave an update, {max(now.quorum, 1)} are "
                              f"needed. Left out: {why}")
        state, memory = self._aggregated(now)
        self.state, self._memory, self._last, self._round = state, memory, round, None
        return state, Closed(now.taken, now.left_out)

    def memory(self) -> Memory:
        """What the optimizer remembers, for a checkpoint."""
        return self._memory

    def _open(self, round: int, client: str | None = None) -> _Round:
        now = self._round
        if now is None or now.number != round:
            raise ValueError(f"round {round} was not begun" if now is None else f"round {round}: the open one is {now.number}")
        if client is not None and client not in now.clients:
            raise ValueError(f"client {client!r} takes no part in round {round}")
        return now

    def _take(self, now: _Round) -> None:
        """Take what came, up to the first client that nothing is known of."""
        ready: list[tuple[float, list[Any]]] = []
        while now.seen < len(now.clients):
            client = now.clients[now.seen]
            if client not in now.left_out and client not in now.came:
                break
            now.seen += 1
            if client in now.came and (row := self._checked(now, client)) is not None:
                samples, state = now.came.pop(client)
                now.taken[client] = samples
                ready.append((samples, row))
                if self._aggregation is not fedavg:
                    now.states.append(state)
        if ready and self._aggregation is fedavg:
            assert now.layout is not None
            now.mean = now.mean or Mean(now.layout)
            now.mean.add(ready)

    def _checked(self, now: _Round, client: str) -> list[Any] | None:
        """The leaves of an update; None for one that is skipped."""
        state, whose = now.came[client][1], f"client {client!r}"
        now.layout = now.layout or Layout(state, whose)
        row = now.layout.values(state, whose)
        bad = now.layout.bad(row)
        if not bad:
            return row
        if self._nonfinite == "raise":
            raise NonFiniteError(f"{whose}, round {now.number}: {bad} holds NaN or infinity")
        del now.came[client]
        now.left_out[client] = f"{bad} holds NaN or infinity"
        return None

    def _aggregated(self, now: _Round) -> tuple[Any, Memory]:
        layout, memory = now.layout, self._memory
        assert layout is not None
        if now.mean is not None:
            flats = now.mean.result()
        else:
            made = call_aggregation(self._aggregation, now.states, list(now.taken.values()))
            row = layout.values(made, "what the aggregation gave")
            flats = [None if leaf.kind == "fixed" else numbers(leaf, v) for leaf, v in zip(layout.leaves, row, strict=True)]
        if self._optimizer is not None and self.state is not None:
            flats, memory = stepped(self._optimizer, layout, flats, memory, self._excluded)
        state = layout.made(flats)
        if bad := layout.bad(layout.values(state, "the new state")):
            raise NonFiniteError(f"round {now.number}: {bad} of the new state is NaN or infinite; the updates were not")
        return state, memory


class Aggregator(FedAvg):
    """`FedAvg` as an actor. Make it with `.options(concurrency_groups={"watch": 1})`."""

    def pid(self) -> int:
        return os.getpid()

    @method(concurrency_group="watch")
    def watch(self) -> None:
        """Never returns: who waits for it learns of this process's end at once."""
        threading.Event().wait()


class TorchAggregator(Aggregator):
    """For states of tensors."""

    __soma_preload__ = ("torch",)


def call_aggregation(aggregation: Aggregation, states: list[Any], weights: list[float]) -> Any:
    """Apply an aggregation, with the weights if it takes them."""
    how = takes_weights(aggregation)
    if how == "by name":
        return aggregation(states, weights=weights)
    return aggregation(states, weights) if how == "in order" else aggregation(states)


@functools.cache
def takes_weights(aggregation: Aggregation) -> str:
    """"by name", "in order", or ""."""
    parameters = inspect.signature(aggregation).parameters
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if "weights" in parameters and parameters["weights"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return "by name"
    return "in order" if len(needed) >= 2 else ""
