"""`Life` against the table of phases and the words of its own page: allowance, budget, pauses, final reasons."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from soma.actors.lifecycle import TABLE, Happening, Phase, advance
from soma.actors.supervisor import FINAL_REASONS, Life
from soma.errors import DeathCause

HAS_PROCESS = {Phase.STARTING, Phase.READY, Phase.STOPPING}


class LifeMachine(RuleBasedStateMachine):
    @initialize(allowed=st.sampled_from([-1, 0, 1, 5]), intensity=st.integers(0, 4))
    def begin(self, allowed: int, intensity: int) -> None:
        self.life = Life(allowed, intensity, 30.0)
        self.now = 100.0
        self.survived: list[DeathCause] = []
        self.deaths: list[float] = []

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.life.phase in (Phase.WAITING, Phase.RESTARTING))
    @rule()
    def start(self) -> None:
        before = self.life.incarnation
        assert self.life.admitted() == before + 1
        assert self.life.phase is Phase.STARTING

    @precondition(lambda self: self.life.phase is Phase.STARTING or self.life.phase is Phase.STOPPING)
    @rule()
    def constructed(self) -> None:
        assert self.life.constructed() == (self.life.phase is Phase.READY)

    @rule(really=st.integers(0, 5))
    def stop(self, really: int) -> None:
        if really == 5:
            had = self.life.phase in HAS_PROCESS
            assert self.life.stop() == had
            assert self.life.phase is (Phase.STOPPING if had else Phase.DEAD)

    @precondition(lambda self: self.life.phase in HAS_PROCESS)
    @rule(reason=st.sampled_from(["signal", "exited", "oom", "cancelled", *sorted(FINAL_REASONS)]))
    def die(self, reason: str) -> None:
        stopping, restarts = self.life.phase is Phase.STOPPING, self.life.restarts
        cause = DeathCause(reason, pid=len(self.survived) + 1)
        told, pause = self.life.died(cause, self.now)
        assert (told.reason, told.pid) == (cause.reason, cause.pid)
        spent = 0 <= self.life.max_restarts <= restarts
        final = stopping or reason in FINAL_REASONS or spent
        if not final:
            self.deaths = [t for t in self.deaths if t >= self.now - 30.0] + [self.now]
            final = len(self.deaths) > self.life.intensity
        if final:
            assert pause is None and self.life.phase is Phase.DEAD and self.life.restarts == restarts
        else:
            assert pause is not None and 0 < pause <= 10.0
            self.survived.append(cause)
            assert self.life.phase is Phase.RESTARTING and self.life.restarts == restarts + 1
        if not stopping and reason not in FINAL_REASONS and not spent and final:
            assert "no more restarts" in told.detail

    @invariant()
    def history_is_what_came_before_the_last(self) -> None:
        if hasattr(self, "life"):
            assert list(self.life.history) == self.survived[-10:]

    @invariant()
    def restarts_are_counted(self) -> None:
        if hasattr(self, "life"):
            assert self.life.max_restarts < 0 or self.life.restarts <= self.life.max_restarts


TestLife = LifeMachine.TestCase


def test_every_phase_can_end_and_the_end_is_the_end() -> None:
    assert all((phase, Happening.STOP) in TABLE for phase in Phase)
    assert {b for (a, _), b in TABLE.items() if a is Phase.DEAD} == {Phase.DEAD}
    reached = {Phase.WAITING}
    for _ in Phase:
        reached |= {b for (a, _), b in TABLE.items() if a in reached}
    assert reached == set(Phase)


@pytest.mark.parametrize(("phase", "happening"), [(p, h) for p in Phase for h in Happening if (p, h) not in TABLE])
def test_what_the_table_does_not_know_is_refused(phase: Phase, happening: Happening) -> None:
    with pytest.raises(AssertionError, match=phase.value):
        advance(phase, happening)
