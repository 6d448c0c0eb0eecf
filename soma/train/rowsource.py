"""Where the rows of a training come from: arrays, tensors, a torch Dataset, or the one of a DataLoader.

    source = source_of(X, y)          # in the driver; checks; travels
    source.rows, source.take(indices) -> (x, y)

Arrays travel once, through shared memory; every rank maps the same pages and takes its rows out of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from soma.filters.rows import mismatch, rows_of, take


class Source(Protocol):
    """Rows by their number."""

    @property
    def rows(self) -> int: ...

    def take(self, which: Any) -> tuple[Any, Any]:
        """(x, y) of these rows; y may be None."""


@dataclass(frozen=True)
class Arrays:
    """Rows of arrays, tensors or lists; X may be a dict of such."""

    X: Any
    y: Any

    @property
    def rows(self) -> int:
        return rows_of(self.X) or 0

    def take(self, which: Any) -> tuple[Any, Any]:
        return take(self.X, which), None if self.y is None else take(self.y, which)


@dataclass(frozen=True)
class Items:
    """Items of a map-style Dataset, put together as a DataLoader does it; an item is `x` or `(x, y)`."""

    dataset: Any
    collate: Callable[[list[Any]], Any]

    @property
    def rows(self) -> int:
        return len(self.dataset)

    def take(self, which: Any) -> tuple[Any, Any]:
        got = self.collate([self.dataset[int(i)] for i in which])
        if isinstance(got, (tuple, list)):
            if len(got) != 2:
                raise ValueError(f"an item of {type(self.dataset).__name__} has {len(got)} parts; x, or x and y, are wanted")
            return got[0], got[1]
        return got, None


def source_of(X: Any, y: Any = None, what: str = "fit") -> Source:
    """What `fit(X, y)` was given, checked.

    Raises:
        ValueError: rows and targets differ in number, or there are none.
        TypeError: no rows can be taken from it.
    """
    found = _items(X)
    if found is not None:
        if y is not None:
            raise ValueError(f"{what}: a Dataset brings its targets; y={type(y).__name__} as well")
    else:
        found = Arrays(X, y)
        if rows_of(X) is None:
            raise TypeError(f"{what}: {type(X).__name__} has no rows; arrays, tensors, lists, dicts of such, a torch Dataset or a "
                            "DataLoader have")
        problem = mismatch(X, y)
        if problem or (y is not None and rows_of(y) is None):
            raise ValueError(f"{what} got {problem or f'targets without rows ({type(y).__name__})'}")
    if not found.rows:
        raise ValueError(f"{what} got no rows")
    return found


def loader_options(X: Any) -> Mapping[str, Any]:
    """What a DataLoader says of batches: batch_size, shuffle, drop_last. {} for anything else."""
    loader = _torch_data("DataLoader")
    if loader is None or not isinstance(X, loader):
        return {}
    samplers = sys.modules["torch"].utils.data
    if X.batch_size is None or type(X.sampler) not in (samplers.SequentialSampler, samplers.RandomSampler):
        raise ValueError(f"a DataLoader with a sampler of its own ({type(X.sampler).__name__}) says which rows come when, and so do ranks: "
                         "give its dataset, batch_size= and shuffle=")
    return {"batch_size": X.batch_size, "shuffle": isinstance(X.sampler, samplers.RandomSampler), "drop_last": X.drop_last}


def _items(X: Any) -> Source | None:
    loader, dataset, stream = (_torch_data(name) for name in ("DataLoader", "Dataset", "IterableDataset"))
    if dataset is None:
        return None
    collate = X.collate_fn if loader is not None and isinstance(X, loader) else sys.modules["torch"].utils.data.default_collate
    if loader is not None and isinstance(X, loader):
        X = X.dataset
    if stream is not None and isinstance(X, stream):
        raise TypeError(f"{type(X).__name__} has no length and no order of its own; ranks need a map-style Dataset")
    return Items(X, collate) if isinstance(X, dataset) else None


def _torch_data(name: str) -> Any:
    module = sys.modules.get("torch.utils.data")
    return getattr(module, name, None)
