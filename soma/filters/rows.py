"""Rows of values, whatever holds them: how many there are, some of them, and several pieces put together again.

Rows are the first axis of an array, a tensor, a sparse matrix or a table, and the items of a list. A dict has the rows that all of its
values have. Anything else (a number, a text, a tuple) has none and is taken whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def rows_of(value: Any) -> int | None:
    """How many; None for what has no rows, and for a dict whose values do not agree."""
    if isinstance(value, list):
        return len(value)
    if isinstance(value, Mapping):
        counts = {rows_of(v) for v in value.values()}
        return counts.pop() if len(counts) == 1 else None
    shape = getattr(value, "shape", None)
    if shape is None or not hasattr(value, "__getitem__") and not hasattr(value, "iloc"):
        return None
    try:
        return int(shape[0]) if len(shape) else None
    except TypeError:  # a shape that is no tuple of sizes
        return None


def take(value: Any, which: Any) -> Any:
    """Some rows: `which` is a slice, or an array of indices. What has no rows stays whole."""
    if isinstance(value, list):
        return value[which] if isinstance(which, slice) else [value[i] for i in which]
    if isinstance(value, Mapping):
        return {k: take(v, which) for k, v in value.items()}
    if rows_of(value) is None:
        return value
    if hasattr(value, "iloc"):
        return value.iloc[which]
    if hasattr(value, "tocsr") and getattr(value, "format", "csr") not in ("csr", "lil"):
        return value.tocsr()[which]
    return value[which]


def batches(size: int, *values: Any) -> Iterator[tuple[Any, ...]]:
    """The values in steps of `size` rows, in order; the last step may have fewer. All must have equally many rows."""
    total = next(n for n in map(rows_of, values) if n is not None)
    for start in range(0, total, size):
        yield tuple(take(v, slice(start, start + size)) for v in values)


def mismatch(x: Any, y: Any) -> str:
    """Why inputs and targets do not belong together, in words; "" if they may. What has no rows fits everything."""
    if y is None:
        return ""
    wanted = rows_of(y)
    if wanted is None:
        return ""
    parts = x.items() if isinstance(x, Mapping) else (("", x),)
    for name, part in parts:
        rows = rows_of(part)
        if rows is not None and rows != wanted:
            return f"{rows} rows{f' from {name!r}' if name else ''} and {wanted} targets"
    return ""


def joined(pieces: Sequence[Any]) -> Any:
    """Pieces that are chunks of one value, as that value.

    Raises:
        TypeError: chunks of this kind cannot be put together, or not all are of one kind.
    """
    first = pieces[0]
    kinds = {type(p) for p in pieces}
    if len(kinds) > 1:
        raise TypeError(f"chunks of different kinds cannot be put together: {', '.join(sorted(k.__name__ for k in kinds))}")
    if isinstance(first, list):
        return [item for piece in pieces for item in piece]
    if isinstance(first, str):
        return "".join(pieces)
    if isinstance(first, bytes):
        return b"".join(pieces)
    if isinstance(first, dict):
        if len({frozenset(p) for p in pieces}) > 1:
            raise TypeError("chunks that are dicts with different keys cannot be put together")
        return {key: joined([p[key] for p in pieces]) for key in first}
    torch, numpy, pandas, sparse = (sys.modules.get(name) for name in ("torch", "numpy", "pandas", "scipy.sparse"))
    if numpy is not None and isinstance(first, numpy.ndarray) and first.ndim:
        return numpy.concatenate(pieces)
    if torch is not None and isinstance(first, torch.Tensor) and first.ndim:
        return torch.cat(list(pieces))
    if sparse is not None and sparse.issparse(first):
        return sparse.vstack(pieces, format="csr")
    if pandas is not None and isinstance(first, (pandas.DataFrame, pandas.Series)):
        return pandas.concat(pieces)
    raise TypeError(f"chunks of {type(first).__name__} cannot be put together: give arrays, tensors, tables, lists or texts")
