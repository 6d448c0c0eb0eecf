"""The desk against a model in plain words, over any order of events."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from soma.serve.desk import Desk
from soma.serve.states import Health, SlotState
from soma.serve.steps import Ask, Begin, Finish, Kill, Limits, Make, QueueFull, Recall, Requeue, Send


class Tables(RuleBasedStateMachine):
    """Plays the slots: makes what is to be made, and lets them live, end, die. Every prediction ends exactly once."""

    @initialize(slots=st.integers(1, 3), queue=st.integers(0, 3), timeout=st.sampled_from([None, 7.0]),
                least=st.sampled_from([None, 1, 2]), ahead=st.booleans())
    def open(self, slots: int, queue: int, timeout: float | None, least: int | None, ahead: bool) -> None:
        self.least = slots if least is None else min(least, slots)
        self.limits = Limits(slots=slots, max_queue=queue, timeout=timeout, grace=5.0, deaths=4, period=100.0,
                             min_slots=None if least is None else self.least, scale_after=3.0, idle=11.0, ahead=ahead and slots == 1)
        self.desk, self.now, self.number = Desk(self.limits), 0.0, 0
        self.making: list[int] = []
        self.free: set[int] = set()
        self.running: dict[int, str] = {}
        self.begun: dict[int, float] = {}
        self.waiting: list[str] = []
        self.sent: dict[int, str] = {}
        self.ghosts: set[str] = set()
        """Sent ahead and canceled since: the slot has them still."""
        self.asked: set[int] = set()
        self.asked_at: dict[int, float] = {}
        self.killed: set[int] = set()
        self.over: dict[str, str] = {}
        self.submitted: set[str] = set()
        self.desk.open(self.now)
        self.follow()

    def follow(self) -> None:
        for step in self.desk.take():
            match step:
                case Make(slot, delay):
                    assert delay >= 0 and slot not in self.making and slot not in self.running and slot not in self.free
                    self.making.append(slot)
                case Send(id, slot):
                    assert self.limits.ahead and slot in self.running and slot not in self.sent and slot not in self.killed
                    assert [p for p in self.waiting if p not in self.sent.values()][0] == id, "first come, first served"
                    self.sent[slot] = id
                case Recall(slot):
                    self.ghosts.add(self.sent[slot])
                case Begin(id, slot) if id in self.ghosts:
                    assert self.sent.pop(slot) == id and slot in self.free
                    self.free.remove(slot)
                    self.running[slot], self.begun[slot] = id, self.now
                    self.asked.add(slot)
                    self.asked_at[slot] = self.now
                case Begin(id, slot):
                    assert slot in self.free, "a prediction is sent to a slot that is free"
                    assert self.sent.pop(slot, id) == id
                    assert self.waiting[0] == id, "first come, first served"
                    self.waiting.pop(0)
                    self.free.remove(slot)
                    self.running[slot], self.begun[slot] = id, self.now
                case Ask(slot):
                    assert slot in self.running and slot not in self.asked
                    self.asked.add(slot)
                    self.asked_at[slot] = self.now
                case Kill(slot):
                    if self.desk.health_ends is None and slot in self.free:
                        assert self.limits.min_slots is not None and not self.waiting, "one that is spare"
                        self.free.remove(slot)
                        assert self.live() >= self.least
                        continue
                    if self.desk.health_ends is None:
                        assert slot in self.asked and self.now >= self.asked_at[slot] + self.limits.grace
                    self.killed.add(slot)
                case Finish(id, how, _):
                    assert id not in self.over
                    self.over[id] = how
                    if id in self.waiting:
                        self.waiting.remove(id)
                    for slot in [s for s, other in self.running.items() if other == id]:
                        del self.running[slot]
                    if self.desk.health_ends is not None:
                        self.sent.clear()
                case Requeue(id):
                    assert id not in self.over
                    self.waiting.insert(0, id)

    def live(self) -> int:
        return len({*self.making, *self.free, *self.running, *self.killed})

    def leave(self, slot: int) -> None:
        self.asked.discard(slot)
        self.asked_at.pop(slot, None)

    alive = precondition(lambda self: self.desk.health_ends is None)

    @rule()
    @alive
    def submit(self) -> None:
        id, self.number = f"p{self.number}", self.number + 1
        room = bool(self.free) or len(self.waiting) < self.limits.max_queue
        self.waiting.append(id)
        try:
            self.desk.submit(id, self.now)
        except QueueFull as full:
            assert not room and full.waits == (self.limits.max_queue > 0)
            self.waiting.pop()
        else:
            assert room
            self.submitted.add(id)
        self.follow()

    @rule(data=st.data(), fine=st.integers(0, 9))
    @precondition(lambda self: self.desk.health_ends is None and self.making)
    def set_up(self, data: st.DataObject, fine: int) -> None:
        slot = data.draw(st.sampled_from(self.making))
        self.making.remove(slot)
        if fine:
            self.free.add(slot)
            self.desk.set_up(slot, self.now)
        else:
            self.desk.setup_failed(slot, self.now)
        self.follow()

    @rule(data=st.data())
    @precondition(lambda self: self.desk.health_ends is None and self.running)
    def end(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.running)))
        id = self.running.pop(slot)
        assert (id in self.over) == (id in self.ghosts)
        self.over.setdefault(id, "told")
        self.leave(slot)
        if slot not in self.killed:
            self.free.add(slot)
        self.desk.ended(slot, self.now)
        self.follow()

    @rule(data=st.data(), begun=st.booleans(), next_too=st.booleans())
    @precondition(lambda self: self.desk.health_ends is None and (self.running or self.free or self.killed))
    def die(self, data: st.DataObject, begun: bool, next_too: bool) -> None:
        slot = data.draw(st.sampled_from(sorted({*self.running, *self.free, *self.killed})))
        id, ahead = self.running.pop(slot, None), self.sent.pop(slot, None)
        self.free.discard(slot)
        asked = slot in self.asked
        self.leave(slot)
        self.killed.discard(slot)
        before = set(self.over)
        self.desk.died(slot, "gone", self.now, begun=begun, ahead_begun=next_too)
        self.follow()
        if self.desk.health_ends is None:
            assert set(self.over) - before <= {id, ahead}
            if id is not None:
                assert (id in self.over) == (begun or asked or id in self.ghosts)
            if ahead is not None:
                assert (ahead in self.over) == (next_too or ahead in self.ghosts)

    @rule(data=st.data())
    @precondition(lambda self: self.desk.health_ends is None and self.submitted)
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.submitted)))
        known = id in self.waiting or (id in self.running.values() and id not in self.ghosts)
        assert self.desk.cancel(id, self.now) == known
        self.follow()

    @rule(seconds=st.floats(0.1, 8))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = self.desk.next_due()
        self.desk.pass_time(self.now)
        steps = len(self.desk._steps)
        self.follow()
        assert bool(steps) == (due <= self.now)

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "desk"):
            return
        known = {*self.waiting, *self.running.values()} - self.ghosts
        assert known | set(self.over) >= self.submitted and not known & set(self.over)
        if self.desk.health_ends is not None:
            assert not known
            return
        for slot in self.running:
            fed = slot in self.sent or slot in self.asked | self.killed or not self.waiting
            assert fed or not self.limits.ahead, "a slot that is busy has the next one"
        counts = dict(self.desk.counts())
        assert self.least <= self.live() == self.limits.slots - counts["unused"]
        assert counts["queue"] == len(self.waiting)
        assert not (self.free and self.waiting), "nobody waits while a slot is free"
        assert counts[SlotState.READY.value] == len(self.free)
        assert (self.desk.health is Health.READY) == bool(self.free)
        for slot in self.running:
            late = self.limits.timeout is not None and self.now >= self.begun[slot] + self.limits.timeout
            assert not late or slot in self.asked or slot in self.killed or self.desk.next_due() <= self.now


TestDesk = Tables.TestCase
TestDesk.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


def opened(**limits: float) -> Desk:
    desk = Desk(Limits(**limits))  # type: ignore[arg-type]
    desk.open(0.0)
    desk.take()
    return desk


def test_a_slot_is_free_before_its_answer_is_told() -> None:
    desk = opened(slots=1, max_queue=0)
    desk.set_up(0, 1.0)
    for i in range(3):
        desk.submit(f"p{i}", 2.0)
        assert desk.take() == [Begin(f"p{i}", 0)]
        with pytest.raises(QueueFull):
            desk.submit("other", 2.0)
        desk.ended(0, 3.0)


def test_a_cancel_is_asked_then_enforced() -> None:
    desk = opened(slots=1, grace=5.0)
    desk.set_up(0, 0.0)
    desk.submit("p", 1.0)
    desk.take()
    assert desk.next_due() == math.inf
    assert desk.cancel("p", 2.0) and desk.take() == [Ask(0)]
    assert desk.next_due() == 7.0
    desk.pass_time(6.9)
    assert desk.take() == []
    desk.pass_time(7.0)
    assert desk.take() == [Kill(0)]
    desk.died(0, "killed", 7.1)
    assert desk.take() == [Finish("p", "cancel"), Make(0)]


def test_a_first_setup_that_fails_is_the_end() -> None:
    desk = opened(slots=2)
    desk.setup_failed(1, 1.0)
    assert desk.health is Health.SETUP_FAILED
    assert set(desk.take()) == {Kill(0), Kill(1)}


def test_too_many_deaths_are_the_end() -> None:
    desk = opened(slots=1, deaths=2, period=10.0)
    for at in (0.0, 1.0, 20.0, 21.0):  # two at a time
        desk.set_up(0, at)
        desk.died(0, "gone", at)
        assert desk.health_ends is None
    desk.set_up(0, 22.0)
    desk.submit("p", 22.0)
    desk.died(0, "SIGSEGV", 22.0)
    assert desk.health is Health.DEFUNCT
    assert Finish("p", "fail", "SIGSEGV") in desk.take()


def test_slots_come_one_by_one_while_predictions_wait_and_go_when_idle() -> None:
    desk = opened(slots=3, min_slots=1, scale_after=0.5, idle=30.0)
    desk.set_up(0, 0.0)
    for i in range(4):
        desk.submit(f"p{i}", 1.0)
    assert desk.take() == [Begin("p0", 0)] and desk.next_due() == 1.5
    desk.pass_time(1.5)
    assert desk.take() == [Make(1)] and desk.next_due() == math.inf, "one at a time"
    desk.set_up(1, 2.0)
    assert desk.take() == [Begin("p1", 1)] and desk.next_due() == 2.0
    desk.pass_time(2.0)
    assert desk.take() == [Make(2)]
    desk.set_up(2, 2.5)
    for number in range(3):
        desk.ended(number, 3.0)
    assert desk.take() == [Begin("p2", 2), Begin("p3", 0)]
    desk.ended(0, 4.0)
    assert desk.next_due() == 33.0
    desk.pass_time(33.0)
    assert desk.take() == [Kill(1), Kill(2)] and dict(desk.counts())["unused"] == 2
    assert desk.next_due() == math.inf
    desk.submit("last", 50.0)
    assert desk.take() == [Begin("last", 0)]


def test_the_death_of_a_process_with_many_slots_counts_once() -> None:
    desk = opened(slots=8, deaths=1, period=10.0)
    for number in range(8):
        desk.set_up(number, 0.0)
    for number in range(8):
        desk.died(number, "gone", 1.0, counts=number == 0)
    assert desk.health_ends is None and dict(desk.counts())["starting"] == 8


def test_the_next_one_goes_ahead_and_still_waits() -> None:
    desk = opened(slots=1, max_queue=2, ahead=True)
    desk.set_up(0, 0.0)
    for id in ("a", "b", "c"):
        desk.submit(id, 1.0)
    assert desk.take() == [Begin("a", 0), Send("b", 0)] and dict(desk.counts())["queue"] == 2
    with pytest.raises(QueueFull):
        desk.submit("d", 1.0)
    desk.ended(0, 2.0)
    assert desk.take() == [Begin("b", 0), Send("c", 0)] and desk.health is Health.BUSY
    desk.died(0, "gone", 3.0)
    assert desk.take() == [Finish("b", "fail", "gone"), Make(0)] and dict(desk.counts())["queue"] == 1
    desk.set_up(0, 4.0)
    assert desk.take() == [Begin("c", 0)]


def test_what_went_ahead_is_canceled_at_once_and_its_slot_is_not_trusted() -> None:
    desk = opened(slots=1, ahead=True, grace=5.0)
    desk.set_up(0, 0.0)
    for id in ("a", "b", "c"):
        desk.submit(id, 1.0)
    desk.take()
    assert desk.cancel("b", 1.5) and desk.take() == [Recall(0), Finish("b", "cancel")]
    assert not desk.cancel("b", 1.6) and dict(desk.counts())["queue"] == 1
    desk.ended(0, 2.0)
    assert desk.take() == [Begin("b", 0)], "it may have begun before it heard of that: its end is awaited"
    desk.pass_time(7.0)
    assert desk.take() == [Kill(0)]
    desk.died(0, "killed", 7.1)
    assert desk.take() == [Make(0)]
    desk.set_up(0, 8.0)
    assert desk.take() == [Begin("c", 0)]


def test_what_went_ahead_and_had_begun_dies_with_its_process() -> None:
    desk = opened(slots=1, ahead=True)
    desk.set_up(0, 0.0)
    desk.submit("a", 1.0)
    desk.submit("b", 1.0)
    desk.take()
    desk.died(0, "gone", 2.0, ahead_begun=True)
    assert desk.take() == [Finish("b", "fail", "gone"), Finish("a", "fail", "gone"), Make(0)]
    with pytest.raises(ValueError, match="ahead"):
        Limits(slots=2, ahead=True)
