"""What goes and what stays: the decision as a property, the deed on real directories."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.errors import CacheError
from soma.store import Cache, Made, combine, digest, maintenance
from soma.store.disk import Disk
from soma.store.maintenance import Contents, Entry, victims

DIGESTS = [f"d{n}" for n in range(6)]


@st.composite
def contents(draw: st.DrawFn) -> Contents:
    values = {digest: draw(st.integers(0, 100)) for digest in DIGESTS}
    named = st.sampled_from(DIGESTS[:4])
    rows = draw(st.lists(st.tuples(named, st.integers(0, 50), st.booleans()), max_size=10))
    entries = tuple(Entry(f"k{n}", d, values[d], "t", "", float(used), pinned) for n, (d, used, pinned) in enumerate(rows))
    return Contents(entries, values, tuple(draw(st.lists(st.sampled_from(["x1", "x2"]), unique=True))))


@given(contents(), st.none() | st.integers(-1, 500), st.none() | st.integers(0, 60))
def test_what_may_go(found: Contents, most: int | None, older: int | None) -> None:
    now = 55.0
    going = victims(found, now, most, older)
    stay = [entry for entry in found.entries if entry.key not in going.keys]
    gone = [entry for entry in found.entries if entry.key in going.keys]
    assert set(found.broken) <= going.keys
    assert not any(entry.pinned for entry in gone)
    assert going.digests == found.values.keys() - {entry.digest for entry in stay}, "exactly the values that nobody names any more"
    free = [entry for entry in stay if not entry.pinned]
    kept = sum(found.values[digest] for digest in {entry.digest for entry in stay})
    if most is not None and kept > most:
        assert not free, "all that may go went, and it was not enough"
    if older is not None:
        assert all(now - entry.used <= older for entry in free)
    for entry in gone:  # each for a reason: too old, or what stays with it and all that was used later was too much
        later = [other for other in found.entries if (other.used, other.key) >= (entry.used, entry.key) or other.pinned]
        size = sum(found.values[digest] for digest in {other.digest for other in later})
        assert (older is not None and now - entry.used > older) or (most is not None and size > most)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(str(tmp_path / "cache"))


def put(disk: Disk, name: str, value: Any, used: float | None = None) -> str:
    key = combine(name)
    Cache(memory_bytes=0, path=disk.path).store(key, value, digest(value), Made(f"title {name}", summary="a value"))
    if used is not None:
        os.utime(disk.record_path(key), (used, used))
    return key


def damage(disk: Disk, key: str) -> str:
    record = disk.find(key)
    assert record is not None
    path = Path(disk.blob_path(record.digest))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return record.digest


def keys(disk: Disk) -> set[str]:
    return {entry.key for entry in maintenance.look(disk).entries}


def test_a_look_says_what_is_there(disk: Disk) -> None:
    one, two, three = put(disk, "a", [1], 1000.0), put(disk, "b", [1]), put(disk, "c", np.arange(1000.0))
    maintenance.pin(disk, two[:6])
    found = maintenance.look(disk)
    assert {entry.key: (entry.title, entry.pinned) for entry in found.entries} == {
        one: ("title a", False), two: ("title b", True), three: ("title c", False)}
    assert len(found.values) == 2 and found.nbytes == sum(os.stat(disk.blob_path(digest)).st_size for digest in found.values)
    assert next(entry.used for entry in found.entries if entry.key == one) == 1000.0
    os.unlink(disk.blob_path(digest([1])))
    assert set(maintenance.look(disk).broken) == {one, two}


def test_gc_removes_what_was_used_longest_ago(disk: Disk) -> None:
    now = time.time()
    made = [put(disk, str(n), np.full(1000, n), now - 1000 + n) for n in range(10)]
    disk.find(made[0])  # used now
    maintenance.pin(disk, made[1])
    size = os.stat(disk.blob_path(digest(np.full(1000, 0)))).st_size
    freed = maintenance.gc(disk, max_bytes=4 * size)
    assert (freed.entries, freed.values, freed.nbytes) == (6, 6, 6 * size)
    assert keys(disk) == {made[0], made[1], made[8], made[9]}
    freed = maintenance.gc(disk, older_than=100)
    assert freed.entries == 2 and keys(disk) == {made[0], made[1]}
    assert maintenance.gc(disk) == maintenance.Freed()


def test_gc_removes_what_nobody_can_find(disk: Disk) -> None:
    put(disk, "a", 1)
    put(disk, "b", 2)
    os.unlink(disk.record_path(combine("a")))
    os.unlink(disk.blob_path(digest(2)))
    (Path(disk.path) / "tmp" / "left by a killed process").write_bytes(b"x")
    (Path(disk.path) / "locks" / combine("c")).touch()
    with disk.only_once(combine("d")):
        freed = maintenance.gc(disk)
        assert os.listdir(Path(disk.path) / "locks") == [combine("d")]
    assert (freed.entries, freed.values, freed.leftovers) == (1, 1, 2)
    assert maintenance.look(disk) == Contents((), {})
    assert os.listdir(Path(disk.path) / "tmp") == os.listdir(Path(disk.path) / "locks") == []


def test_verify_finds_damage_and_removes_it(disk: Disk) -> None:
    good, bad = put(disk, "good", np.arange(5000.0)), put(disk, "bad", np.arange(6000.0))
    torn, lost = put(disk, "torn", 3), put(disk, "lost", 4)
    assert maintenance.verify(disk).sound
    digest_of_bad = damage(disk, bad)
    Path(disk.record_path(torn)).write_bytes(b"{")
    os.unlink(disk.blob_path(digest(4)))
    for repair in (False, True):
        found = maintenance.verify(disk, repair)
        assert found.damaged == [digest_of_bad] and set(found.broken) == {bad, torn, lost} and found.values == 3 and not found.sound
    assert maintenance.verify(disk).sound
    assert keys(disk) == {good} and not os.path.exists(disk.blob_path(digest_of_bad))


def test_clear_keeps_what_is_pinned(disk: Disk) -> None:
    one, two = put(disk, "a", 1), put(disk, "b", 2)
    maintenance.pin(disk, one)
    assert maintenance.clear(disk).entries == 1
    assert keys(disk) == {one} and disk.last("title b") is None
    assert maintenance.clear(disk, all=True).entries == 1
    assert keys(disk) == set() and maintenance.pins(disk) == []
    assert two != one and put(disk, "b", 2) == two  # and it can be used as before


def test_pins_are_named_by_the_beginning_of_a_key(disk: Disk) -> None:
    made = sorted(put(disk, str(n), n) for n in range(40))
    for prefix in ("zz", "nothing"):
        with pytest.raises(CacheError, match=f"no entry has a key that begins with '{prefix}'; `soma cache stats` shows them"):
            maintenance.pin(disk, prefix)
    with pytest.raises(CacheError, match=r"40 begin with '' \(.*\): give more of the key"):
        maintenance.pin(disk, "")
    assert maintenance.pin(disk, made[3]) == made[3]
    assert maintenance.pin(disk, made[3].upper()) == made[3]
    with pytest.raises(CacheError, match="no pinned entry has a key"):
        maintenance.unpin(disk, made[4])
    assert maintenance.unpin(disk, made[3][:20]) == made[3]
    assert maintenance.pins(disk) == []


def test_a_cache_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=f"there is no cache at {tmp_path}/none"):
        maintenance.existing(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
