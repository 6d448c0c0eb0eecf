"""Where the chunks of a stream come from: rows of an array, or whatever somebody gives one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.filters import mismatch, rows_of, take

DEFAULT = 1024
"""Rows of a chunk where nobody says."""

Pair = tuple[Any, Any]


class Source:
    """Chunks, as often as they can be read.

    Args:
        x: an array, tensor, table or sparse matrix (taken in rows), a list (of rows with `chunk_size`, else of chunks), any iterable of
            chunks, a function without arguments that gives such an iterable anew each time, or a ref to any of these.
        y: targets, in rows as `x`; None where chunks are pairs, or there are none.
        pairs: whether chunks may be (x, y).

    Raises:
        ValueError: rows that differ from targets; a chunk_size for what comes in chunks already.
        TypeError: nothing that could be read in chunks.
    """

    def __init__(self, x: Any, y: Any = None, *, chunk_size: int | None = None, pairs: bool = False) -> None:
        if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"chunk_size={chunk_size!r}: a whole number from 1")
        x, y = (cluster.get(v) if isinstance(v, ObjectRef) else v for v in (x, y))
        self._pairs = pairs
        self.once = False
        """It can be read only once."""
        self.total: int | None = None
        """How many chunks there are, where that is known."""
        by_rows = rows_of(x) is not None and (not isinstance(x, list) or chunk_size is not None)
        if by_rows:
            self._make = self._rows(x, y, chunk_size or DEFAULT)
            return
        if chunk_size is not None:
            raise ValueError("chunk_size is for arrays and lists of rows; what is given here comes in chunks already")
        if y is not None:
            raise TypeError("targets belong to the chunks: give (x, y) pairs, or x as an array with y beside it")
        self._make = self._given(x)

    def _rows(self, x: Any, y: Any, size: int) -> Callable[[int], Iterator[Pair]]:
        problem = mismatch(x, y)
        if problem:
            raise ValueError(f"X and y do not belong together: {problem}")
        rows = rows_of(x) or 0
        self.total = -(-rows // size)
        return lambda begin: ((take(x, slice(i, i + size)), None if y is None else take(y, slice(i, i + size)))
                              for i in range(begin * size, rows, size))

    def _given(self, x: Any) -> Callable[[int], Iterator[Pair]]:
        if callable(x) and not isinstance(x, Iterable):
            return lambda begin: self._paired(x(), begin)
        if isinstance(x, (str, bytes, dict)) or not isinstance(x, Iterable):
            raise TypeError(f"a stream is made of an array, or of chunks one after the other; {type(x).__name__} is neither")
        if isinstance(x, Iterator):
            self.once = True
            return lambda begin: self._paired(x, begin)
        self.total = len(x) if isinstance(x, Sized) else None
        return lambda begin: self._paired(x, begin)

    def _paired(self, chunks: Iterable[Any], begin: int) -> Iterator[Pair]:
        for chunk in islice(chunks, begin, None):
            yield chunk if self._pairs and isinstance(chunk, tuple) and len(chunk) == 2 else (chunk, None)

    def __iter__(self) -> Iterator[Pair]:
        return self._make(0)

    def begin_at(self, chunk: int) -> Iterator[Pair]:
        """The chunks from number `chunk` on; those before it are not made where that can be."""
        return self._make(chunk)
