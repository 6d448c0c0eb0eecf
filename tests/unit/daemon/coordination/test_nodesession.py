"""A node's session, through loss of contact, fencing, draining and leaving."""

from __future__ import annotations

import pytest

from soma.daemon.coordination.nodesession import NodeSession
from soma.daemon.coordination.nodestates import (
    End,
    EndAll,
    Instruction,
    NeverRan,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SendRegister,
    SetTimer,
    Start,
    State,
    Stop,
    TellDropped,
    TellExited,
    TellPrinted,
    TellStarted,
)

NOBODY: frozenset[str] = frozenset()


def acts(said: list[Instruction]) -> list[Instruction]:
    return [s for s in said if not isinstance(s, SetTimer)]


def timer(said: list[Instruction]) -> float:
    return [s.at for s in said if isinstance(s, SetTimer)][-1]


def in_touch(*running: str) -> NodeSession:
    node = NodeSession("n", 1)
    assert acts(node.start(0.0)) == [SendJoin()]
    assert acts(node.welcome(0.0)) == [SendRegister(1, 1, NOBODY)]
    assert acts(node.registered(1, 1, 1, 0, 0.0)) == [SendHeartbeat(1, False)]
    for number, key in enumerate(running, 1):
        assert acts(node.launch(key, 1, number, 0.0)) == [Start(key)]
        assert acts(node.process_started(key, 0.0)) == [TellStarted(key, 1)]
    return node


def test_an_order_that_comes_twice_starts_one_process() -> None:
    node = in_touch("p.0")
    assert acts(node.launch("p.0", 1, 1, 0.0)) == [TellStarted("p.0", 1)]
    assert acts(node.process_exited("p.0", "how", 1.0)) == [TellExited("p.0", 1, "how")]
    assert acts(node.launch("p.0", 1, 2, 1.0)) == [TellExited("p.0", 1, "how")]
    node.confirmed("p.0", 1, 9, 2.0)
    assert node.alive == NOBODY
    assert acts(node.launch("p.0", 1, 9, 3.0)) == [], "an order from before the confirmation"


def test_a_kill_that_overtakes_its_launch_wins() -> None:
    node = in_touch()
    assert acts(node.kill("p.0", 1, 2, 0.0)) == [TellExited("p.0", 1, NeverRan.UNKNOWN)]
    assert acts(node.launch("p.0", 1, 1, 0.0)) == []


def test_orders_to_another_incarnation_are_not_obeyed() -> None:
    node = in_touch("p.0")
    assert node.launch("q.0", 2, 9, 0.0) == [] == node.kill("p.0", 2, 9, 0.0) == node.confirmed("p.0", 2, 9, 0.0)


def test_an_end_is_told_until_it_is_confirmed() -> None:
    node = in_touch("p.0")
    node.process_exited("p.0", "how", 0.5)
    now, told = 0.5, 0
    while now < 8.0:
        node.beat_echo(1, now)
        now += 1.0
        told += acts(node.tick(now)).count(TellExited("p.0", 1, "how"))
    assert told == 4
    node.confirmed("p.0", 1, 1, now)
    assert not node.processes


def test_silence_cuts_it_off_and_it_registers_with_growing_pauses() -> None:
    node = in_touch("p.0")
    said, now, pauses, attempts = node.beat_echo(1, 0.0), 0.0, list[float](), list[Instruction]()
    while now < 60.0:
        at = node._due()
        assert at is not None
        if node.state is State.CUT_OFF:
            pauses.append(at - now)
        now = at
        said = acts(node.tick(now))
        attempts += [s for s in said if isinstance(s, SendRegister)]
    assert node.state is State.CUT_OFF and "p.0" in node.processes, "what runs goes on"
    assert 0.075 <= pauses[0] <= 0.125 and 3.75 <= pauses[-1] <= 6.25 and pauses == sorted(pauses)
    assert attempts[0] == SendRegister(1, 2, frozenset({"p.0"}))
    assert acts(node.launch("q.0", 1, 9, now)) == [], "it starts nothing"
    assert [type(s) for s in acts(node.process_exited("p.0", "how", now))] == []
    last = attempts[-1]
    assert isinstance(last, SendRegister)
    assert node.registered(1, last.registration - 1, 1, 0, now) == [], "an answer to an earlier attempt"
    assert acts(node.registered(1, last.registration, 1, 0, now)) == [SendHeartbeat(1, False), TellExited("p.0", 1, "how")]


