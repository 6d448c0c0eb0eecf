"""What runs in a joblib worker's process: batches of tasks, and the large arguments of the call that is under way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soma.actors.refs import ObjectRef
from soma.cluster import get


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Stands in a batch for a large argument that its worker has, or gets beside the batch."""

    key: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch and what belongs to it.

    Attributes:
        batch: joblib's callable; large arguments of its `items` are placeholders.
        new: large arguments by key, which the worker keeps for later batches too.
        gone: keys of those that it can let go.
        private: every task gets a copy of its own of each large argument, which it may write to.
    """

    batch: Callable[[], Any]
    new: dict[int, ObjectRef[Any]]
    gone: tuple[int, ...]
    private: bool


class Loaded:
    """The parts of scikit-learn that this process uses: imported once for all workers, not by each, which takes seconds."""

    def __get__(self, instance: object, owner: type) -> tuple[str, ...]:
        parts = [name.split(".") for name in tuple(sys.modules) if name.startswith("sklearn.")]
        return tuple(sorted(".".join(part) for part in parts if len(part) == 2 and not part[1].startswith("_")))


class JoblibWorker:
    """The actor."""

    __soma_preload__ = Loaded()

    def __init__(self, threads: int | None) -> None:
        """`threads`: for numeric libraries that were loaded before the process forked; None leaves what soma gave it."""
        self._kept: dict[int, tuple[ObjectRef[Any], Any]] = {}
        if threads is not None:
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

            threadpool_limits(threads)

    def ready(self) -> None:
        """Answers once the process is there."""

    def run(self, parcel: Parcel) -> Any:
        batch: Any = parcel.batch
        self.forget(parcel.gone)
        for key, ref in parcel.new.items():
            self._kept[key] = ref, None if parcel.private else for_all(get(ref))
        if self._kept and hasattr(batch, "items"):
            batch.items = [(fn, tuple(map(self._filled, args)), {name: self._filled(value) for name, value in kwargs.items()})
                           for fn, args, kwargs in batch.items]
        return batch()

    def forget(self, keys: tuple[int, ...]) -> None:
        for key in keys:
            self._kept.pop(key, None)

    def _filled(self, argument: Any) -> Any:
        if type(argument) is not Placeholder:
            return argument
        ref, value = self._kept[argument.key]
        return get(ref) if value is None else value


def for_all(value: Any) -> Any:
    """An array that all tasks of this process may read; None where each is to get its own: what is no array cannot be protected."""
    if type(value) is not np.ndarray:
        return None
    value.flags.writeable = False
    return value
