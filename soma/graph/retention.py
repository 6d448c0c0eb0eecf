"""Which chunks of a stream are kept so that they can go through again, decided purely: numbers and opaque chunks.

A chunk is read from its source once. What is given cannot be given again: `next` only grows. Kept are the chunks whose results were not
given; of a graph with evolving nodes also those since their states were last taken (`base`); of one with a barrier all. Of those that were
given, at most `bound` are kept, the latest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

C = TypeVar("C")


class Retention(Generic[C]):
    """Of one stream.

    Args:
        bound: how many chunks are kept whose results were given; None keeps none at all, and the stream cannot go back.
        evolves: some nodes' states move on from chunk to chunk.
        collects: some nodes take all chunks at once.
        origin: the number of the first chunk that goes through here.
        next: the first whose result is to be given.
    """

    def __init__(self, *, bound: int | None, evolves: bool, collects: bool, origin: int = 0, next: int = 0) -> None:
        self._bound, self._evolves, self._collects = bound, evolves, collects
        self._kept: dict[int, C] = {}
        self.origin = self.base = origin
        self.next, self.read = next, origin

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, chunk: C) -> int:
        """A new one was read: its number."""
        number, self.read = self.read, self.read + 1
        if self._bound is not None:
            self._kept[number] = chunk
        return number

    def give(self, number: int) -> bool:
        """Whether a chunk's result is to be given: once, and in order. Afterwards it was."""
        if number != self.next:
            return False
        self.next += 1
        self._trim()
        return True

    def taken_at(self, base: int) -> None:
        """The states before chunk `base` are known."""
        self.base = base
        self._trim()

    def start(self, *, from_origin: bool) -> int | None:
        """The chunk to begin with after a death; None if that is not kept any more. `from_origin`: what was collected is lost."""
        wanted = self.origin if from_origin else min(self.base, self.next) if self._evolves else self.next
        if all(n in self._kept for n in range(wanted, self.read)):
            return wanted
        return None

    def again(self, start: int) -> Iterator[tuple[int, C]]:
        """The kept chunks from there on; each is looked up when its turn comes."""
        end = self.read
        for number in range(start, end):
            yield number, self._kept[number]

    def _trim(self) -> None:
        if self._bound is None:
            return
        floor = self.origin if self._collects else min(self.base, self.next) if self._evolves else self.next
        floor = max(floor, self.next - self._bound)
        while self._kept and (oldest := next(iter(self._kept))) < floor:
            del self._kept[oldest]
