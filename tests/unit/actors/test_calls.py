"""`Link` against an actor played step by step: each call settles once, in order, and what is said of it is true."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from soma.actors.calls import Link, Pending, fingerprint
from soma.errors import DeathCause, Executed
from soma.ids import ActorId, CallId
from soma.transport.values import Parcel

CAUSE = DeathCause("signal", signal="SIGKILL")


RARELY = st.integers(0, 11).map(lambda n: n == 11)


class Actor:
    """What one incarnation has received, begun and answered."""

    def __init__(self) -> None:
        self.received: list[Pending] = []
        self.begun: list[Pending] = []
        self.replies: list[Pending] = []
        """On their way to the caller."""

    @property
    def marks(self) -> frozenset[bytes]:
        return frozenset(fingerprint(c.call_id) for c in self.begun)


class LinkMachine(RuleBasedStateMachine):
    """Events in any order; the actor runs one call at a time, in the order received."""

    @initialize(window=st.integers(1, 4))
    def begin(self, window: int) -> None:
        self.link = Link(ActorId("a"), window)
        self.window = window
        self.actor: Actor | None = None
        self.incarnation = -1
        self.calls: list[Pending] = []
        self.settled: dict[CallId, str] = {}
        self.ever_begun: set[CallId] = set()
        self.first_begun: list[CallId] = []
        self.moved: set[CallId] = set()
        """Repeated because its exception asked for it: it may have been overtaken."""

    # -- the caller ----------------------------------------------------------------------------------------------------

    @rule(retries=st.sampled_from([0, 0, 1, -1]))
    def call(self, retries: int) -> None:
        made = Pending(CallId(b"prefix8b" + len(self.calls).to_bytes(8, "big")), "m", Parcel(b""), (), retries=retries)
        self.calls.append(made)
        if self.link.dead:
            self.settle(made, "no")
        elif self.link.submit(made):
            self.send(made)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.calls:
            one = data.draw(st.sampled_from(self.calls))
            waits = one in self.link.waiting
            assert (self.link.drop(one.call_id) is one) == waits
            if waits:
                self.settle(one, "dropped")

    def send(self, one: Pending) -> None:
        assert self.actor is not None and self.link.ready and self.link.incarnation == self.incarnation
        self.actor.received.append(one)

    def flow(self) -> None:
        for one in self.link.flow():
            self.send(one)

    def settle(self, one: Pending, how: str) -> None:
        assert one.call_id not in self.settled, "settled twice"
        self.settled[one.call_id] = how

    # -- the actor -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.actor is None and not self.link.dead)
    @rule()
    def ready(self) -> None:
        self.actor = Actor()
        self.incarnation += 1
        self.link.started(self.incarnation, f"a.{self.incarnation}")
        self.flow()

    @precondition(lambda self: self.actor is not None)
    @rule()
    def run_one(self) -> None:
        assert self.actor is not None
        if len(self.actor.begun) < len(self.actor.received):
            one = self.actor.received[len(self.actor.begun)]
            self.actor.begun.append(one)
            if one.call_id not in self.ever_begun:
                self.first_begun.append(one.call_id)
            self.ever_begun.add(one.call_id)

    @precondition(lambda self: self.actor is not None)
    @rule()
    def answer(self) -> None:
        assert self.actor is not None
        if self.actor.begun:
            one = self.actor.begun[-1]
            if one.call_id in self.link.sent and one not in self.actor.replies:
                self.actor.replies.append(one)

    @precondition(lambda self: self.actor is not None and self.actor.replies)
    @rule(again=st.booleans())
    def deliver(self, again: bool) -> None:
        assert self.actor is not None
        one = self.actor.replies.pop(0)
        assert self.link.settle(one.call_id) is one
        if again and one.retries != 0:
            self.link.repeat(one)
            self.moved.add(one.call_id)
        else:
            self.settle(one, "replied")
        assert self.link.settle(one.call_id) is None, "a late second reply is not ours"
        self.flow()

    @precondition(lambda self: self.actor is not None)
    @rule(final=RARELY, arrived=st.integers(0, 3))
    def die(self, final: bool, arrived: int) -> None:
        """Some of its replies still arrive; they are read before the death is acted on."""
        assert self.actor is not None
        for one in self.actor.replies[:arrived]:
            self.link.settle(one.call_id)
            self.settle(one, "replied")
        self.actor.replies = []
        gone, self.actor = self.actor, None
        if final:
            self.end(gone)
            return
        before = {c.call_id: c.attempt for c in self.calls}
        lost = self.link.lost(self.incarnation, gone.marks)
        for one, executed in lost.failed:
            assert one.retries == 0
            self.judge(one, executed)
        for one in lost.repeated:
            assert one.attempt == before[one.call_id] + 1
        assert not self.link.sent and self.link.flow() == []

    @precondition(lambda self: not self.link.dead)
    @rule(now=RARELY)
    def end_without_process(self, now: bool) -> None:
        if self.actor is None and now:
            self.end(Actor())

    def end(self, gone: Actor) -> None:
        for one, executed in self.link.died(gone.marks, CAUSE, ()).failed:
            self.judge(one, executed)
        assert self.link.unsettled == 0

    def judge(self, one: Pending, executed: Executed) -> None:
        if executed == "no":
            assert one.call_id not in self.ever_begun, "it did run"
        self.settle(one, executed)

    # -- what comes late or twice --------------------------------------------------------------------------------------

    @rule(back=st.integers(0, 3))
    def old_news(self, back: int) -> None:
        was = self.link.ready, list(self.link.waiting), dict(self.link.sent)
        old = self.incarnation - back - (self.actor is not None)
        if old >= 0:
            self.link.started(old, f"a.{old}")
            lost = self.link.lost(old, frozenset())
            assert not lost.failed and not lost.repeated
        if self.link.dead:
            assert self.link.died(frozenset(), CAUSE, ()).failed == []
        assert was == (self.link.ready, list(self.link.waiting), dict(self.link.sent))

    # -- always --------------------------------------------------------------------------------------------------------

    @invariant()
    def each_call_is_in_one_place(self) -> None:
        if not hasattr(self, "link"):
            return
        places = [c.call_id for c in self.link.waiting] + list(self.link.sent) + list(self.settled)
        assert sorted(places) == sorted(c.call_id for c in self.calls)

    @invariant()
    def the_window_holds(self) -> None:
        if hasattr(self, "link"):
            assert len(self.link.sent) <= self.window
            assert self.link.ready or not self.link.sent

    @invariant()
    def nothing_waits_while_half_of_the_window_is_free(self) -> None:
        if hasattr(self, "link") and self.link.ready:
            assert not self.link.waiting or len(self.link.sent) > self.window // 2

    @invariant()
    def order_is_kept(self) -> None:
        if hasattr(self, "link"):
            order = [c for c in self.first_begun if c not in self.moved]
            assert order == sorted(order)

    def teardown(self) -> None:
        if hasattr(self, "link"):
            if not self.link.dead:
                self.end(self.actor or Actor())
            assert len(self.settled) == len(self.calls)


TestLink = LinkMachine.TestCase
