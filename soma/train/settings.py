"""How a data-parallel training is done: frozen, checked when it is made, the same for every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soma.train.buckets import DEFAULT_BYTES

Backend = Literal["auto", "shm", "actors", "gloo", "nccl", "parameter_server"]
BACKENDS = ("auto", "shm", "actors", "gloo", "nccl", "parameter_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See `DataParallel` and its `fit`."""

    epochs: int = 1
    batch_size: int = 32
    shuffle: bool = True
    drop_last: bool = False
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    on_nonfinite: Literal["raise", "skip"] = "raise"
    amp: bool = False
    optimizer: Callable[[Any], Any] | None = None
    scheduler: Callable[[Any], Any] | None = None
    scheduler_step: Literal["epoch", "step"] = "epoch"
    metrics: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    checkpoint: str = ""
    checkpoint_every: int | None = None
    bucket_bytes: int = DEFAULT_BYTES
    backend: Backend = "auto"
    staleness: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "bucket_bytes"):
            _whole(name, getattr(self, name), 1)
        _whole("staleness", self.staleness, 0)
        _whole("seed", self.seed, 0)
        if self.checkpoint_every is not None:
            _whole("checkpoint_every", self.checkpoint_every, 1)
        for name, choices in (("on_nonfinite", ("raise", "skip")), ("scheduler_step", ("epoch", "step")), ("backend", BACKENDS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: one of {', '.join(map(repr, choices))}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm!r}: a number above 0")
        for name in ("optimizer", "scheduler"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: a function")
        for name, fn in self.metrics.items():
            if not callable(fn):
                raise ValueError(f"metrics[{name!r}]={fn!r}: a function (output, target) -> number, the mean over the rows")


def _whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value!r}: a whole number from {least}")


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Stop when `monitor` did not become better than its best by `min_delta` for `patience` epochs in a row.

    Attributes:
        monitor: a name in the epoch's figures: "loss", "val_loss", "val_accuracy", …
        mode: "min" or "max".
    """

    monitor: str = "val_loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        _whole("patience", self.patience, 1)
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode={self.mode!r}: 'min' or 'max'")

    def is_over(self, history: list[dict[str, float]]) -> bool:
        """Whether to stop after these epochs."""
        best, since = None, 0
        for figures in history:
            if self.monitor not in figures:
                raise ValueError(f"early_stop watches {self.monitor!r}, and an epoch has {', '.join(figures)}")
            value = figures[self.monitor] if self.mode == "min" else -figures[self.monitor]
            if best is None or value < best - self.min_delta:
                best, since = value, 0
            else:
                since += 1
        return since >= self.patience
