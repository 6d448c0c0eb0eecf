"""How an array is cut for a collective call: pure.

Every rank owns one *section* of the array and combines it. A section goes through shared memory in *pieces*; the pieces of one turn, one
of each section, fill a slot. So all ranks work at the same time, on memory that stays in the processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Of an array of `count` elements over `ranks` sections, `piece` elements of each at a time."""

    count: int
    ranks: int
    piece: int

    @classmethod
    def of(cls, count: int, ranks: int, slot: int) -> Layout:
        """With pieces as large as fit into a slot of `slot` elements, and as equal as can be."""
        longest = -(-count // ranks)
        turns = max(1, -(-longest // max(1, slot // ranks)))
        return cls(count, ranks, max(1, -(-longest // turns)))

    @property
    def turns(self) -> int:
        """How many pieces the longest section has."""
        longest = -(-self.count // self.ranks)
        return -(-longest // self.piece)

    def section(self, rank: int) -> slice:
        """Of the array: sections differ by one element at most, longer ones first."""
        length, more = divmod(self.count, self.ranks)
        start = rank * length + min(rank, more)
        return slice(start, start + length + (rank < more))

    def at(self, rank: int, turn: int) -> slice:
        """The piece of that rank's section, as a part of the array; empty behind the end."""
        whole = self.section(rank)
        start = min(whole.start + turn * self.piece, whole.stop)
        return slice(start, min(start + self.piece, whole.stop))

    def in_slot(self, rank: int, turn: int) -> slice:
        """Where that piece lies in a slot."""
        piece = self.at(rank, turn)
        return slice(rank * self.piece, rank * self.piece + piece.stop - piece.start)
