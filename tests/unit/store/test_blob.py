"""A blob is read as it was written, or it is a miss: over every truncation and every flipped bit."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.errors import CacheError, CacheMissError, NotSerializableError
from soma.store import blob
from soma.transport import codec

NAME = "0123456789" * 4


def made(value: Any, name: str = NAME) -> bytes:
    return blob.to_bytes(name, blob.pack(value))


def value_in(data: bytes, name: str = NAME) -> Any:
    return blob.from_memory(memoryview(bytearray(data)), name)


small = st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=10)


@given(small, st.lists(st.integers(0, 20_000), max_size=4))
def test_values_come_back(value: Any, sizes: list[int]) -> None:
    arrays = [np.arange(size, dtype="u2") for size in sizes]
    back = value_in(made([value, arrays]))
    assert back[0] == value and type(back[0]) is type(value)
    assert all(one.tobytes() == two.tobytes() and two.flags.writeable for one, two in zip(arrays, back[1], strict=True))


@given(small, st.lists(st.integers(0, 20_000), max_size=4))
def test_the_size_is_known_before_it_is_written(value: Any, sizes: list[int]) -> None:
    packed = blob.pack([value, [np.ones(size, "u1") for size in sizes]])
    assert blob.size_of(packed) == len(blob.to_bytes(NAME, packed)) >= codec.size_of(packed)


SMALL = made({"a": [1.5, "text"], "b": (None, b"bytes")})
MIXED = made([np.arange(1000.0), "between", np.arange(2000, dtype="i4")])


def test_every_truncation_is_a_miss() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(CacheMissError):
            value_in(SMALL[:length])
    with pytest.raises(CacheMissError):
        value_in(SMALL + b"\0")


def test_every_flipped_bit_is_a_miss() -> None:
    for at in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[at] ^= 1 << bit
            with pytest.raises(CacheMissError):
                value_in(bytes(damaged))


@given(st.data())
def test_any_damage_to_a_blob_with_buffers_is_a_miss(data: st.DataObject) -> None:
    damaged = bytearray(MIXED)
    match data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "swap"])):
        case "flip":
            damaged[data.draw(st.integers(0, len(MIXED) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            at = data.draw(st.integers(0, len(MIXED) - 1))
            del damaged[at:at + data.draw(st.integers(1, 5000))]
        case "insert":
            at = data.draw(st.integers(0, len(MIXED)))
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=100))
        case "zero":
            at = data.draw(st.integers(0, len(MIXED) - 1))
            damaged[at:] = bytes(len(MIXED) - at)  # what a file system may leave after a loss of power
        case "swap":
            damaged = damaged[4096:] + damaged[:4096]
    if damaged != MIXED:
        with pytest.raises(CacheMissError):
            value_in(bytes(damaged))


@given(st.binary(max_size=300))
def test_anything_else_is_a_miss(data: bytes) -> None:
    for start in (b"", blob.MAGIC, SMALL[:60]):
        with pytest.raises(CacheMissError):
            value_in(start + data)


def test_a_blob_under_a_wrong_name_is_a_miss() -> None:
    with pytest.raises(CacheMissError, match=f"holds {NAME}"):
        value_in(SMALL, "f" * 40)


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob, "VERSION", 2)
    newer = made(1)
    monkeypatch.undo()
    with pytest.raises(CacheMissError, match="version 2, and this soma reads 1"):
        value_in(newer)


class Changed:
    """As a class that could be pickled and now asks for other arguments."""

    def __reduce__(self) -> Any:
        return int, ("x",)


def test_what_cannot_be_unpickled_here_is_a_miss() -> None:
    with pytest.raises(CacheMissError, match="cannot be unpickled here: ValueError"):
        value_in(made([Changed()]))


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(NotSerializableError, match=r"value\[0\]"):
        blob.pack([(x for x in ())])


def test_refs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ref:
        pass

    def reduce(ref: Ref, notes: list[object]) -> Any:  # as the reducers of refs and handles do
        notes.append(ref)
        return str, ()

    monkeypatch.setitem(codec._reducers, Ref, reduce)
    with pytest.raises(CacheError, match="1 refs or handles"):
        blob.pack([Ref()])


# -- files ---------------------------------------------------------------------------------------------------------------------


def stored(path: Path, value: Any) -> Path:
    with open(path, "wb") as file:
        for piece in blob.pieces(NAME, blob.pack(value)):
            file.write(piece)
    return path


def read(path: Path) -> Any:
    with open(path, "rb", buffering=0) as file:
        return blob.read(file, NAME)


@pytest.mark.parametrize("size", [10, 600_000, 3_000_000])
def test_what_is_read_is_private_and_writable_whether_mapped_or_not(tmp_path: Path, size: int) -> None:
    path = stored(tmp_path / "blob", {"a": np.arange(size, dtype="i4"), "f": np.asfortranarray(np.ones((size, 2), "i1"))})
    before = path.read_bytes()
    one, two = read(path), read(path)
    one["a"][:] = 7
    one["f"] += 1
    assert (two["a"] == np.arange(size)).all() and (two["f"] == 1).all() and two["f"].flags.f_contiguous
    assert path.read_bytes() == before


def test_what_is_mapped_outlives_its_file_and_keeps_no_descriptor(tmp_path: Path) -> None:
    path = stored(tmp_path / "blob", [np.full(500_000, n) for n in range(3)])
    open_before = len(os.listdir("/proc/self/fd"))
    parts = [read(path)[n] for n in range(3)]
    assert len(os.listdir("/proc/self/fd")) == open_before
    path.unlink()
    gc.collect()
    assert [int(part.sum()) for part in parts] == [0, 500_000, 1_000_000]


def test_a_damaged_file_is_a_miss_when_mapped_too(tmp_path: Path) -> None:
    path = stored(tmp_path / "blob", np.zeros(1_000_000))
    whole = path.read_bytes()
    for at in (0, 20, 50, 100, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CacheMissError):
            read(path)
        with open(path, "rb") as file, pytest.raises(CacheMissError):
            blob.check(file, NAME)
    path.write_bytes(whole)
    with open(path, "rb") as file:
        blob.check(file, NAME)


def test_buffers_lie_at_multiples_of_64(tmp_path: Path) -> None:
    path = stored(tmp_path / "blob", [np.ones(3_000_001, "u1"), np.ones(5001, "f8")])
    for part in read(path):
        assert part.ctypes.data % 64 == 0
