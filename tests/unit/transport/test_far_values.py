"""Values to another machine: what lies in shared memory goes along as an image, and every use of a parcel works with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.config import KIB, LIMITS, MIB
from soma.errors import ObjectTooLargeError, ProtocolError
from soma.transport.arena import Arena
from soma.transport.codec import encode
from soma.transport.image import Image, room
from soma.transport.receiving import Receiving
from soma.transport.sessions import Sending
from soma.transport.values import Parcel, from_bytes, from_frames, open_parcel, parcel, to_bytes, to_frames

SIZES = [0, 1000, 8 * KIB, LIMITS.inline_bytes, MIB]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(64 * MIB, tmp_path_factory.mktemp("arena")) as made:
        kept = parcel(encode(np.zeros(MIB)), made)  # segments are made at first use: not in the middle of a test
        to_frames(kept, made, "reader")
        del kept
        made.revoke("reader")
        yield made


def carried(frames: Sequence[Any], chunk: int) -> list[Any]:
    """The same frames at the other end of a session."""
    limits = replace(LIMITS, chunk_bytes=chunk)
    sender, box = Sending("a", "b", limits=limits), Receiving("b", limits=limits, room=room)
    got = [box.receive(h, [bytes(x) for x in f])[0] for h, *f in [sender.opening(), *sender.send(frames)]]
    assert got[-1] is not None
    return got[-1][1:]


def equal(one: list[Any], two: list[Any]) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


@given(sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=5), chunk=st.sampled_from([64 * KIB, 8 * MIB]))
def test_arrays_of_every_size_arrive_private_and_writable(arena: Arena, sizes: list[int], chunk: int) -> None:
    value = [np.full(n, i + 1, np.uint8) for i, n in enumerate(sizes)]
    frames = to_frames(parcel(encode(value), arena), arena, "far", near=False)
    assert len(frames) in (1, 3, 4) and arena.stats().leases == 0
    got = from_frames(carried(frames, chunk), None)  # whoever gets it needs no arena
    del frames
    assert arena.stats().used == 0, "nothing is held for a peer that has its own copy"
    first, second = open_parcel(got), open_parcel(got)
    assert equal(value, first)
    for array in first:
        array[:] = 0
    assert equal(value, second)


def test_the_image_is_not_copied_to_be_sent(arena: Arena) -> None:
    kept = parcel(encode(np.zeros(MIB, np.uint8)), arena)
    *_, image = to_frames(kept, arena, "far", near=False)
    assert type(image) is memoryview and image.readonly and len(image) == MIB
    del kept
    assert arena.stats().used >= MIB, "the view keeps its block"
    del image
    assert arena.stats().used == 0


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("chunk", [64 * KIB, 8 * MIB])
def test_what_came_from_afar_is_sent_on(arena: Arena, near: bool, chunk: int) -> None:
    value = [np.arange(MIB, dtype=np.uint8), np.ones(5000)]
    once = from_frames(carried(to_frames(parcel(encode(value), arena), arena, "far", near=False), chunk), None, ("note",))
    assert isinstance(once.block, Image) and once.notes == ("note",)
    assert once.size >= MIB + 40_000
    frames = to_frames(once, arena, "next", near=near)
    assert len(frames) == 4 and arena.stats().leases == 0
    assert equal(value, open_parcel(from_frames(carried(frames, chunk), arena)))
    assert equal(value, open_parcel(from_frames(frames, arena)))


@pytest.mark.parametrize("far", [True, False])
def test_bytes_for_a_file_hold_what_lay_in_a_block(arena: Arena, far: bool) -> None:
    value = [np.arange(MIB, dtype=np.uint8), np.ones(700), np.full(MIB, 3, np.uint8)]
    kept = parcel(encode(value), arena)
    if far:
        kept = from_frames(carried(to_frames(kept, arena, "far", near=False), 64 * KIB), None)
    assert kept.block is not None
    assert equal(value, open_parcel(from_bytes(to_bytes(kept))))


def test_more_than_a_message_is_refused_at_the_sender() -> None:
    class Huge(Image):
        __slots__ = ()

        def __init__(self) -> None:
            super().__init__(b"")
            self.length = LIMITS.message_bytes

    with pytest.raises(ObjectTooLargeError, match="other machines"):
        to_frames(Parcel(b"", ((0, 4),), block=Huge()), None, "far", near=False)


def segments(grant: Any, *places: tuple[int, int]) -> bytes:
    made: bytes = msgpack.packb([grant, b"".join(np.array(p, "<i8").tobytes() for p in places)])
    return made


BODY = encode([1]).body


@pytest.mark.parametrize("frames", [
    pytest.param([segments(None, (0, 5)), BODY, b"", b"abcd"], id="beyond the image"),
    pytest.param([segments(None, (-1, 4)), BODY, b"abcd", b"image"], id="an image that nothing lies in"),
    pytest.param([segments(None, (3, 2**62)), BODY, b"", b"abcd"], id="a length of 4 EB"),
    pytest.param([segments(None, (0, 4)), BODY, b"x", b"abcd"], id="a byte is over"),
    pytest.param([segments(None, (0, 4)), BODY, b"", b"abcd", b""], id="five frames"),
    pytest.param([segments(["/proc/1/fd/1", 1, 0, 4, "/proc/1/fd/2", 1, 0], (0, 4)), BODY, b"", b"abcd"], id="a grant and an image"),
])
def test_images_that_do_not_agree_are_refused(frames: list[bytes], tmp_path: Path) -> None:
    with Arena(MIB, tmp_path) as reader, pytest.raises(ProtocolError):
        from_frames(frames, reader)