def test_another_head_makes_it_register_again() -> None:
    node = in_touch("p.0")
    assert acts(node.beat_echo(2, 1.0)) == [SendRegister(1, 2, frozenset({"p.0"}))]
    assert acts(node.registered(1, 2, 2, 0, 1.1)) == [SendHeartbeat(1, False), TellStarted("p.0", 1)]


def test_fenced_it_ends_everything_before_it_joins_as_another() -> None:
    node = in_touch("p.0", "q.0")
    assert acts(node.fenced(1, 4, 5.0)) == [EndAll()]
    assert node.fenced(1, 4, 5.0) == [] == acts(node.launch("r.0", 4, 99, 5.0))
    assert acts(node.process_exited("p.0", "killed", 6.0)) == []
    assert node.state is State.FENCED
    assert acts(node.process_exited("q.0", "killed", 7.0)) == [SendRegister(5, 2, NOBODY)]
    assert node.fenced(1, 4, 8.0) == [], "the same news, late"


def test_refused_with_nothing_running_it_tries_higher_at_once() -> None:
    node = NodeSession("n", 3, welcomed=True)
    node.start(0.0)
    assert acts(node.fenced(3, 9, 0.0)) == [SendRegister(10, 2, NOBODY)]


def test_draining_it_takes_nothing_and_leaves_when_all_is_told() -> None:
    node = in_touch("p.0")
    assert acts(node.drain(1.0)) == [SendHeartbeat(1, True)]
    assert acts(node.launch("q.0", 1, 5, 1.0)) == [TellExited("q.0", 1, NeverRan.DRAINING)]
    node.confirmed("q.0", 1, 5, 1.0)
    assert acts(node.process_exited("p.0", "how", 2.0)) == [TellExited("p.0", 1, "how")]
    assert acts(node.confirmed("p.0", 1, 5, 2.0)) == [SendLeave(1), Stop()]
    assert node.state is State.GONE


def test_it_drains_after_it_was_cut_off_or_fenced() -> None:
    node = in_touch("p.0")
    node.link_down(1.0)
    node.drain(1.0)
    assert node.state is State.CUT_OFF
    assert acts(node.registered(1, 2, 1, 0, 2.0))[0] == SendHeartbeat(1, True)
    assert node.state is State.DRAINING
    node.fenced(1, 1, 3.0)
    assert acts(node.process_exited("p.0", "killed", 4.0)) == [SendLeave(2), Stop()]


@pytest.mark.parametrize("before", ["joining", "cut off", "in touch"])
def test_told_to_leave_it_ends_what_runs_and_stops(before: str) -> None:
    node = NodeSession("n", 1) if before == "joining" else in_touch("p.0")
    if before == "cut off":
        node.link_down(0.0)
    said = acts(node.leave(1.0))
    assert said[0] == EndAll()
    if before != "joining":
        said = acts(node.process_exited("p.0", "killed", 2.0))
    assert said[-2:] == [SendLeave(1), Stop()]
    assert node.leave(3.0) == []


def test_a_kill_reaches_also_what_is_just_being_started() -> None:
    node = in_touch()
    node.launch("p.0", 1, 1, 0.0)
    assert acts(node.kill("p.0", 1, 2, 0.0)) == [End("p.0")]


def test_printed_lines_are_kept_up_to_a_limit() -> None:
    node = in_touch()
    assert node.printed("a", 1) == [TellPrinted("a")]
    node.link_down(0.0)
    for number in range(5):
        assert node.printed(number, 400_000) == []
    said = acts(node.registered(1, 2, 1, 0, 1.0))
    assert said[-3:] == [TellDropped(1_200_000), TellPrinted(3), TellPrinted(4)]


def test_the_timer_is_set_when_it_changes() -> None:
    node = NodeSession("n", 1, welcomed=True)
    assert 0.075 <= timer(node.start(0.0)) <= 0.125
    assert timer(node.registered(1, 1, 1, 0, 0.0)) == 1.0
    assert node.beat_echo(1, 0.5) == []
    assert timer(node.tick(1.0)) == 2.0
