"""Parcels: what goes out comes in, through shared memory and without; what does not agree is refused."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.config import KIB, LIMITS, MIB
from soma.errors import ObjectTooLargeError, ProtocolError, SomaError
from soma.transport.arena import Arena
from soma.transport.codec import Packed, encode
from soma.transport.values import Parcel, from_bytes, from_frames, open_parcel, parcel, to_bytes, to_frames

SIZES = [0, 1, 1000, 4 * KIB, 8 * KIB, LIMITS.inline_bytes - 1, LIMITS.inline_bytes, MIB]


@pytest.fixture(scope="module")
def arenas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Arena, Arena]]:
    """A sender's and a reader's."""
    directory = tmp_path_factory.mktemp("arena")
    with Arena(32 * MIB, directory) as sender, Arena(MIB, directory) as reader:
        kept = parcel(encode(np.zeros(MIB)), sender)  # segments are made at first use: not in the middle of a test
        from_frames(to_frames(kept, sender, "reader"), reader)
        del kept
        yield sender, reader


def sent(value: Any, sender: Arena | None, reader: Arena | None) -> Any:
    return open_parcel(from_frames(to_frames(parcel(encode(value), sender), sender, "reader"), reader))


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two)) and one.dtype == two.dtype and one.shape == two.shape
    return type(one) is type(two) and all(map(same, one, two)) if isinstance(one, list) else bool(one == two)


@given(sizes=st.lists(st.sampled_from(SIZES), max_size=6), shared=st.booleans())
def test_arrays_of_every_size_arrive_private_and_writable(arenas: tuple[Arena, Arena], sizes: list[int], shared: bool) -> None:
    sender, reader = arenas
    value = [np.full(n, i, np.uint8) for i, n in enumerate(sizes)]
    got = sent(value, sender if shared else None, reader)
    assert same(value, got)
    for i in range(len(got)):
        got[i][:] = 255
    assert same(value, [np.full(n, i, np.uint8) for i, n in enumerate(sizes)])
    del got
    assert sender.stats().leases == 0
    assert sender.stats().used == 0


@pytest.mark.parametrize("room", [True, False])
def test_thousands_of_small_arrays_are_three_frames(arenas: tuple[Arena, Arena], room: bool) -> None:
    sender, reader = arenas
    value = [np.full(8 * KIB, i % 256, np.uint8) for i in range(1500)]
    frames = to_frames(parcel(encode(value), sender if room else None), sender, "reader")
    assert len(frames) == 3
    assert (len(frames[2]) > 0) is not room
    assert same(value, open_parcel(from_frames(frames, reader)))


def test_a_full_arena_falls_back_to_frames(tmp_path: Path) -> None:
    with Arena(MIB, tmp_path) as small:
        value = np.arange(MIB, dtype=np.uint16)
        kept = parcel(encode(value), small)
        assert kept.block is None
        assert same(value, open_parcel(from_frames(to_frames(kept, small, "reader"), small)))


def test_aliases_stay_one(arenas: tuple[Arena, Arena]) -> None:
    array = np.zeros(MIB)
    one, two = sent([array, array], *arenas)
    assert one is two


def test_a_parcel_opens_many_times_to_private_values(arenas: tuple[Arena, Arena]) -> None:
    kept = parcel(encode([np.zeros(MIB, np.uint8), np.zeros(9000, np.uint8)]), arenas[0])
    first, second = open_parcel(kept), open_parcel(kept)
    first[0][:] = first[1][:] = 1
    assert not second[0].any() and not second[1].any()


def test_bytes_for_a_file_come_back() -> None:
    value = {"a": np.arange(5000.0), "b": "text", "c": [np.zeros(0), np.ones(3000)]}
    got = open_parcel(from_bytes(to_bytes(parcel(encode(value), None))))
    assert same(value["a"], got["a"]) and same(value["c"], got["c"]) and got["b"] == "text"


def places(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<qq", *p) for p in pairs)


def segments(grant: Any, raw: Any) -> bytes:
    made: bytes = msgpack.packb([grant, raw])
    return made


BODY = encode([1]).body


@pytest.mark.parametrize("frames", [
    pytest.param([], id="nothing"),
    pytest.param([segments(None, places((-1, 4))), BODY], id="two frames"),
    pytest.param([segments(None, places((-1, 4))), BODY, b"abcd", b""], id="four frames"),
    pytest.param([segments(None, places((-1, 5))), BODY, b"abcd"], id="a byte is missing"),
    pytest.param([segments(None, places((-1, 3))), BODY, b"abcd"], id="a byte is over"),
    pytest.param([segments(None, places((-1, -4), (-1, 8))), BODY, b"abcd"], id="negative length"),
    pytest.param([segments(None, places((-1, 2**62), (-1, 2**62))), BODY, b""], id="a length of 4 EB"),
    pytest.param([segments(None, places((-2, 4))), BODY, b"abcd"], id="negative offset"),
    pytest.param([segments(None, places((0, 4))), BODY, b""], id="in a block that was not granted"),
    pytest.param([segments(None, b""), BODY, b""], id="no places"),
    pytest.param([segments(None, b"x" * 15), BODY, b""], id="half a place"),
    pytest.param([segments(None, "x" * 16), BODY, b""], id="places as text"),
    pytest.param([segments(None, [[0, 4]]), BODY, b""], id="places as arrays"),
    pytest.param([msgpack.packb([None]), BODY, b""], id="one segment entry"),
    pytest.param([msgpack.packb(7), BODY, b""], id="a number"),
    pytest.param([b"", BODY, b""], id="empty"),
    pytest.param([b"\x92\xc0", BODY, b""], id="truncated"),
    pytest.param([b"\x80\x04N.", BODY, b""], id="a pickle"),
    pytest.param([segments(7, places((0, 4))), BODY, b""], id="a grant that is none"),
    pytest.param([segments([1, 2, 3], places((0, 4))), BODY, b""], id="a grant of three"),
    pytest.param([segments(["/proc/1/mem", 1, 0, 4, "/etc/passwd", 1, 0], places((0, 4))), BODY, b""], id="a grant of other files"),
    pytest.param([b"\x92" + b"\xdd\x00\xff\xff\xff" * 10_000, BODY, b""], id="claims of millions"),
    pytest.param([b"\x91" * 1_000_000, BODY, b""], id="nested a million deep"),
    pytest.param([b"\x92\xdc\xff\xff" + b"\x80" * 0xffff, BODY, b""], id="maps"),
])
def test_frames_that_do_not_agree_are_refused(frames: list[bytes], arenas: tuple[Arena, Arena]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            from_frames(frames, arenas[1])
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@given(offset=st.integers(-(2**63), 2**63 - 1), length=st.integers(-(2**63), 2**63 - 1))
def test_places_outside_of_the_block_are_refused(arenas: tuple[Arena, Arena], offset: int, length: int) -> None:
    sender, reader = arenas
    kept = parcel(encode(np.zeros(MIB, np.uint8)), sender)
    kept.places = ((offset, length),)
    frames = to_frames(kept, sender, "reader")
    if 0 <= offset <= offset + length <= MIB:
        assert from_frames(frames, reader).places == kept.places
    else:
        with pytest.raises(ProtocolError):
            from_frames(frames, reader)
    assert sender.stats().leases <= 1  # what is refused after it was opened is given back
    sender.revoke("reader")


@given(noise=st.lists(st.binary(max_size=60), max_size=4))
def test_noise_is_refused_or_a_value_of_bytes(arenas: tuple[Arena, Arena], noise: list[bytes]) -> None:
    try:
        got = from_frames(noise, arenas[1])
    except SomaError:
        return
    assert len(noise) == 1 or sum(n for offset, n in got.places if offset == -1) == len(noise[2])


def test_more_refs_than_a_header_names_are_refused() -> None:
    with pytest.raises(ObjectTooLargeError, match="1001 refs"):
        parcel(Packed(b"", notes=tuple(range(1001))), None)


def test_sizes_are_of_what_is_kept(arenas: tuple[Arena, Arena]) -> None:
    assert parcel(encode(np.zeros(MIB, np.uint8)), arenas[0]).size >= MIB
    assert parcel(encode(np.zeros(9000, np.uint8)), None).size >= 9000
    assert Parcel(b"abc").size == 3
