"""Sessions between machines against a list: every message once and in order, whatever breaks between the two."""

from __future__ import annotations

import struct
import tracemalloc
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from soma.config import GIB, LIMITS, MIB
from soma.errors import ObjectTooLargeError, ProtocolError
from soma.transport.image import Image, room
from soma.transport.pieces import (
    ACK,
    AGAIN,
    BEGIN,
    CHUNK,
    GONE,
    HEADER,
    HEADER_BYTES,
    MARK,
    OPEN,
    RESET,
    SMALL_BYTES,
    SMALL_FRAMES,
    WHOLE,
    is_piece,
    piece,
)
from soma.transport.pieces import SMALL as IN_ONE
from soma.transport.receiving import Receiving
from soma.transport.sessions import Sending, State

SMALL = replace(LIMITS, chunk_bytes=16, flight_bytes=64, ack_messages=4, ack_bytes=48, message_bytes=4096, sessions=4, parts=8)


def plain(message: Sequence[Any]) -> list[bytes]:
    return [bytes(f) for f in message]


class Between(RuleBasedStateMachine):
    """A sender and a mailbox with two pipes between them that break, double and lose what they hold when they break."""

    checked = False

    def __init__(self) -> None:
        super().__init__()
        self.sender = Sending("me", "you", checked=self.checked, limits=SMALL)
        self.mailbox = Receiving("you", checked=self.checked, limits=SMALL)
        self.there: deque[list[Any]] = deque()
        self.back: deque[list[Any]] = deque()
        self.sent: list[list[bytes]] = []
        self.got: list[list[bytes]] = []
        self.connected = True

    @initialize()
    def open(self) -> None:
        self.there.append(self.sender.opening())

    def goes(self, pieces: Sequence[list[Any]]) -> None:
        self.there.extend([bytes(f) for f in p] for p in pieces)

    @rule(frames=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
    def send(self, frames: list[bytes]) -> None:
        buffers = [bytearray(f) for f in frames]
        pieces = self.sender.send(buffers)
        for buffer in buffers:
            buffer[:] = b"!" * len(buffer)  # the caller's memory is its own again
        self.sent.append(frames)
        self.goes(pieces)

    @precondition(lambda self: self.connected and self.there)
    @rule(many=st.integers(1, 12))
    def arrives(self, many: int) -> None:
        for _ in range(min(many, len(self.there))):
            header, *frames = self.there.popleft()
            assert is_piece(header)
            message, answer = self.mailbox.receive(header, frames)
            if message is not None:
                assert message[0] == b"me"
                self.got.append(plain(message[1:]))
            if answer is not None:
                self.back.append(answer)

    @precondition(lambda self: self.connected and self.back)
    @rule()
    def answers(self) -> None:
        self.goes(self.sender.receive(self.back.popleft()))

    @precondition(lambda self: self.connected)
    @rule(kept=st.integers(0, 5), told=st.booleans())
    def breaks(self, kept: int, told: bool) -> None:
        """What is on its way is lost, but for some that libzmq had not sent yet; the sender hears of it now, or later."""
        while len(self.there) > kept:
            self.there.popleft()
        self.back.clear()
        self.connected = False
        if told:
            self.sender.down()

    @precondition(lambda self: not self.connected)
    @rule()
    def mends(self) -> None:
        self.connected = True
        self.goes(self.sender.up())

    @precondition(lambda self: self.there)
    @rule()
    def doubles(self) -> None:
        self.there.append(self.there[0])

    @precondition(lambda self: self.back)
    @rule()
    def loses_an_acknowledgement(self) -> None:
        """Answers get lost when a mailbox has a new connection of a peer and answers over the old one."""
        kind = HEADER.unpack(self.back[0][0])[1]
        if kind == ACK and self.sender.state is not State.OPENING:
            self.back.popleft()

    @invariant()
    def a_prefix_has_come(self) -> None:
        assert self.got == self.sent[:len(self.got)]
        assert self.mailbox.refused == self.mailbox.corrupt == 0

    @invariant()
    def little_is_in_flight(self) -> None:
        assert self.sender.flying < SMALL.flight_bytes + 200
        assert self.sender.flying <= self.sender.unacknowledged

    def teardown(self) -> None:
        """Once the connection holds, everything comes."""
        self.goes(self.sender.up())
        self.connected = True
        while self.there or self.back:
            if self.there:
                self.arrives(len(self.there))
            if self.back:
                self.answers()
        assert self.got == self.sent
        assert self.sender.lost == 0
        self.goes(self.sender.up())
        self.arrives(1)
        self.answers()
        assert self.sender.unacknowledged == self.sender.flying == 0


class BetweenChecked(Between):
    """The same with checksums, and bits that flip on the way there."""

    checked = True

    @precondition(lambda self: self.there)
    @rule(where=st.integers(0, 10_000), data=st.data())
    def flips(self, where: int, data: Any) -> None:
        target = self.there[where % len(self.there)]
        frame = data.draw(st.integers(0, len(target) - 1))
        if not target[frame] or (frame == 0 and where % len(target[0]) == 0):  # the mark itself: then it is no piece at all
            return
        changed = bytearray(target[frame])
        changed[where % len(changed)] ^= 1 << where % 8
        target[frame] = bytes(changed)

    @invariant()
    def a_prefix_has_come(self) -> None:
        assert self.got == self.sent[:len(self.got)]
        assert self.mailbox.refused == 0


TestBetween = Between.TestCase
TestBetweenChecked = BetweenChecked.TestCase


# -- pieces that break the rules -----------------------------------------------------------------------------------------------------


def opened(me: str = "you", session: int = 7, **options: Any) -> Receiving:
    box = Receiving(me, limits=SMALL, **options)
    header, *names = piece(OPEN, session, 0, (b"me", me.encode()))
    assert box.receive(header, names) == (None, piece(ACK, session, 0))
    return box


def give(box: Receiving, kind: int, number: int, *frames: bytes, session: int = 7) -> tuple[Any, Any]:
    header, *rest = piece(kind, session, number, frames)
    return box.receive(header, rest)


def lengths(*sizes: int) -> bytes:
    return struct.pack(f"<{len(sizes)}Q", *sizes)


RULES: list[Any] = [
    pytest.param([(CHUNK, b"x")], id="a chunk of nothing"),
    pytest.param([(BEGIN, lengths(4)), (CHUNK, b"")], id="an empty chunk"),
    pytest.param([(BEGIN, lengths(4)), (CHUNK, b"12345")], id="a chunk too long"),
    pytest.param([(BEGIN, lengths(2, 2)), (CHUNK, b"123")], id="a chunk over two frames"),
    pytest.param([(BEGIN, lengths(4)), (CHUNK, b"1", b"2")], id="two frames in a chunk"),
    pytest.param([(BEGIN, lengths(4)), (CHUNK,)], id="no frame in a chunk"),
    pytest.param([(BEGIN, lengths(4)), (WHOLE, b"x")], id="a message in between"),
    pytest.param([(BEGIN, lengths(4)), (BEGIN, lengths(4))], id="two beginnings"),
    pytest.param([(BEGIN, lengths(4)), (CHUNK, b"1234"), (CHUNK, b"5")], id="a chunk more than announced"),
    pytest.param([(BEGIN, b"")], id="a beginning without lengths"),
    pytest.param([(BEGIN, b"1234567")], id="half a length"),
    pytest.param([(BEGIN, lengths(0))], id="nothing in pieces"),
    pytest.param([(BEGIN, lengths(4097))], id="more than a message"),
    pytest.param([(BEGIN, lengths(2**63, 2**63))], id="eighteen exabytes"),
    pytest.param([(BEGIN, lengths(*[1] * 9))], id="too many frames"),
    pytest.param([(BEGIN,)], id="a beginning of no frame"),
    pytest.param([(ACK,)], id="an answer to a mailbox"),
    pytest.param([(99, b"x")], id="an unknown kind"),
    pytest.param([(IN_ONE,)], id="a small message of no frame"),
    pytest.param([(IN_ONE, b"x")], id="a small message with a frame behind it"),
    pytest.param([(BEGIN, lengths(4)), (IN_ONE,)], id="a small message in between"),
]


def packed(count: int, rest: bytes, kind: int = IN_ONE) -> bytes:
    return HEADER.pack(MARK, kind, 0, count, 7, 0, 0) + rest


@pytest.mark.parametrize("header", [
    pytest.param(packed(0, b"x"), id="no frame"),
    pytest.param(packed(SMALL_FRAMES + 1, bytes(4 * SMALL_FRAMES)), id="too many frames"),
    pytest.param(packed(255, bytes(2000)), id="far too many frames"),
    pytest.param(packed(3, bytes(7)), id="half a length"),
    pytest.param(packed(2, struct.pack("<I", 5) + b"four"), id="shorter than it says"),
    pytest.param(packed(3, struct.pack("<II", 2**32 - 1, 2**32 - 1) + b"four"), id="eight gigabytes"),
    pytest.param(packed(1, b"x", WHOLE), id="something behind the header of a message"),
    pytest.param(packed(1, b"x", BEGIN), id="something behind the header of a beginning"),
])
def test_small_messages_that_break_the_rules(header: bytes) -> None:
    box = opened()
    assert box.receive(header, []) == (None, piece(RESET, 7, 0)) and box.refused == 1


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=SMALL_FRAMES + 2), st.booleans())
def test_small_messages_are_one_frame(frames: list[bytes], checked: bool) -> None:
    sender, box = Sending("me", "you", checked=checked), Receiving("you", checked=checked)
    (header, *names), ((first, *rest),) = sender.opening(), sender.send(frames)
    box.receive(header, names)
    assert len(rest) == (0 if len(frames) <= SMALL_FRAMES else len(frames))
    assert box.receive(first, rest) == ([b"me", *frames], None)


