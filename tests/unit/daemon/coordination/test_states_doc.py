"""docs/node_states.md is the tables of the code; and from every state there is a way on."""

from __future__ import annotations

from pathlib import Path

import pytest

from soma.daemon.coordination import nodestates, presence
from soma.daemon.coordination.__main__ import to_markdown

PAGE = Path(__file__).parents[4] / "docs" / "node_states.md"


def test_page_is_generated_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "python -m soma.daemon.coordination > docs/node_states.md"


def test_whoever_is_gone_only_comes_back_as_another_incarnation() -> None:
    signs = {sign for (state, sign) in presence.TABLE if state in presence.GONE}
    assert signs == {presence.Sign.REGISTERED}


def test_a_fenced_node_joins_only_when_it_is_empty() -> None:
    ways = {event for (state, event), then in nodestates.TABLE.items() if then is nodestates.State.JOINING and state is not then}
    assert ways == {nodestates.Event.EMPTY}


def test_a_node_that_is_gone_does_nothing() -> None:
    assert [pair for pair in nodestates.TABLE if pair[0] is nodestates.State.GONE] == []


def test_what_is_not_in_a_table_raises() -> None:
    with pytest.raises(AssertionError, match="a member that is lost cannot be seen: a heartbeat"):
        presence.advance(presence.Presence.LOST, presence.Sign.BEAT)
    with pytest.raises(AssertionError, match="a node that is joining cannot have happen: nothing left"):
        nodestates.advance(nodestates.State.JOINING, nodestates.Event.EMPTY)
