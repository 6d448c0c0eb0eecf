"""Sessions whose receiver dies: each message is dealt with once, in order, whenever that happens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from soma.config import LIMITS
from soma.transport.lasting import Lasting, Mark
from soma.transport.pieces import ACK, read_piece
from soma.transport.sessions import Sending

SMALL = replace(LIMITS, chunk_bytes=16, flight_bytes=256, ack_messages=3, ack_bytes=48, message_bytes=4096)

STEPS = st.lists(st.one_of(st.tuples(st.just("send"), st.integers(0, 40)), st.tuples(st.just("read"), st.integers(1, 5)),
                           st.tuples(st.just("answer"), st.integers(1, 5)),
                           st.tuples(st.sampled_from(["crash", "crash unsettled"]), st.just(0))), max_size=40)


class Between:
    """A sender, a receiver that keeps a record, and what is on its way between them."""

    def __init__(self) -> None:
        self.sender = Sending("me", "you", limits=SMALL)
        self.record: tuple[int, int] | None = None
        self.box = Lasting("you", limits=SMALL)
        self.there = [self.sender.opening()]
        self.back: list[list[bytes]] = []
        self.sent = 0
        self.done: list[int] = []

    def send(self, size: int) -> None:
        self.there += self.sender.send([self.sent.to_bytes(4, "big") + bytes(size)])
        self.sent += 1

    def read(self, many: int, *, settle: bool = True) -> None:
        for _ in range(min(many, len(self.there))):
            header, *frames = self.there.pop(0)
            message, answer = self.box.receive(header, frames)
            if answer is not None:
                self.back.append(answer)
                found = read_piece(answer[0], (), False)
                assert found is not None and (found[0] != ACK or found[2] <= (self.record or (0, 0))[1]), "acknowledged, and on no record"
            if message is not None:
                if not settle:
                    return
                mark = message[0]
                assert isinstance(mark, Mark) and mark == b"me"
                self.done.append(int.from_bytes(bytes(message[1][:4]), "big"))
                self.record = mark.session, mark.number
                self.box.settled(mark)

    def answer(self, many: int) -> None:
        for _ in range(min(many, len(self.back))):
            self.there += self.sender.receive(self.back.pop(0))

    def crash(self) -> None:
        """And everything on its way is lost."""
        self.box = Lasting("you", limits=SMALL)
        if self.record is not None:
            self.box.resume(b"me", *self.record)
        self.back.clear()
        self.sender.down()
        self.there = list(self.sender.up())


@given(STEPS)
def test_every_message_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    w = Between()
    for what, n in steps:
        match what:
            case "send":
                w.send(n)
            case "read":
                w.read(n)
            case "answer":
                w.answer(n)
            case "crash":
                w.crash()
            case _:  # it read a message and died before it had dealt with it
                w.read(1, settle=False)
                w.crash()
    while w.there or w.back:
        w.read(len(w.there))
        w.answer(len(w.back))
    assert w.done == list(range(w.sent)) and w.sender.lost == 0