def test_larger_messages_are_not_copied_into_one_frame() -> None:
    large, (made,) = bytes(SMALL_BYTES), Sending("me", "you").send([b"header", bytes(SMALL_BYTES)])
    assert made[1:] == [b"header", large]


@pytest.mark.parametrize("pieces", RULES)
def test_who_breaks_the_rules_begins_anew(pieces: list[tuple[Any, ...]]) -> None:
    box = opened()
    tracemalloc.start()
    try:
        for number, (kind, *frames) in enumerate(pieces):
            message, answer = give(box, kind, number, *frames)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert message is None and answer == piece(RESET, 7, 0)
    assert box.refused == 1 and isinstance(box.why, ProtocolError)
    assert give(box, WHOLE, len(pieces), b"x") == (None, None), "the session goes on"


def test_a_flood_of_empty_chunks_costs_one_refusal() -> None:
    box = opened()
    give(box, BEGIN, 0, lengths(4))
    answers = [give(box, CHUNK, n, b"")[1] for n in range(1, 1000)]
    assert answers[0] == piece(RESET, 7, 0) and not any(answers[1:]) and box.refused == 1


@given(st.lists(st.tuples(
    st.integers(0, 9), st.integers(0, 3), st.integers(0, 4), st.lists(st.binary(max_size=20), max_size=3)), max_size=30))
