"""What a graph asks of a filter's actor in one call, and what comes back beside the values. Plain frozen data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from soma.filters.modules import Training
from soma.store import combine

Shape = tuple[tuple[str, Any], ...] | None
"""How the values of a call make up one input: None is one value; else (name, shape) for each part of a dict, nested at will."""


def assembled(shape: Shape, values: Iterator[Any]) -> Any:
    """The input that `values` (leaves, in order) are parts of."""
    return next(values) if shape is None else {name: assembled(inner, values) for name, inner in shape}


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands for a value that lies in the cache, on disk: the actor reads it there itself."""

    digest: str


@dataclass(frozen=True, slots=True)
class Keeping:
    """What goes into the cache's keys for one call, and what is told about the entries.

    Attributes:
        identity: of the filter, or of all filters of a composite and their wiring.
        x, y: digests of input and targets; `y` is "" where there are none.
        state: digest of the state that `forward` uses; "" where `fit` makes it in this call.
        extra: what else the state depends on (batch size, epochs, …).
        seed: the run's; None where there is none.
        store_state, store_output: whether this call's results may be stored (they are hashed anyway).
        titles, parts: see `soma.store.Made`.
    """

    identity: str
    x: str
    y: str = ""
    state: str = ""
    extra: str = ""
    seed: int | None = None
    store_state: bool = True
    store_output: bool = True
    title: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    run: str = ""

    @property
    def state_key(self) -> str:
        return combine("state", self.identity, self.x, self.y, self.extra, _text(self.seed))

    def output_key(self, state: str, node: str) -> str:
        """Of one node's output; `node` is "" unless it is one of several that share a process."""
        return combine("output", self.identity, state, self.x, node, _text(self.seed))


def _text(seed: int | None) -> str:
    return "" if seed is None else str(seed)


class Task(NamedTuple):
    """One call. A tuple, because one is pickled for each.

    Attributes:
        node: the node, or the first of a composite.
        shape: how its inputs are put together (composites: one named part for each value from outside).
        run: id of the run.
        seed: what this call's random numbers are drawn from.
        outputs: of a composite: whose outputs are wanted.
        give: whether `fit` also gives outputs; give_state: whether it gives the state.
        batch_size, epochs, shuffle: None where the filter's own hold.
        keeping: None without a cache.
        first: of several chunks to learn from: begin anew.
        names: of the parts of an input that was collected from chunks, in order.
        chunk: in a stream: the number of this one; of a filter that takes all at once, how many there are.
    """

    node: str
    shape: Shape = None
    run: str = ""
    seed: int | None = None
    outputs: tuple[str, ...] = ()
    give: bool = True
    give_state: bool = False
    batch_size: int | None = None
    epochs: int | None = None
    shuffle: bool | None = None
    keeping: Keeping | None = None
    first: bool = True
    names: tuple[str, ...] = ()
    chunk: int = 0

    def training(self, own: Training) -> Training:
        """How a composite is trained: what the caller says, else what its filter says."""
        return Training(loss_fn=own.loss_fn, optimizer=own.optimizer, epochs=self.epochs or own.epochs,
                        batch_size=self.batch_size or own.batch_size, shuffle=own.shuffle if self.shuffle is None else self.shuffle)


class Report(NamedTuple):
    """What an actor says of a call, in plain data.

    `tier` fields are "" where the value was made in this call, else where it was found; digests are "" without a cache.
    """

    ms: float = 0.0
    summaries: tuple[str, ...] = ()
    state: str = ""
    outputs: tuple[str, ...] = ()
    state_tier: str = ""
    output_tier: str = ""
    loss: float | None = None
    warning: str = ""


def flat(values: Sequence[Any], report: Report) -> Any:
    """A call's values and its report, last, as they are returned."""
    return (*values, tuple(report)) if values else tuple(report)
