"""`Course` in virtual time: what is asked to end, when, and what is killed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from soma.study.course import GRACE, Course, Limits, Order

ticks = st.integers(0, 40).map(lambda n: n / 4)  # quarters of a second: sums are exact


@dataclass(frozen=True)
class Plan:
    """Of one trial: when it is taken, how much later it runs, the pruner gives it up, and it ends (all from then on), if ever."""

    begin: float
    starts: float
    pruned: float | None
    ends: float


plans = st.lists(st.builds(Plan, ticks, ticks, st.none() | ticks, ticks), min_size=1, max_size=6)
limits = st.builds(Limits, timeout=st.none() | ticks, trial_timeout=st.none() | ticks, prune_grace=ticks)


@given(plans, limits)
def test_every_order_is_given_once_in_time_and_never_before_its_time(trials: list[Plan], limit: Limits) -> None:
    """A loop that sleeps as long as `pause` says, or until something happens, gives each order at the very moment it is due."""
    course = Course(limit, 0.0)
    events = sorted({t for p in trials for t in (p.begin, p.begin + p.starts, p.begin + p.starts + (p.pruned or 0), p.begin + p.ends)})
    given_at: dict[tuple[int, str], float] = {}
    whys: dict[int, str | None] = {}
    now = 0.0
    while True:
        for i, p in enumerate(trials):
            if p.begin == now:
                course.begin(i)
            if p.begin + p.starts == now and p.starts < p.ends:
                course.started(i, now)
            if p.pruned is not None and p.begin + p.starts + p.pruned == now and p.starts + p.pruned < p.ends:
                course.prune(i, now)
            if p.begin + p.ends == now:
                whys[i] = course.end(i, False)
        for order in course.orders(now):
            assert (order.trial, order.act) not in given_at
            given_at[order.trial, order.act] = now
        assert list(course.orders(now)) == []
        pause = course.pause(now)
        assert pause is None or pause >= 0
        wakes = [t for t in events if t > now] + ([now + pause] if pause is not None else [])
        if not wakes:
            break
        now = min(wakes)
    for i, p in enumerate(trials):
        start, end = p.begin + p.starts, p.begin + p.ends
        late = start + limit.trial_timeout if limit.trial_timeout is not None and p.starts < p.ends else math.inf
        given_up = start + p.pruned + limit.prune_grace if p.pruned is not None and p.starts + p.pruned < p.ends else math.inf
        due = min(late, given_up)
        assert given_at.get((i, "cancel")) == (due if due < end else None)
        assert given_at.get((i, "kill")) == (due + GRACE if due + GRACE < end else None)
        assert whys[i] == (None if due >= end else "timeout" if late <= given_up else "pruned")
    assert course.running == 0


@given(limits, ticks, st.integers(0, 5))
def test_when_it_may_take_another(limit: Limits, now: float, failures: int) -> None:
    course = Course(Limits(limit.timeout, max_failures=3), 10.0)
    for i in range(failures):
        course.begin(i)
        course.end(i, True)
    assert course.may_take(10.0 + now) == ((limit.timeout is None or now < limit.timeout) and failures <= 3)
    course.stop()
    assert not course.may_take(10.0)


def test_what_is_asked_for_ends_in_its_own_way_or_is_killed() -> None:
    course = Course(Limits(trial_timeout=2.0), 0.0)
    course.begin(0)
    assert course.pause(1.0) == 2.0 and list(course.orders(100.0)) == []  # it waits for its process
    course.started(0, 100.0)
    course.started(0, 101.0)  # said twice
    course.prune(7, 100.0)  # not here
    assert list(course.orders(102.0)) == [Order(0, "cancel")] and course.pause(102.0) == GRACE
    assert list(course.orders(103.0)) == [Order(0, "kill")] and course.pause(103.0) is None
    assert course.end(0, True) == "timeout"