def test_noise_delivers_nothing_out_of_order(noise: list[tuple[int, int, int, list[bytes]]]) -> None:
    box = opened()
    for kind, session, number, frames in noise:
        header, *rest = piece(kind, session, number, frames)
        message, answer = box.receive(header, rest)
        assert message is None or message[0] in (b"me", *(f[0] for k, _, _, f in noise if k == OPEN and f))
        assert answer is None or is_piece(answer[0])


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), st.lists(st.binary(max_size=20), max_size=3))
def test_random_headers_are_harmless(header: bytes, frames: list[bytes]) -> None:
    box, sender = opened(), Sending("me", "you", limits=SMALL)
    header = bytes([MARK]) + header[1:]
    assert box.receive(header, frames)[0] is None
    sender.send([b"x"])
    sender.receive([header, *frames])
    assert sender.unacknowledged == 1


# -- lives ---------------------------------------------------------------------------------------------------------------------------


def test_a_mailbox_that_was_restarted_does_not_get_the_rest_of_a_session() -> None:
    sender = Sending("me", "you", limits=SMALL)
    first = Receiving("you", limits=SMALL)
    for header, *frames in [sender.opening(), *sender.send([b"1"]), *sender.send([b"2"])]:
        first.receive(header, frames)
    for header, *frames in sender.up():
        sender.receive(first.receive(header, frames)[1] or [])
    sender.send([b"3"])
    second = Receiving("you", limits=SMALL)
    sender.down()
    sender.send([b"4"])
    (header, *frames), = sender.up()
    message, answer = second.receive(header, frames)
    assert message is None and answer is not None
    (header, *frames), = sender.receive(answer)
    assert sender.lost == 2, "3 and 4 perhaps never arrived; 1 and 2 did"
    second.receive(header, frames)
    (header, *frames), = sender.send([b"5"])
    assert second.receive(header, frames)[0] == [b"me", b"5"]


def test_a_port_that_another_process_has_now_gets_nothing() -> None:
    sender, other = Sending("me", "you", limits=SMALL), Receiving("somebody else", limits=SMALL)
    sender.send([b"secret"])
    header, *frames = sender.opening()
    message, answer = other.receive(header, frames)
    assert message is None and answer is not None and HEADER.unpack(answer[0])[1] == GONE and other.refused == 1
    assert sender.receive(answer) == [] and sender.state is State.GONE
    assert not sender.send([b"more"]) and not sender.up() and sender.lost == 2 and sender.unacknowledged == 0


