"""What the outcomes of one call to all ranks mean together."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from soma.errors import ActorDiedError, ActorInitError, GroupBrokenError, NonFiniteError, TaskCancelledError
from soma.train.crew import RanksLost, verdict

DIED, INIT = ActorDiedError("Rank"), ActorInitError("Rank")
BROKEN, CANCELLED = GroupBrokenError("rank 0 is gone"), TaskCancelledError("cancelled")
OWN, NAN = KeyError("mine"), NonFiniteError("step 3")


@pytest.mark.parametrize("outcomes, meant", [
    ([None, None, None], None), ([OWN, BROKEN, BROKEN], OWN), ([OWN, DIED, CANCELLED], OWN), ([NAN, NAN, NAN], NAN),
    ([INIT, BROKEN, None], INIT), ([CANCELLED, None, None], CANCELLED)])
def test_whose_error_it_is(outcomes: list[Any], meant: Any) -> None:
    for order in permutations(outcomes):
        assert verdict(order) is meant


@pytest.mark.parametrize("outcomes", [[DIED, BROKEN, BROKEN], [DIED, CANCELLED, None], [DIED, DIED, BROKEN], [BROKEN, BROKEN, CANCELLED]])
def test_whose_death_it_was(outcomes: list[Any]) -> None:
    for order in permutations(outcomes):
        lost = verdict(order)
        assert isinstance(lost, RanksLost)
        assert lost.ranks == tuple(r for r, e in enumerate(order) if e is DIED)
        assert lost.reason is (DIED if DIED in order else BROKEN)
