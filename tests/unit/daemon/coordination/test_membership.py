"""Who is suspected, lost, recovered; against an oracle that looks at every moment instead of at deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.daemon.coordination.membership import Membership
from soma.daemon.coordination.presence import Fence, Full, Kind, Lost, Presence, Recovered, Suspected, Unknown


def joined(*names: str) -> Membership:
    membership = Membership()
    for name in names:
        assert membership.registered(name, 1, 0.0) == []
        assert membership.beat(name, 1, 0.0) == []
    return membership


def looked(membership: Membership, until: float) -> list[object]:
    """What changes until then, if it is looked at in time."""
    changes: list[object] = []
    while (due := membership.next_deadline()) is not None and due <= until:
        changes += membership.tick(due)
    return [*changes, *membership.tick(until)]


def test_silence_is_suspected_and_then_lost() -> None:
    membership = joined("n")
    assert looked(membership, 2.9) == []
    assert looked(membership, 3.0) == [Suspected("n", 1, "no heartbeat for 3.0 s")]
    assert list(membership.alive()) == []
    assert looked(membership, 9.9) == []
    assert looked(membership, 10.0) == [Lost("n", 1, "no heartbeat for 10.0 s")]
    assert membership.next_deadline() is None


def test_a_beat_ends_a_suspicion() -> None:
    membership = joined("n")
    looked(membership, 5.0)
    assert membership.beat("n", 1, 5.0, load=0.5) == [Recovered("n", 1)]
    assert [m.load for m in membership.alive()] == [0.5]
    assert membership.next_deadline() == 8.0


def test_a_closed_connection_is_suspected_at_once_and_lost_soon() -> None:
    membership = joined("n")
    assert membership.link_down("n", 1.0) == [Suspected("n", 1, "its connection closed")]
    assert membership.next_deadline() == 2.5
    assert membership.tick(2.5) == [Lost("n", 1, "its connection closed and did not come back within 1.5 s")]


def test_a_connection_that_comes_back_is_not_enough_without_a_beat() -> None:
    membership = joined("n")
    membership.link_down("n", 1.0)
    membership.link_up("n", 2.0)
    assert looked(membership, 9.9) == []
    assert looked(membership, 10.0) == [Lost("n", 1, "no heartbeat for 10.0 s")]


def test_registering_again_is_no_sign_of_life() -> None:
    membership = joined("n")
    for second in range(1, 10):
        membership.registered("n", 1, float(second))
        membership.tick(float(second))
    assert [type(c) for c in looked(membership, 10.0)] == [Lost]


def test_a_lost_incarnation_is_fenced_for_ever_and_the_next_is_not() -> None:
    membership = joined("n")
    looked(membership, 10.0)
    assert membership.beat("n", 1, 11.0) == [Fence("n", 1, 1)]
    assert membership.registered("n", 1, 11.0) == [Fence("n", 1, 1)]
    assert membership.registered("n", 2, 11.0) == []
    assert membership.beat("n", 1, 11.0) == [Fence("n", 1, 2)]
    assert membership.members["n"].presence is Presence.JOINED


def test_strangers_are_told_to_register() -> None:
    membership = joined("n")
    assert membership.beat("m", 1, 0.0) == [Unknown("m", 1)]
    assert membership.beat("n", 2, 0.0) == [Unknown("n", 2)]


def test_a_member_of_an_earlier_head_has_its_grace() -> None:
    membership = Membership()
    membership.expected("d", 4, 100.0, Kind.DRIVER)
    assert membership.next_deadline() == 110.0
    assert membership.beat("d", 4, 109.0) == [Recovered("d", 4)]


def test_draining_and_leaving() -> None:
    membership = joined("n")
    membership.drain("n")
    assert list(membership.alive()) == [] and membership.beat("n", 1, 1.0) == []
    membership.left("n")
    assert membership.next_deadline() is None
    assert membership.beat("n", 1, 1.0) == [Fence("n", 1, 1)]


def test_a_clock_that_goes_back_loses_nobody() -> None:
    membership = joined("n")
    membership.beat("n", 1, 100.0)
    membership.tick(100.0)
    assert membership.tick(50.0) == [] and membership.beat("n", 1, 50.0) == [] and membership.tick(100.0) == []
    assert membership.tick(101.0) == []


def test_a_head_that_was_stopped_blames_nobody() -> None:
    membership = joined("n")
    assert membership.tick(60.0) == [Suspected("n", 1, "no heartbeat for 3.0 s")]
    assert membership.next_deadline() == 67.0
    assert membership.beat("n", 1, 60.1) == [Recovered("n", 1)]


def test_it_has_room_for_so_many_and_the_gone_make_room() -> None:
    membership = Membership(capacity=2)
    assert membership.registered("a", 1, 0.0) == membership.registered("b", 1, 0.0) == []
    assert membership.registered("c", 1, 0.0) == [Full("c", "the cluster has 2 members, as many as it can have")]
    membership.left("a")
    assert membership.registered("c", 1, 0.0) == []
    assert set(membership.members) == {"b", "c"}


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat × missed < grace"):
        Membership(heartbeat=5.0, missed=3, grace=10.0)


STEPS = st.lists(st.tuples(st.sampled_from(["beat", "down", "up", "wait", "wait", "wait"]), st.integers(0, 2)), max_size=60)


@given(STEPS)
def test_an_oracle_that_looks_every_half_second_agrees(steps: list[tuple[str, int]]) -> None:
    names = ["n0", "n1", "n2"]
    membership = joined(*names)
    now, said = 0.0, list[tuple[str, type]]()
    heard, closed = dict.fromkeys(names, 0.0), dict[str, float]()
    state, told = dict.fromkeys(names, "alive"), list[tuple[str, type]]()
    moments = [step for what, which in steps for step in ([("wait", 0)] * (1 + 4 * which) if what == "wait" else [(what, which)])]
    for what, which in moments:
        name = names[which]
        match what:
            case "wait":
                now += 0.5
                said += [(c.member, type(c)) for c in looked(membership, now)]  # type: ignore[attr-defined]
            case "beat":
                said += [(c.member, type(c)) for c in membership.beat(name, 1, now) if not isinstance(c, Fence)]
                if state[name] != "lost":
                    heard[name], _ = now, closed.pop(name, None)
                    told += [(name, Recovered)] if state[name] == "suspect" else []
                    state[name] = "alive"
            case "down":
                said += [(c.member, type(c)) for c in membership.link_down(name, now)]
                if state[name] != "lost":
                    closed.setdefault(name, now)
                    told += [(name, Suspected)] if state[name] == "alive" else []
                    state[name] = "suspect"
            case "up":
                membership.link_up(name, now)
                closed.pop(name, None)
        for name in names:
            if state[name] != "lost" and (now - heard[name] >= 10.0 or now - closed.get(name, now) >= 1.5):
                state[name] = "lost"
                told.append((name, Lost))
            elif state[name] == "alive" and now - heard[name] >= 3.0:
                state[name] = "suspect"
                told.append((name, Suspected))
    assert sorted(said, key=str) == sorted(told, key=str)


def test_the_heap_stays_small_whatever_comes_and_goes() -> None:
    membership = joined("n")
    for number in range(2_000):
        membership.registered("m", number + 1, 0.0)
        membership.link_down("m", 0.0)
        membership.left("m")
    assert len(membership._looks) <= 4 * 2 + 65
