"""A stream and its producer's allowance: nothing lost, order kept, never further ahead than the window, never stuck."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from soma.actors.streams import WINDOW, Allowance, Stream
from soma.ids import ObjectId


class StreamMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stream, self.allowance = Stream(), Allowance()
        self.items: deque[int] = deque()
        self.credits: deque[int] = deque()
        self.made = self.got = 0
        self.told = 0

    def tell(self) -> None:
        self.told += 1

    @rule(count=st.integers(1, 20))
    def produce(self, count: int) -> None:
        for _ in range(count):
            if self.allowance.open:
                self.items.append(self.made)
                self.made += 1
                self.allowance.sent += 1

    @rule(count=st.integers(1, 20))
    def items_arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.items))):
            waiting = bool(self.stream.waiters)
            fns = self.stream.put(ObjectId(b"%d" % self.items.popleft()))
            assert bool(fns) == waiting
            for fn in fns:
                fn()

    @rule()
    def wait(self) -> None:
        if not self.stream.ready:
            self.stream.waiters.append(self.tell)

    @rule(count=st.integers(1, 20))
    def take(self, count: int) -> None:
        for _ in range(count):
            item = self.stream.take()
            if item is None:
                assert self.got == self.made - len(self.items)
                return
            assert int(item) == self.got
            self.got += 1
            credit = self.stream.credit()
            if credit is not None:
                self.credits.append(credit)

    @rule()
    def a_credit_arrives(self) -> None:
        if self.credits:
            self.allowance.taken = max(self.allowance.taken, self.credits.popleft())

    @invariant()
    def never_further_ahead(self) -> None:
        assert self.made - self.got <= WINDOW
        assert self.stream.taken == self.got

    @invariant()
    def never_stuck(self) -> None:
        """All taken and all credits read: the producer may go on."""
        if self.got == self.made and not self.credits:
            assert self.allowance.open

    def teardown(self) -> None:
        waiting = len(self.stream.waiters)
        assert len(self.stream.end()) == waiting
        assert self.stream.end() == [] and self.stream.credit() is None


TestStream = StreamMachine.TestCase
