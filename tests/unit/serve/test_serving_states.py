"""docs/serving_states.md is the tables of the code; from every state there is a way to an end, and ends stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from soma.serve.states import PREDICTION, SLOT, SlotState, Status, after, to_markdown

PAGE = Path(__file__).parents[3] / "docs" / "serving_states.md"


def test_the_page_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "python -m soma.serve.states > docs/serving_states.md"


def test_ends_stay() -> None:
    assert {state for state, _ in PREDICTION} == {Status.STARTING, Status.PROCESSING}
    assert {state for state, _ in SLOT} == set(SlotState) - {SlotState.FAILED}
    with pytest.raises(KeyError):
        after(PREDICTION, Status.CANCELED, "succeed")


def test_every_slot_may_be_given_up_and_every_one_with_a_process_may_lose_it() -> None:
    for state in set(SlotState) - {SlotState.FAILED}:
        assert after(SLOT, state, "give up") is SlotState.FAILED
        if state is not SlotState.UNUSED:
            assert after(SLOT, state, "died") is SlotState.STARTING