def test_answers_are_rare() -> None:
    box = opened()
    answers = [give(box, WHOLE, n, b"x")[1] for n in range(12)]
    assert [i for i, a in enumerate(answers) if a is not None] == [3, 7, 11]
    assert answers[-1] == piece(ACK, 7, 12)
    assert give(box, WHOLE, 12, b"x" * 48)[1] == piece(ACK, 7, 13), "many bytes are acknowledged at once"


def test_a_gap_is_told_once() -> None:
    box = opened()
    answers = [give(box, WHOLE, n, b"x")[1] for n in (0, 2, 3, 4)]
    assert answers == [None, piece(AGAIN, 7, 0), None, None]


def test_a_mailbox_remembers_only_so_many_sessions() -> None:
    box = opened()
    for n in range(100):
        header, *names = piece(OPEN, 100 + n, 0, (b"s%d" % n, b"you"))
        box.receive(header, names)
    assert give(box, WHOLE, 0, b"x") == (None, None)
    assert give(box, WHOLE, 0, b"x", session=199)[0] == [b"s99", b"x"]


def test_what_a_dead_one_left_does_not_stop_who_took_its_name() -> None:
    """Two connections are read in turns: the pieces of the dead one may come after the first of its successor."""
    dead, successor, box = Sending("me", "you"), Sending("me", "you"), Receiving("you")
    left = [dead.opening(), *dead.send([b"old"])]
    fresh = [successor.opening(), *successor.send([b"one"]), *successor.send([b"two"]), *successor.send([b"three"])]
    got = [box.receive(header, frames)[0] for header, *frames in (*fresh[:2], *left, *fresh[2:])]
    assert got == [None, [b"me", b"one"], None, [b"me", b"old"], [b"me", b"two"], [b"me", b"three"]]
    for _ in range(5):  # and not every dead one is remembered
        header, *frames = Sending("me", "you").opening()
        box.receive(header, frames)
    assert box.receive(*[(h, f) for h, *f in dead.send([b"older"])][0]) == (None, None)


def test_what_no_receiver_takes_is_refused_before_it_is_kept() -> None:
    sender = Sending("me", "you", limits=SMALL)
    with pytest.raises(ObjectTooLargeError, match="4097 bytes"):
        sender.send([b"x" * 4097])
    assert sender.unacknowledged == 0 and len(sender.send([b"x"])) == 1


def test_a_closing_outlet_sends_what_waits() -> None:
    sender, box = Sending("me", "you", limits=SMALL), Receiving("you", limits=SMALL)
    pieces = [sender.opening(), *(p for n in range(50) for p in sender.send([b"%d" % n * 10]))]
    sender.down()
    pieces += sender.flush()
    got = [box.receive(header, frames)[0] for header, *frames in pieces]
    assert [g[1] for g in got if g] == [b"%d" % n * 10 for n in range(50)]


def test_read_only_views_are_not_copied() -> None:
    block = bytearray(40)
    sender = Sending("me", "you", limits=SMALL)
    sender.send([memoryview(block).toreadonly()])
    with pytest.raises(BufferError):
        block.clear()


# -- where large frames go -----------------------------------------------------------------------------------------------------------


def test_large_frames_are_received_into_rooms_that_open_without_a_copy() -> None:
    data = bytes(range(256)) * (3 * MIB // 256)
    limits = replace(LIMITS, chunk_bytes=MIB)
    sender, box = Sending("me", "you", limits=limits), Receiving("you", limits=limits, room=room)
    got = [box.receive(h, f)[0] for h, *f in [sender.opening(), *sender.send([b"header", b"", data])]][-1]
    assert got is not None and got[:3] == [b"me", b"header", b""] and type(got[1]) is bytes
    assert type(got[3]) is memoryview and got[3].readonly and got[3] == data
    image = Image(got[3])
    one, two = image.view(), image.view()
    one[0] = 99
    assert (one[0], two[0], image.frame()[0], len(image.view())) == (99, 0, 0, len(data))


def test_an_image_of_one_piece_opens_private(data: bytes = b"abc" * 1000) -> None:
    image = Image(data)
    view = image.view()
    view[0] = 0
    assert image.frame() == data and image.length == 3000


def test_a_claim_of_four_gigabytes_costs_no_memory() -> None:
    box = Receiving("you", room=room)
    box.receive(*[(h, f) for h, *f in [piece(OPEN, 7, 0, (b"me", b"you"))]][0])
    header, *frames = piece(BEGIN, 7, 0, (lengths(4 * GIB - 10),))
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
        assert box.receive(header, frames) == (None, None)
        statm.seek(0)
        assert int(statm.read().split()[1]) - before < 1000
