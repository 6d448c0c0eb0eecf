"""`parameter_server`: the weights lie in an actor, ranks send gradients and get weights back.

With `staleness=0` a step waits for every rank and is the step of `DataParallel`'s other backends. With `staleness=s` each gradient is
applied when it comes, as a step of its own on its rank's rows, and a rank may be `s` steps ahead of the slowest (stale synchronous
parallel; Ho et al. 2013): faster where ranks are uneven, and no longer the same as one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soma import cluster
from soma.errors import ActorDiedError, GroupBrokenError
from soma.filters.composite import Composite, Member
from soma.train import order
from soma.train.buckets import Buckets
from soma.train.settings import Settings
from soma.train.worker import Worker, optimizing, restore_optimizing, schedulers_for

_ALL = 1 << 62


class _Alone:
    """Reduces nothing: the server does."""

    def all_reduce(self, array: Any, op: str = "sum", *, check: bool = False) -> bool:
        return True


class ParameterServer:
    """Of one generation of ranks after the other. Its methods are coroutines: a rank that waits blocks nobody."""

    def __init__(self, members: Sequence[Member], settings: Settings) -> None:
        self._model, self._settings = Composite(members), settings
        self._changed = asyncio.Condition()
        self._generation, self._ended = -1, ""

    async def begin(self, generation: int, size: int, states: dict[str, Any], saved: dict[str, Any] | None, step: int) -> None:
        """Take over weights, and what optimizers kept; `step` is the first that will come."""
        self._generation, self._size, self._ended = generation, size, ""
        self._model.load(states)
        self._schedulers = schedulers_for(self._model, self._settings)
        if saved is not None:
            restore_optimizing(self._model, self._schedulers, saved)
        self._buckets = Buckets(self._model.parameters(), _Alone(), _ALL)
        self._clocks = dict.fromkeys(range(size), step)
        self._pending: dict[int, list[Any]] = {}
        self._losses: dict[int, tuple[float, bool]] = {}

    async def push(self, generation: int, rank: int, step: int, share: float, *flat: Any) -> tuple[float, bool, list[Any]]:
        """A rank's gradients of a step, its rows being `share` of the batch: (loss, whether the step was made, new weights).

        Raises:
            GroupBrokenError: the generation is over.
        """
        import torch

        gradients = [torch.as_tensor(f) for f in flat]
        async with self._changed:
            self._check(generation)
            if self._settings.staleness == 0:
                self._pending[rank] = gradients
                if len(self._pending) == self._size:
                    together = [sum(parts[1:], parts[0]) for parts in zip(*(self._pending[r] for r in sorted(self._pending)), strict=True)]
                    self._losses[step] = self._apply(together)
                    self._losses.pop(step - 1, None)
                    self._pending.clear()
                    self._clocks = dict.fromkeys(self._clocks, step + 1)
            elif share:
                self._losses[step] = self._apply([g / share for g in gradients])
            loss, made = self._losses.get(step, (0.0, True))
            self._clocks[rank] = step + 1 if self._settings.staleness else self._clocks[rank]
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._ended or generation != self._generation or
                                         step + 1 - min(self._clocks.values()) <= self._settings.staleness)
            self._check(generation)
            if self._settings.staleness == 0:
                loss, made = self._losses[step]
            return loss, made, self._buckets.put(self._model.parameters())

    def _apply(self, gradients: list[Any]) -> tuple[float, bool]:
        import torch

        loss = float(gradients[-1][-1])
        if not all(torch.isfinite(g).all() for g in gradients):
            return loss, False
        for own, new in zip(self._buckets.flat, gradients, strict=True):
            own.copy_(new)
        if self._settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self._model.parameters().values()), self._settings.clip_norm)
        for optimizer in self._model.optimizers().values():
            optimizer.step()
        if self._settings.scheduler_step == "step":
            self._step_schedulers()
        return loss, True

    def _step_schedulers(self) -> None:
        for scheduler in self._schedulers.values():
            scheduler.step()

    async def end_epoch(self) -> None:
        """Schedulers that step once an epoch do."""
        self._step_schedulers()

    async def optimizing(self) -> dict[str, Any]:
        """What optimizers and schedulers keep."""
        return optimizing(self._model, self._schedulers)

    async def dissolve(self, generation: int, why: str) -> None:
        """End a generation: who waits gets a GroupBrokenError."""
        async with self._changed:
            if generation == self._generation:
                self._ended = why
            self._changed.notify_all()

    def _check(self, generation: int) -> None:
        if self._ended or generation != self._generation:
            raise GroupBrokenError(self._ended or f"generation {generation} is over; this is {self._generation}")


class ServedWorker(Worker):
    """A rank whose steps are made by a server. Everything else (buffers, evaluation, names of what is not finite) goes by its group."""

    def __init__(self, *args: Any, server: Any, generation: int) -> None:
        super().__init__(*args)
        self._server, self._generation = server, generation

    def begin(self, checkpoint: Path | dict[str, Any] | None) -> None:
        super().begin(checkpoint)
        assert self._buckets is not None
        self._buckets.close()
        self._buckets = Buckets(self._model.parameters(), _Alone(), _ALL)
        if self._group.rank == 0:
            saved = None if checkpoint is None else optimizing(self._model, self._schedulers)
            self._ask(self._server.begin, self._generation, self._group.size, self._model.states(), saved, self.position.step)
        self._group.barrier()

    def _step(self, which: Any) -> tuple[float, bool]:
        assert self._buckets is not None
        self._buckets.begin()
        self._buckets.finish(self._backward(which))
        share = len(order.share_of(which, self._group.rank, self._group.size)) / len(which)
        loss, made, weights = self._ask(self._server.push, self._generation, self._group.rank, self.position.step, share,
                                        *self._buckets.flat)
        if not made and self._settings.on_nonfinite == "raise":
            self._name_what_is_not_finite(which, alone=self._settings.staleness > 0)
        self._buckets.take(self._model.parameters(), weights)
        return loss, made

    def _schedule(self) -> None:
        if self._group.rank == 0:
            self._ask(self._server.end_epoch)

    def _optimizing(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(self._server.optimizing)
        return found

    def _ask(self, method: Any, *args: Any) -> Any:
        try:
            return cluster.get(method.remote(*args))
        except ActorDiedError as e:
            raise GroupBrokenError(f"the parameter server is gone: {e}") from e
