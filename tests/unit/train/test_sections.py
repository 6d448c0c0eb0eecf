"""What a contribution means to a section's rounds, whatever order contributions come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.errors import GroupBrokenError
from soma.train.sections import STACK, TAKE, Part, Round, Rounds


def part(rank: int, call: int = 1, turn: int = 0, *, generation: int = 0, what: str = "x", how: str = "sum", values: Any = 1.0,
         check: bool = False) -> Part:
    return Part(generation, rank, call, turn, what, how, "float64", None if values is None else np.atleast_1d(values).astype(float),
                check=check)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_every_order_gives_the_same_bits(data: Any, size: int, calls: int, section: int) -> None:
    section %= size
    values = np.random.default_rng(size * calls).normal(size=(calls, size, 3)) * 1e8
    found: dict[int, Round] = {}
    rounds, given = Rounds(section, size, 0), [0] * size
    while sum(given) < calls * size:
        rank = data.draw(st.sampled_from([r for r in range(size) if given[r] < calls]))
        call = given[rank]
        given[rank] += 1
        round_: Round = rounds.add(part(rank, call, values=values[call, rank].copy()))
        assert found.setdefault(call, round_) is round_
        assert round_.over is (min(given) > call)
    for call, round_ in found.items():
        expected = values[call, section].copy()  # its own rank's part, then the others by number: as in shared memory
        for r in range(size):
            if r != section:
                expected = expected + values[call, r]
        assert round_.error is None and round_.result is not None and round_.result.tobytes() == expected.tobytes()
        assert not round_.parts, "nothing is kept"


def test_one_part_for_all_and_all_parts() -> None:
    rounds = Rounds(1, 2, 0)
    rounds.add(part(0, 1, how=TAKE, values=None))
    assert rounds.add(part(1, 1, how=TAKE, values=[4, 5])).result == pytest.approx([4, 5])
    rounds.add(part(1, 2, how=STACK, values=[4, 5]))
    np.testing.assert_array_equal(rounds.add(part(0, 2, how=STACK, values=[1, 2])).result, [[1, 2], [4, 5]])


@pytest.mark.parametrize("asks, value, finite", [(True, np.nan, False), (False, np.nan, True), (True, 1.0, True)])
def test_whether_it_is_finite_is_told_if_somebody_asks(asks: bool, value: float, finite: bool) -> None:
    rounds = Rounds(0, 2, 0)
    rounds.add(part(0, values=value))
    assert rounds.add(part(1, check=asks)).finite is finite


def test_repeats_and_what_is_late_are_refused() -> None:
    rounds = Rounds(0, 2, 3)
    rounds.add(part(0, 2, 1, generation=3))
    for call, turn in ((2, 1), (2, 0), (1, 5)):
        with pytest.raises(GroupBrokenError, match=f"rank 0 gave call {call}, turn {turn} of generation 3 again"):
            rounds.add(part(0, call, turn, generation=3))
    with pytest.raises(GroupBrokenError, match="generation 2 is over; this is 3"):
        rounds.add(part(1, 2, 1, generation=2))
    assert rounds.add(part(1, 2, 1, generation=3)).over, "nothing of that did harm"
    with pytest.raises(GroupBrokenError, match="again"):
        rounds.add(part(1, 2, 1, generation=3))


def test_an_end_is_for_all_that_wait_and_all_that_come() -> None:
    rounds = Rounds(0, 2, 0)
    waiting = [rounds.add(part(0, call)) for call in (1, 2)]
    rounds.end(GroupBrokenError("first"))
    rounds.end(GroupBrokenError("second"))
    assert [(w.over, str(w.error)) for w in waiting] == [(True, "first")] * 2
    with pytest.raises(GroupBrokenError, match="first"):
        rounds.add(part(1, 1))


def test_different_calls_are_an_error_for_all() -> None:
    rounds = Rounds(0, 3, 0)
    first = rounds.add(part(0, what="all_reduce(3)"))
    for rank in (1, 2):
        with pytest.raises(ValueError, match=r"rank 1 calls barrier\(\) while rank 0 calls all_reduce\(3\)"):
            rounds.add(part(rank, what="barrier()"))
    assert isinstance(first.error, ValueError) and first.over
