"""What the driver knows of joblib's batches, of the workers that run them, and of the large arguments that it put for them."""

from __future__ import annotations

import copy
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.cluster import put
from soma.util.joblib.worker import JoblibWorker, Parcel, Placeholder


@dataclass(slots=True, eq=False)
class Hired:
    """A worker."""

    handle: ActorHandle[JoblibWorker]
    arriving: ObjectRef[None] | None
    """Settles once it is there; None from then on."""
    busy: bool = False
    keys: set[int] = field(default_factory=set)
    """Of large arguments that it has."""
    gone: set[int] = field(default_factory=set)
    """Of those that it can let go with its next batch."""


@dataclass(slots=True, eq=False)
class Job:
    """A batch on its way: what joblib takes for a future."""

    batch: Any
    callback: Callable[[Job], None]
    worker: Hired | None = None
    ref: ObjectRef[Any] | None = None
    tries: int = 0
    large: tuple[Large, ...] = ()
    value: Any = None
    error: BaseException | None = None


def threads_of(num_cpus: float, threads: int | None, variables: list[str]) -> dict[str, str]:
    """The variables that tell joblib inside of a task which CPUs there are, and numeric libraries how many threads they may have."""
    limits = {} if threads is None else dict.fromkeys(variables, str(threads))
    return {"LOKY_MAX_CPU_COUNT": str(max(1, int(num_cpus))), **limits}


def nobody(job: Job) -> None:
    """Hears of a job that was given up."""


@dataclass(slots=True, eq=False)
class Large:
    """A large argument: it is put when the first task that has it is sent, and kept from the second on."""

    key: int
    value: weakref.ref[Any]
    ref: ObjectRef[Any]
    uses: int = 0


class Larges:
    """The large arguments of one call of `Parallel`, told apart by identity.

    One that only one task has is let go when that is done, so a call in which each task has its own array needs memory for those under
    way, not for all.
    """

    def __init__(self, at_least: int | None = None, private: bool = False) -> None:
        self._at_least, self._private = at_least, private
        self._by_id: dict[int, Large] = {}
        self._keys = itertools.count()

    def pack(self, job: Job, worker: Hired) -> Parcel:
        """A batch as `worker` needs it. What is not sent in the end is noted all the same: such a call is given up."""
        gone, worker.gone = tuple(worker.gone), set()
        batch, used = job.batch, dict[int, Large]()
        if self._at_least is not None and hasattr(batch, "items"):
            items = [(fn, tuple([self._replaced(a, used) for a in args]), {k: self._replaced(v, used) for k, v in kwargs.items()})
                     for fn, args, kwargs in batch.items]
            if used:
                batch = copy.copy(batch)
                batch.items = items
        job.large = tuple(used.values())
        for large in job.large:
            large.uses += 1
        new = {large.key: large.ref for large in job.large if large.key not in worker.keys}
        worker.keys.update(new)
        return Parcel(batch, new, gone, self._private)

    def _replaced(self, argument: Any, used: dict[int, Large]) -> Any:
        if type(argument) in _SMALL or bytes_of(argument) < (self._at_least or 1):
            return argument
        known = self._by_id.get(id(argument))
        if known is None or known.value() is not argument:
            known = self._by_id[id(argument)] = Large(next(self._keys), weakref.ref(argument), put(argument))
        used[known.key] = known
        return Placeholder(known.key)

    def settled(self, job: Job, worker: Hired) -> None:
        for large in job.large:
            if large.uses == 1:
                self._by_id = {identity: other for identity, other in self._by_id.items() if other is not large}
                worker.keys.discard(large.key)
                worker.gone.add(large.key)
        job.large = ()


LINGER = 1.0
"""Seconds that a worker waits for the next call. Meanwhile others wait for its CPU."""


class Shelf:
    """The idle workers of this process, all of one sort: those of others would lack the CPUs that these have."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sort: object = None
        self._idle: list[Hired] = []
        self._until = 0.0
        self._clearer: threading.Thread | None = None

    def put(self, sort: object, workers: list[Hired]) -> None:
        if not workers:
            return
        with self._changed:
            self._idle = [*workers, *(self._idle if sort == self._sort else ())]
            self._sort, self._until = sort, time.monotonic() + LINGER
            if self._clearer is None:
                self._clearer = threading.Thread(target=self._clear, name="soma-joblib-idle", daemon=True)
                self._clearer.start()

    def _clear(self) -> None:
        with self._changed:
            while self._idle and (left := self._until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._idle, self._sort, self._clearer = [], None, None

    def take(self, sort: object, most: int) -> list[Hired]:
        """Up to `most` of that sort. All others end: their handles are dropped."""
        with self._changed:
            taken = self._idle[:most] if sort == self._sort else []
            self._idle, self._sort = [], None
            return taken


SHELF = Shelf()

_SMALL = frozenset({int, float, str, bool, type(None), tuple, list, dict})


def bytes_of(value: Any) -> int:
    """How much of `value` is worth being sent only once."""
    if isinstance(value, np.ndarray):
        return 0 if value.dtype.hasobject else value.nbytes
    home = type(value).__module__
    if home.startswith("scipy.sparse"):
        return int(getattr(getattr(value, "data", None), "nbytes", 0))
    if home.startswith("pandas.") and hasattr(value, "memory_usage"):
        return int(np.sum(value.memory_usage(index=False)))
    return 0
