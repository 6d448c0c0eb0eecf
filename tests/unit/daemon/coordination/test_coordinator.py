"""What the head makes of orders and news that come twice, late, or from the wrong side of a restart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.daemon import recorded
from soma.daemon.coordination.coordinator import Coordinator
from soma.daemon.coordination.decisions import Accept, Began, Confirm, How, Instruction, Kill, Launch, Over, Record
from soma.daemon.coordination.journal import Doomed, Entry, HeadStarted, NodeAccepted, NodeGone, Placed, Removed
from soma.daemon.coordination.presence import Fence
from soma.daemon.ledger import Unwritten

NOBODY: frozenset[str] = frozenset()


def with_node() -> Coordinator:
    core = Coordinator()
    core.registered("n", 1, 1, NOBODY, 0.0)
    return core


def entries(said: list[Instruction]) -> list[Entry]:
    return [s.entry for s in said if isinstance(s, Record)]


def effects(said: list[Instruction]) -> list[Instruction]:
    return [s for s in said if not isinstance(s, Record)]


def test_a_process_from_order_to_end() -> None:
    core = with_node()
    said = core.launch("n", "p.0", 1.0)
    assert entries(said) == [Placed("p.0", "n", 1)] and isinstance(said[0], Record), "written down before it is sent"
    order = said[1]
    assert isinstance(order, Launch) and order.incarnation == 1
    assert core.started("n", 1, "p.0", 1.0) == [Began("p.0", "n", 1)]
    assert core.started("n", 1, "p.0", 1.0) == []
    said = core.exited("n", 1, "p.0", 2.0, "how")
    assert said == [Record(Removed("p.0")), Over("p.0", "n", 1, How.EXITED, "how"), Confirm("n", 1, order.number, "p.0")]
    assert core.exited("n", 1, "p.0", 2.0, "how") == said[2:], "counted once, confirmed as often as it is said"


def test_an_order_is_repeated_with_a_higher_number_until_it_is_answered() -> None:
    core = with_node()
    numbers = [s.number for s in core.launch("n", "p.0", 0.0) if isinstance(s, Launch)]
    assert core.beaten("n", 1.9) == []
    numbers += [s.number for s in core.beaten("n", 2.0) if isinstance(s, Launch)]
    numbers += [s.number for s in core.launch("n", "p.0", 2.5) if isinstance(s, Launch)]
    assert len(numbers) == 3 and numbers == sorted(set(numbers))
    core.started("n", 1, "p.0", 3.0)
    assert core.beaten("n", 99.0) == []
    assert entries(core.kill("p.0", 99.0)) == [Doomed("p.0")]
    assert entries(core.kill("p.0", 99.0)) == []
    assert [type(s) for s in core.beaten("n", 101.0)] == [Kill]
    core.exited("n", 1, "p.0", 102.0)
    assert core.beaten("n", 200.0) == [] == core.kill("p.0", 200.0)


def test_news_of_another_incarnation_are_not_believed() -> None:
    core = with_node()
    core.launch("n", "p.0", 0.0)
    assert core.exited("n", 2, "p.0", 1.0) == [] == core.started("n", 2, "p.0", 1.0) == core.exited("m", 1, "p.0", 1.0)
    assert "p.0" in core.placements


def test_a_lost_node_loses_each_process_once_and_is_fenced() -> None:
    core = with_node()
    core.launch("n", "p.0", 0.0)
    core.launch("n", "q.0", 0.0)
    said = core.lost("n", 1)
    assert entries(said) == [NodeGone("n", 1), Removed("p.0"), Removed("q.0")]
    assert effects(said) == [Over("p.0", "n", 1, How.LOST), Over("q.0", "n", 1, How.LOST)]
    assert core.lost("n", 1) == [] == core.exited("n", 1, "p.0", 1.0)
    assert core.registered("n", 1, 2, frozenset({"p.0"}), 2.0) == [Fence("n", 1, 1)]
    with pytest.raises(ValueError, match="not there"):
        core.launch("n", "r.0", 2.0)
    assert isinstance(effects(core.registered("n", 2, 3, NOBODY, 3.0))[0], Accept)


def test_a_node_that_comes_back_keeps_what_is_wanted() -> None:
    core = with_node()
    for key in ("held.0", "never.0", "gone.0", "doomed.0"):
        core.launch("n", key, 0.0)
    for key in ("held.0", "gone.0", "doomed.0"):
        core.started("n", 1, key, 0.0)
    core.kill("doomed.0", 0.0)
    said = core.registered("n", 1, 2, frozenset({"held.0", "doomed.0", "unknown.0"}), 5.0)
    assert [(type(s), getattr(s, "key", None)) for s in effects(said)] == [
        (Over, "gone.0"), (Accept, None), (Launch, "never.0"), (Kill, "doomed.0"), (Kill, "unknown.0")]
    accept = next(s for s in said if isinstance(s, Accept))
    assert all(s.number > accept.number for s in said if isinstance(s, Launch | Kill)), "it does not outdate what follows it"


def test_a_registration_that_is_late_or_twice_changes_nothing() -> None:
    core = with_node()
    core.registered("n", 1, 5, NOBODY, 0.0)
    core.launch("n", "p.0", 1.0)
    core.started("n", 1, "p.0", 1.0)
    assert core.registered("n", 1, 4, NOBODY, 2.0) == []
    assert [type(s) for s in core.registered("n", 1, 5, NOBODY, 2.0)] == [Accept]
    assert "p.0" in core.placements


def test_a_node_that_was_started_again_has_nothing_of_before() -> None:
    core = with_node()
    core.launch("n", "p.0", 0.0)
    said = core.registered("n", 7, 1, NOBODY, 1.0)
    assert entries(said) == [NodeAccepted("n", 7, 1), Removed("p.0")]
    assert effects(said)[0] == Over("p.0", "n", 1, How.RESTARTED)


def test_the_next_head_knows_what_was_written_down() -> None:
    core = with_node()
    written = entries(core.begin()) + entries(core.registered("n", 1, 2, NOBODY, 0.0))
    written += entries(core.launch("n", "p.0", 0.0)) + entries(core.launch("n", "q.0", 0.0))
    last = core.launch("n", "p.0", 0.0)[0]
    after = Coordinator.restore(written)
    assert after.begin() == [Record(HeadStarted(2))]
    said = after.registered("n", 1, 3, frozenset({"p.0"}), 1.0)
    assert effects(said)[0] == Over("q.0", "n", 1, How.RESTARTED)
    assert set(after.placements) == {"p.0"}
    accept = effects(said)[1]
    assert isinstance(accept, Accept) and isinstance(last, Launch)
    assert accept.number > last.number, "what the head before ordered is outdated"


def test_an_order_that_is_known_and_did_not_arrive_is_given_again() -> None:
    """And of one that may have arrived, the end."""
    core = Coordinator()
    written = entries(core.registered("n", 1, 1, NOBODY, 0.0))
    for key in ("there.0", "never.0", "begun.0", "unwanted.0"):
        written += entries(core.launch("n", key, 0.0))
    written += entries(core.kill("unwanted.0", 0.0))
    after = Coordinator.restore(written, again=frozenset({"there.0", "never.0", "unwanted.0"}))
    after.begin()
    said = effects(after.registered("n", 1, 2, frozenset({"there.0"}), 1.0))
    assert {s.key for s in said if isinstance(s, Over)} == {"begun.0", "unwanted.0"}
    order, = (s for s in said if isinstance(s, Launch))
    accept, = (s for s in said if isinstance(s, Accept))
    assert order.key == "never.0" and order.number > accept.number


def test_an_end_that_was_cut_short_is_brought_to_its_end() -> None:
    core = Coordinator.restore([HeadStarted(1), NodeAccepted("n", 1, 1), Placed("p.0", "n", 1), NodeGone("n", 1)])
    assert effects(core.begin()) == [Over("p.0", "n", 1, How.LOST)]


def test_a_key_is_placed_once() -> None:
    core = with_node()
    core.registered("m", 1, 1, NOBODY, 0.0)
    core.launch("n", "p.0", 0.0)
    with pytest.raises(ValueError, match=r"p\.0 is already placed on node n"):
        core.launch("m", "p.0", 0.0)


class Image(Unwritten):
    """A ledger without a file."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {}

    def put(self, table: str, key: Any, value: Any) -> None:
        self.tables.setdefault(table, {})[key] = value

    def drop(self, table: str, key: Any) -> None:
        self.tables.get(table, {}).pop(key, None)


