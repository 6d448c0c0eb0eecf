"""One batch through all stages, forward, back and a step, as calls. Who answers them is the caller's matter: actors, or objects here.

Calls name each other's results and never hold one: with actors those are refs, and values go from stage to stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soma.train.order import batch_of, steps_of
from soma.train.pipelining.partition import StagePlan
from soma.train.pipelining.schedule import Turn, shares
from soma.train.pipelining.stage import Micro

Send = Callable[..., Sequence[Any]]
"""(stage, method, how many values it gives, *arguments) → as many results, which may be arguments of other calls."""


class Batch(NamedTuple):
    """The rows of a step: a slice, or their numbers."""

    step: int
    rows: Any
    size: int

    def micros(self, count: int, seed: int) -> list[Micro]:
        """Its micro-batches."""
        cut = shares(self.size, count)
        first = self.rows.start if isinstance(self.rows, slice) else 0
        return [Micro(self.step, m, slice(first + s.start, first + s.stop) if isinstance(self.rows, slice) else self.rows[s],
                      (s.stop - s.start) / self.size, seed) for m, s in enumerate(cut)]


class Sent(NamedTuple):
    """A batch that is under way: each call's last result, every one after those that it waits for; and each stage's step."""

    batch: Batch
    calls: list[Any]
    steps: list[Any]


def cut(rows: int, size: int, epoch: int, order: NDArray[np.int64] | None) -> Iterator[Batch]:
    """An epoch's batches; the last one may have fewer rows. No order takes them as they stand, which copies nothing."""
    steps = steps_of(rows, size, drop_last=False)
    for step in range(steps):
        start = step * size
        which = slice(start, min(start + size, rows)) if order is None else batch_of(order, step, size)
        yield Batch(epoch * steps + step, which, min(size, rows - start))


def send_batch(plans: Sequence[StagePlan], turns: Iterable[Turn], micros: Sequence[Micro], send: Send,
               clip: float | None) -> tuple[list[Any], list[Any]]:
    """Send all calls of a batch: the last results of forwards and backwards in order, and those of the steps, which give losses."""
    outputs: dict[tuple[str, int], Any] = {}
    gradients: dict[tuple[str, int], list[Any]] = {}
    calls: list[Any] = []
    for _, s, kind, m in turns:
        plan = plans[s]
        if kind == "F":
            made = send(s, "forward", len(plan.gives) + 1, micros[m], *(outputs[id, m] for id in plan.takes))
            outputs.update({(id, m): ref for id, ref in zip(plan.gives, made, strict=False)})
        else:
            made = send(s, "backward", len(plan.takes) + 1, micros[m], *(g for id in plan.gives for g in gradients.pop((id, m))))
            for id, ref in zip(plan.takes, made, strict=False):
                gradients.setdefault((id, m), []).append(ref)
        calls.append(made[-1])
    stages = range(len(plans))
    norms = [] if clip is None else [send(s, "norm", 1)[0] for s in stages]
    return calls, [send(s, "step", 1, len(micros), clip, *norms)[0] for s in stages]
