"""The tier on disk: what it refuses, that nothing is there in part, and locks that are nobody's when nobody holds them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soma.errors import CacheError, CacheFullError, CacheMissError
from soma.store import blob, combine, digest, folder, locks
from soma.store.disk import Disk
from soma.store.records import Made, Record, check_key
from soma.transport import codec


def put(disk: Disk, name: str, value: Any, title: str = "t") -> tuple[str, Record]:
    packed = blob.pack(value)
    key, record = combine(name), Record(digest(value), codec.size_of(packed), Made(title, {"name": name}, 1.5, 2.5, "a value", "run"))
    disk.store(key, record, packed)
    return key, record


def files(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(str(tmp_path / "cache"))


# -- the directory -------------------------------------------------------------------------------------------------------------


def test_all_of_it_is_private(disk: Disk) -> None:
    old = os.umask(0o777)  # which would take our own bits away
    try:
        put(Disk(disk.path), "a", np.arange(1000.0))
    finally:
        os.umask(old)
    for found in (Path(disk.path), *Path(disk.path).rglob("*")):
        assert stat.S_IMODE(found.stat().st_mode) == (0o700 if found.is_dir() else 0o600), found


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702, 0o720])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(CacheError, match=rf"others may write to the cache at {tmp_path} \(mode {mode:04o}\).*chmod go-w"):
        Disk(str(tmp_path))
    tmp_path.chmod(0o755)
    Disk(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(CacheError, match="belongs to user 12345, and this is user 0; choose another with cache_path="):
        Disk(str(tmp_path))


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(CacheError, match=r"is no cache, and holds 'thesis.tex'; choose another .* that is empty or does not exist"):
        Disk(str(tmp_path))
    assert [found.name for found in tmp_path.rglob("*")] == ["thesis.tex"]


def test_another_format_is_refused(disk: Disk) -> None:
    (Path(disk.path) / "format").write_text("soma cache 7\n")
    with pytest.raises(CacheError, match=r"has the format 'soma cache 7', and this soma reads 'soma cache 1'; .*or remove it"):
        Disk(disk.path)


def test_what_is_no_directory_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="File exists|no directory"):
        Disk(str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"cannot be used: .*; choose another"):
        Disk(str(tmp_path / "file" / "cache"))


def test_a_directory_half_made_by_a_killed_process_is_finished(tmp_path: Path) -> None:
    for part in ("tmp", "blobs"):
        (tmp_path / part).mkdir()
    disk = Disk(str(tmp_path))
    key, record = put(disk, "a", 1)
    assert disk.find(key) == record


# -- entries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, {"a": [1, "x"]}, b"x" * 3_000_000, np.arange(400_000.0), [np.arange(3), np.ones((700, 700))]])
def test_what_is_stored_is_found_and_loaded(disk: Disk, value: Any) -> None:
    key, record = put(disk, "a", value)
    other = Disk(disk.path)
    assert other.find(key) == record
    assert digest(other.load(record.digest)) == digest(value)
    assert other.find(combine("b")) is None
    assert files(Path(disk.path) / "tmp") == files(Path(disk.path) / "locks") == set()


def test_equal_values_are_kept_once(disk: Disk) -> None:
    (one, record), (two, again) = put(disk, "a", [1] * 100), put(disk, "b", [1] * 100)
    assert one != two and record.digest == again.digest
    path = Path(disk.blob_path(record.digest))
    before = path.stat()
    put(disk, "c", [1] * 100)
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns
    assert len(files(Path(disk.path) / "blobs")) == 1


def test_a_value_whose_file_is_cut_off_is_written_again(disk: Disk) -> None:
    key, record = put(disk, "a", [1] * 100)
    path = Path(disk.blob_path(record.digest))
    path.write_bytes(path.read_bytes()[:50])
    put(disk, "a", [1] * 100)
    assert disk.load(record.digest) == [1] * 100


def test_a_key_stands_for_what_was_stored_last(disk: Disk) -> None:
    put(disk, "a", 1)
    key, record = put(disk, "a", 2)
    assert disk.find(key) == record and disk.load(record.digest) == 2


def test_what_is_damaged_is_removed_and_can_be_stored_again(disk: Disk) -> None:
    key, record = put(disk, "a", list(range(1000)))
    path = Path(disk.blob_path(record.digest))
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CacheMissError, match="checksum"):
        disk.load(record.digest, key)
    assert not path.exists() and not Path(disk.record_path(key)).exists()
    assert disk.find(key) is None
    with pytest.raises(CacheMissError, match="gone"):
        disk.load(record.digest, key)
    put(disk, "a", list(range(1000)))
    assert disk.load(record.digest) == list(range(1000))


def test_a_damaged_record_is_none(disk: Disk) -> None:
    key, record = put(disk, "a", 1)
    path = Path(disk.record_path(key))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        assert disk.find(key) is None
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        assert disk.find(key) is None
    path.write_bytes(whole)
    assert disk.find(key) == record


def test_a_find_counts_as_a_use(disk: Disk) -> None:
    key, _ = put(disk, "a", 1)
    path = disk.record_path(key)
    os.utime(path, (1000, 1000))
    disk.find(key)
    assert os.stat(path).st_mtime > 1000
    os.utime(path, (1000, 1000))
    disk.touch(key)
    assert os.stat(path).st_mtime > 1000


def test_the_newest_of_a_title_is_known(disk: Disk) -> None:
    _, first = put(disk, "a", 1, "app.Scale.fit@scale")
    assert disk.last("app.Scale.fit@scale") == first.made
    _, second = put(disk, "b", 2, "app.Scale.fit@scale")
    put(disk, "c", 3, "another / title \ud800")
    assert disk.last("app.Scale.fit@scale") == second.made
    assert disk.last("another / title \ud800") is not None
    assert disk.last("none") is None


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "ABCDEF0123456789", "abc", "0" * 65, "0123456789/abcdef", None])
def test_only_keys_are_names_of_files(key: Any) -> None:
    with pytest.raises(ValueError, match="is no key"):
        check_key(key)


# -- a full disk ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_a_write_that_fails_leaves_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    """At each of the writes of a store in turn; what the system answers is stood in for, as a quota cannot be had here."""
    put(disk, "before", 1)
    before = files(Path(disk.path))
    real, seen = getattr(os, call), 0

    def fails(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        if call == "open" and not arguments[1] & os.O_EXCL:
            return real(*arguments, **options)
        seen += 1
        if seen == at:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    for at in range(1, 20):
        seen = 0
        monkeypatch.setattr(os, call, fails)
        try:
            put(disk, "a", np.arange(5000.0))
        except CacheError as error:
            assert isinstance(error, CacheFullError) is (code != errno.EROFS)
            assert disk.path in str(error)
            monkeypatch.undo()
            if call == "fsync" and at > 2:  # all is in place, and only the directories were not flushed
                assert disk.find(combine("a")) is not None
            else:
                assert files(Path(disk.path)) == before
        else:
            monkeypatch.undo()
            assert at > 2 and disk.find(combine("a")) is not None
            return
    raise AssertionError("it never went well")


# -- locks ---------------------------------------------------------------------------------------------------------------------


def test_one_at_a_time_and_nothing_is_left(tmp_path: Path) -> None:
    """Many short turns, so that files are removed while others wait for them."""
    path, inside, most, turns = str(tmp_path / "lock"), 0, 0, 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(200):
            with locks.alone(path):
                inside += 1
                most = max(most, inside)
                turns += 1
                os.sched_yield()
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns, inside) == (1, 1200, 0)
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    for take in (lambda: locks.alone(path), lambda: locks.locked(path), lambda: locks.locked(path, shared=True)):
        with pytest.raises(KeyError), take():
            raise KeyError
    assert locks.is_free(path)
    assert not os.path.exists(path)


def test_a_lock_that_is_held_is_not_free(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with locks.alone(path):
        assert not locks.is_free(path)
        assert os.path.exists(path)
    Path(path).touch()  # as a killed process leaves it
    assert locks.is_free(path)
    assert not os.path.exists(path)


def test_readers_of_the_gate_share_it_and_who_removes_waits(disk: Disk) -> None:
    removed = threading.Event()

    def remove() -> None:
        with disk.alone():
            removed.set()

    with disk.together(), disk.together():
        thread = threading.Thread(target=remove)
        thread.start()
        assert not removed.wait(0.05)
    thread.join()
    assert removed.is_set()


def test_a_child_forked_inside_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    here, there = os.pipe()
    with locks.alone(path):
        child = os.fork()
        if child == 0:
            os.read(here, 1)
            os._exit(0)
    taken = threading.Event()

    def take() -> None:
        with locks.alone(path):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert taken.wait(5)
    thread.join()
    os.write(there, b"x")
    os.waitpid(child, 0)
    os.close(here)
    os.close(there)


def test_no_room_for_a_lock_means_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    entered = False
    with locks.alone(str(tmp_path / "lock")):
        entered = True
    assert entered


def test_a_cache_that_was_removed_is_named(disk: Disk) -> None:
    key, record = put(disk, "a", 1)
    shutil.rmtree(disk.path)
    assert disk.find(key) is None and disk.last("t") is None
    with pytest.raises(CacheMissError):
        disk.load(record.digest)
    with pytest.raises(CacheError, match="was the cache removed"):
        put(disk, "a", 1)
    with pytest.raises(CacheError, match="was the cache removed"), disk.only_once(key):
        raise AssertionError("entered without a lock")


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(fd: int, operation: int) -> None:
        if operation != locks.fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuses)
    with pytest.raises(CacheError, match="No locks available; choose a cache_path on a local disk"), locks.alone(str(tmp_path / "lock")):
        raise AssertionError("entered without a lock")


def test_a_look_up_is_quick(disk: Disk) -> None:
    key, _ = put(disk, "a", {"x": np.arange(10)})
    best = 1.0
    for _ in range(200):
        began = time.perf_counter()
        disk.find(key)
        best = min(best, time.perf_counter() - began)
    assert best < 0.001  # 25 µs on the machine it was written on; a disk that is shared may take longer
    assert re.fullmatch("[0-9a-f]{40}", key) and folder.FORMAT.endswith(b"\n")
