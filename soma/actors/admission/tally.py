"""How many holders of one kind are at which place, so that the places with the fewest are found at once. Pure."""

from __future__ import annotations


class Tally:
    """How many holders of one kind are where."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._with: list[int] = [0]
        """By number of holders: the places that have so many. (None of them is asked which have 0.)"""
        self._some = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, i: int, change: int) -> None:
        before = self._counts.get(i, 0)
        after = before + change
        if after == len(self._with):
            self._with.append(0)
        if before:
            self._with[before] &= ~(1 << i)
        if after:
            self._with[after] |= 1 << i
            self._counts[i] = after
            self._some |= 1 << i
        else:
            del self._counts[i]
            self._some &= ~(1 << i)

    def fewest(self, mask: int) -> int:
        """Those of `mask` that have the fewest."""
        found = mask & ~self._some
        return found or next(m & mask for m in self._with if m & mask)