EVENTS = st.lists(st.tuples(st.sampled_from(["register", "launch", "started", "exited", "kill", "lost", "beat"]), st.sampled_from("nm"),
                            st.integers(1, 3), st.integers(0, 3)), max_size=40)


@given(EVENTS)
def test_a_journal_and_its_short_form_say_the_same_and_every_end_is_told_once(events: list[tuple[str, str, int, int]]) -> None:
    core, said, used = Coordinator(), list[Instruction](), set[str]()
    said += core.begin()
    for time, (what, node, incarnation, which) in enumerate(events):
        key = f"{node}{which}.0"
        match what:
            case "register":
                said += core.registered(node, incarnation, time, frozenset({key}), float(time))
            case "launch":
                if node in core.nodes and not core.nodes[node].gone and key not in used:
                    used.add(key)
                    said += core.launch(node, key, float(time))
            case "started" | "exited":
                said += (core.started if what == "started" else core.exited)(node, incarnation, key, float(time))
            case "kill":
                said += core.kill(key, float(time))
            case "lost":
                said += core.lost(node, incarnation)
            case "beat":
                said += core.beaten(node, float(time))
    over = [s.key for s in said if isinstance(s, Over)]
    assert len(over) == len(set(over)) and set(over) | set(core.placements) == used
    numbers = [s.number for s in said if isinstance(s, Launch | Kill)]
    assert numbers == sorted(set(numbers))
    long, short = Coordinator.restore(entries(said)), Coordinator.restore(core.entries())
    assert long.entries() == short.entries()
    book = Image()
    for entry in entries(said):
        recorded.record(book, entry)
    assert Coordinator.restore(recorded.entries(book.tables)).entries() == long.entries()
    assert set(long.placements) == set(core.placements) and long.epoch == core.epoch + 1
