"""A set of byte ranges: which parts of an arena are free, and which of those are warm.

Pure; knows no memory. Ranges are half open, `[start, stop)`; adding what is in the set, or removing what is not, is refused.
Invariant: the ranges held are sorted, disjoint, not empty and never touch (neighbours coalesce).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Extents:
    """Disjoint ranges of integers with first-fit search."""

    __slots__ = ("_starts", "_stops", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0
        """Bytes in the set."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def fit(self, size: int) -> int | None:
        """Start of the lowest range of at least `size` bytes. Low parts are reused most, so they are the warmest."""
        for start, stop in zip(self._starts, self._stops, strict=True):
            if stop - start >= size:
                return start
        return None

    def add(self, start: int, stop: int) -> None:
        """Put `[start, stop)` in; none of it may be in already."""
        self._check(start, stop)
        i = bisect_left(self._starts, start)
        if (i > 0 and self._stops[i - 1] > start) or (i < len(self._starts) and self._starts[i] < stop):
            raise ValueError(f"[{start}, {stop}) is partly there already")
        self.total += stop - start
        joins_left = i > 0 and self._stops[i - 1] == start
        joins_right = i < len(self._starts) and self._starts[i] == stop
        if joins_left and joins_right:
            self._stops[i - 1] = self._stops.pop(i)
            del self._starts[i]
        elif joins_left:
            self._stops[i - 1] = stop
        elif joins_right:
            self._starts[i] = start
        else:
            self._starts.insert(i, start)
            self._stops.insert(i, stop)

    def remove(self, start: int, stop: int) -> None:
        """Take `[start, stop)` out; all of it must be in."""
        self._check(start, stop)
        i = bisect_right(self._starts, start) - 1
        if i < 0 or self._stops[i] < stop:
            raise ValueError(f"[{start}, {stop}) is not wholly there")
        self._cut(i, start, stop)

    def discard(self, start: int, stop: int) -> None:
        """Take out as much of `[start, stop)` as is in."""
        self._check(start, stop)
        while True:
            i = bisect_left(self._starts, stop) - 1
            if i < 0 or self._stops[i] <= start:
                return
            self._cut(i, max(start, self._starts[i]), min(stop, self._stops[i]))

    def highest(self) -> tuple[int, int]:
        """The last range of a set that is not empty."""
        return self._starts[-1], self._stops[-1]

    def _cut(self, i: int, start: int, stop: int) -> None:
        """Take `[start, stop)` out of range `i`, which holds it."""
        low, high = self._starts[i], self._stops[i]
        self.total -= stop - start
        pieces = [(a, b) for a, b in ((low, start), (stop, high)) if a < b]
        self._starts[i : i + 1] = [a for a, _ in pieces]
        self._stops[i : i + 1] = [b for _, b in pieces]

    @staticmethod
    def _check(start: int, stop: int) -> None:
        if not 0 <= start < stop:
            raise ValueError(f"not a range: [{start}, {stop})")
