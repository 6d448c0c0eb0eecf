"""What a rank does with its model: steps, evaluation, checkpoints. Knows a group to reduce with, and nothing of actors.

With `w` rows of a batch of `B`, a rank's loss counts `w / B`: the sum over all ranks is the mean over the batch, however uneven the
shares are. A rank without a row takes part with zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from soma.errors import NonFiniteError
from soma.filters.composite import Composite
from soma.filters.seeds import reseed
from soma.store.checkpoint import read_states, write_states
from soma.train import order
from soma.train.buckets import Buckets
from soma.train.rowsource import Source
from soma.train.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a training is: `step` counts optimizer steps over all epochs, `batch` those of the epoch that comes or goes on next."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch (or the rest of one) gave: `total` is the sum of its rows' losses. It is not `over` where a checkpoint is due first."""

    total: float
    rows: int
    skipped: int
    position: Position
    over: bool = True


Tell = Callable[..., None]


class Worker:
    """One rank's model and its training. `group` has `rank`, `size` and the collective calls."""

    def __init__(self, composite: Composite, settings: Settings, group: Any, source: Source) -> None:
        self._model, self._settings, self._group, self._source = composite, settings, group, source
        self.position = Position()
        self.parts_of_epoch = (0.0, 0, 0)  # total, rows, skipped of what came before `position` in its epoch
        self._buckets: Buckets | None = None
        self._schedulers: dict[str, Any] = {}

    # -- beginning -------------------------------------------------------------------------------------------------------------

    def begin(self, checkpoint: Path | dict[str, Any] | None) -> None:
        """Fresh weights, the same at every rank; or those of a checkpoint, with everything else that belongs to a step.

        `checkpoint` is its file, or what `save` gave.
        """
        reseed(self._settings.seed)
        first = order.batch_of(order.epoch_order(self._source.rows, 0, self._settings.seed, self._settings.shuffle), 0,
                               self._settings.batch_size)
        x, y = self._source.take(first)
        if not self._model.loaded:
            self._model.begin({"": x}, y)
        saved = read_states(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        if saved is not None:
            self._model.load(saved["model"])
        self._set_up()
        if saved is not None:
            self._restore(saved)
        else:
            for tensor in (*self._model.parameters().values(), *self._model.buffers().values()):
                self._group.broadcast(tensor.detach())

    def _set_up(self) -> None:
        self._schedulers = schedulers_for(self._model, self._settings)
        self._buckets = Buckets(self._model.parameters(), self._group, self._settings.bucket_bytes)

    # -- training --------------------------------------------------------------------------------------------------------------

    def epoch(self, tell: Tell, extra: Any = None) -> Epoch:
        """From the position to the end of its epoch; or to where a checkpoint is due, if the caller keeps them.

        `tell(step=, loss=, rows=)` hears of each step; `extra` goes into checkpoints.
        """
        s = self._settings
        total, rows, skipped = self.parts_of_epoch
        taken = order.epoch_order(self._source.rows, self.position.epoch, s.seed, s.shuffle)
        steps = order.steps_of(self._source.rows, s.batch_size, s.drop_last)
        for batch in range(self.position.batch, steps):
            which = order.batch_of(taken, batch, s.batch_size)
            loss, stepped = self._step(which)
            if stepped:
                total, rows = total + loss * len(which), rows + len(which)
            else:
                skipped += 1
            self.position = Position(self.position.epoch, batch + 1, self.position.step + 1)
            self.parts_of_epoch = total, rows, skipped
            tell(step=self.position.step - 1, loss=loss, rows=len(which))
            if s.checkpoint_every and self.position.step % s.checkpoint_every == 0 and batch + 1 < steps:
                if not s.checkpoint:
                    return Epoch(total, rows, skipped, self.position, over=False)
                self.save(extra)
        if s.scheduler_step == "epoch":
            self._schedule()
        self.position = Position(self.position.epoch + 1, 0, self.position.step)
        self.parts_of_epoch = 0.0, 0, 0
        self.share_buffers()
        return Epoch(total, rows, skipped, self.position)

    def _step(self, which: Any) -> tuple[float, bool]:
        """The batch's mean loss, and whether the optimizers stepped."""
        import torch

        assert self._buckets is not None
        buckets = self._buckets
        buckets.begin()
        loss, finite = buckets.finish(self._backward(which, buckets.closing))
        if not finite:
            if self._settings.on_nonfinite == "raise":
                self._name_what_is_not_finite(which)
            return loss, False
        if self._settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self._model.parameters().values()), self._settings.clip_norm)
        for optimizer in self._model.optimizers().values():
            optimizer.step()
        if self._settings.scheduler_step == "step":
            self._schedule()
        return loss, True

    def _backward(self, which: Any, closing: Callable[[], None] = lambda: None) -> float:
        """Gradients of this rank's rows, added to what is there; their part of the batch's loss."""
        share = order.share_of(which, self._group.rank, self._group.size)
        parts = [p for p in np.array_split(share, min(self._settings.accumulate, max(len(share), 1))) if len(p)]
        sum_ = 0.0
        for n, part in enumerate(parts):
            reseed(order.seed_of(self._settings.seed, self.position.step, self._group.rank, n))
            x, y = self._source.take(part)
            with self._precision():
                loss = self._model.loss({"": x}, y)[0] * (len(part) / len(which))
            if n == len(parts) - 1:
                closing()
            loss.backward()
            sum_ += float(loss.detach())
        return sum_

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 where that is asked for and there is a GPU; it needs no scaling of the loss."""
        import torch

        device = next(iter(self._model.parameters().values())).device.type
        return torch.autocast(device, torch.bfloat16) if self._settings.amp and device == "cuda" else nullcontext()

    def _name_what_is_not_finite(self, which: Any, *, alone: bool = False) -> NoReturn:
        """Reduced gradients do not say whose fault it was, so every rank (or, `alone`, this one) looks at its own again."""
        import torch

        for p in self._model.parameters().values():
            p.grad.zero_()
        self._backward(which)
        bad = [name for name, p in self._model.parameters().items() if not torch.isfinite(p.grad).all()]
        text = np.zeros(512, np.uint8)
        said = ", ".join(bad).encode()[:512]
        text[:len(said)] = np.frombuffer(said, np.uint8)
        rows = {self._group.rank: text} if alone else dict(enumerate(self._group.all_gather(text)))
        whose = [f"of {bytes(row).rstrip(bytes(1)).decode(errors='replace')} at rank {r}" for r, row in rows.items() if row.any()]
        raise NonFiniteError(f"step {self.position.step}: the gradient " + ("; ".join(whose) + " is NaN or infinite" if whose else
                             "is finite at each rank, but its sum, or the loss, is not") + " (on_nonfinite='skip' leaves such steps out)")

    def _schedule(self) -> None:
        for scheduler in self._schedulers.values():
            scheduler.step()

    def share_buffers(self) -> None:
        """What modules count for themselves becomes the same everywhere: means of floats, the largest of whole numbers."""
        for tensor in self._model.buffers().values():
            if tensor.is_floating_point():
                self._group.all_reduce(tensor, "mean")
            else:
                self._group.all_reduce(tensor.view(_as_bytes(tensor)), "max")

    # -- evaluating ------------------------------------------------------------------------------------------------------------

    def evaluate(self, source: Source) -> dict[str, float]:
        """The mean loss and each metric over all rows of `source`, every rank taking its share."""
        import torch

        names = list(self._settings.metrics)
        sums = np.zeros(len(names) + 2)
        mine = order.share_of(np.arange(source.rows), self._group.rank, self._group.size)
        for start in range(0, len(mine), self._settings.batch_size):
            part = mine[start:start + self._settings.batch_size]
            x, y = source.take(part)
            with torch.no_grad():
                loss, outputs = self._model.loss({"": x}, y, training=False)
            output = next(iter(outputs.values())) if len(outputs) == 1 else outputs
            figures = [float(loss), *(float(self._settings.metrics[name](output, torch.as_tensor(y))) for name in names), 1.0]
            sums += np.array(figures) * len(part)
        self._group.all_reduce(sums)
        return dict(zip(["loss", *names], (sums[:-1] / sums[-1]).tolist(), strict=True))

    # -- checkpoints -----------------------------------------------------------------------------------------------------------

    def save(self, extra: Any = None) -> dict[str, Any] | None:
        """Write a checkpoint, whole or not at all; every rank takes part, the first one writes. `extra` is plain data.

        Where the settings name no file, the first one gives what would be in it, over the same memory as the model.
        """
        self.share_buffers()
        if self._group.rank != 0:
            return None
        states = {"model": self._model.states(copy=False), "position": dataclasses.asdict(self.position), "epoch": self.parts_of_epoch,
                  "extra": extra, **self._optimizing()}
        if not self._settings.checkpoint:
            return states
        write_checkpoint(states, Path(self._settings.checkpoint))
        return None

    def _optimizing(self) -> dict[str, Any]:
        return optimizing(self._model, self._schedulers)

    def _restore(self, saved: dict[str, Any]) -> None:
        restore_optimizing(self._model, self._schedulers, saved)
        self.position = Position(**saved["position"])
        self.parts_of_epoch = tuple(saved["epoch"])

    def close(self) -> None:
        if self._buckets is not None:
            self._buckets.close()


def write_checkpoint(states: dict[str, Any], path: Path) -> None:
    """With the directories that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_states(states, path)


def schedulers_for(model: Composite, settings: Settings) -> dict[str, Any]:
    """A scheduler for each optimizer, by member."""
    make = settings.scheduler
    return {} if make is None else {id: make(o) for id, o in model.optimizers().items()}


def optimizing(model: Composite, schedulers: dict[str, Any]) -> dict[str, Any]:
    """What optimizers and schedulers keep, for a checkpoint."""
    return {"optimizers": {id: o.state_dict() for id, o in model.optimizers().items()},
            "schedulers": {id: _plain(s.state_dict()) for id, s in schedulers.items()}}


def restore_optimizing(model: Composite, schedulers: dict[str, Any], saved: dict[str, Any]) -> None:
    """The reverse of `optimizing`."""
    for id, optimizer in model.optimizers().items():
        optimizer.load_state_dict(saved["optimizers"][id])
    for id, scheduler in schedulers.items():
        scheduler.load_state_dict(saved["schedulers"][id])


def _as_bytes(tensor: Any) -> Any:
    """The dtype to reduce whole numbers and flags in."""
    import torch

    return torch.uint8 if tensor.dtype == torch.bool else tensor.dtype


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without what schedulers keep of functions: those come with the scheduler that is made anew."""
    return {k: v for k, v in state.items() if not callable(v)}
