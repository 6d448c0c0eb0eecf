"""Extents against a set of integers."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from soma.transport.extents import Extents

SIZE = 64


class ExtentsAgainstSet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents()
        self.model: set[int] = set()

    @rule(start=st.integers(0, SIZE), length=st.integers(1, 12))
    def add(self, start: int, length: int) -> None:
        wanted = set(range(start, start + length))
        if wanted & self.model:
            with pytest.raises(ValueError):
                self.extents.add(start, start + length)
        else:
            self.extents.add(start, start + length)
            self.model |= wanted

    @rule(start=st.integers(0, SIZE), length=st.integers(1, 12))
    def remove(self, start: int, length: int) -> None:
        wanted = set(range(start, start + length))
        if wanted <= self.model:
            self.extents.remove(start, start + length)
            self.model -= wanted
        else:
            with pytest.raises(ValueError):
                self.extents.remove(start, start + length)

    @rule(start=st.integers(0, SIZE), length=st.integers(1, 40))
    def discard(self, start: int, length: int) -> None:
        self.extents.discard(start, start + length)
        self.model -= set(range(start, start + length))

    @rule(size=st.integers(1, 20))
    def fit_is_the_lowest(self, size: int) -> None:
        fits = [n for n in range(SIZE * 2) if n - 1 not in self.model and n in self.model
                and set(range(n, n + size)) <= self.model]
        assert self.extents.fit(size) == (fits[0] if fits else None)

    @invariant()
    def same_bytes_and_coalesced(self) -> None:
        ranges = list(self.extents)
        assert {n for a, b in ranges for n in range(a, b)} == self.model
        assert self.extents.total == len(self.model)
        assert all(left[1] < right[0] for left, right in zip(ranges, ranges[1:], strict=False))
        assert not ranges or self.extents.highest() == ranges[-1]


class AllocatorAgainstList(RuleBasedStateMachine):
    """Allocate and free as the arena does: no overlap, nothing lost."""

    def __init__(self) -> None:
        super().__init__()
        self.free = Extents()
        self.free.add(0, SIZE)
        self.live: list[tuple[int, int]] = []

    @rule(size=st.integers(1, 20))
    def allocate(self, size: int) -> None:
        start = self.free.fit(size)
        if start is not None:
            self.free.remove(start, start + size)
            assert all(start + size <= a or b <= start for a, b in self.live)
            self.live.append((start, start + size))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.live:
            self.free.add(*self.live.pop(data.draw(st.integers(0, len(self.live) - 1))))

    @invariant()
    def nothing_lost(self) -> None:
        assert self.free.total + sum(b - a for a, b in self.live) == SIZE

    def teardown(self) -> None:
        for start, stop in self.live:
            self.free.add(start, stop)
        assert list(self.free) == [(0, SIZE)]


TestExtents = ExtentsAgainstSet.TestCase
TestAllocator = AllocatorAgainstList.TestCase
TestExtents.settings = TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("bad", [(5, 5), (6, 5), (-1, 3)])
def test_refuses_what_is_no_range(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Extents().add(*bad)
