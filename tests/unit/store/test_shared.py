"""The shared tier on real fsspec file systems: one in memory, one of files, and one that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from soma.errors import CacheError, CacheMissError
from soma.store import Cache, Made, combine, digest, shared
from soma.store.shared import Shared


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"memory://{tmp_path}/place" if request.param == "memory" else f"file://{tmp_path}/place"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def put(cache: Cache, name: str, value: Any) -> str:
    key = combine(name)
    cache.store(key, value, digest(value), Made("t", {"name": name}))
    return key


def listed(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).removeprefix("/") for path in files.find(root))


VALUE = {"a": np.arange(500_000.0), "b": [1, "x"]}


@pytest.mark.parametrize("disk", [True, False])
def test_what_one_machine_stores_another_finds(url: str, tmp_path: Path, disk: bool) -> None:
    here = Cache(memory_bytes=0, path=tmp_path / "here" if disk else None, url=url)
    there = Cache(memory_bytes=0, path=tmp_path / "there" if disk else None, url=url)
    assert there.find(combine("a")) is None
    key = put(here, "a", VALUE)
    hit = there.find(key)
    assert hit is not None and hit.tier == "shared" and hit.digest == digest(VALUE) and hit.made.parts == {"name": "a"}
    value = there.load(hit)
    assert digest(value) == digest(VALUE)
    value["a"][0] = 99
    again = there.find(key)
    assert again is not None and again.tier == ("disk" if disk else "shared")
    assert digest(there.load(again)) == digest(VALUE)
    assert [name.partition("/")[0] for name in listed(url)] == ["actions", "blobs", "format"]


def test_it_comes_into_memory_too(url: str) -> None:
    key = put(Cache(memory_bytes=0, path=None, url=url), "a", [1, 2])
    cache = Cache(memory_bytes=12345, path=None, url=url)
    hit = cache.find(key)
    assert hit is not None and hit.tier == "shared" and cache.load(hit) == [1, 2]
    again = cache.find(key)
    assert again is not None and again.tier == "memory"


def test_damage_over_there_is_a_miss_and_removed(url: str) -> None:
    cache = Cache(memory_bytes=0, path=None, url=url)
    key = put(cache, "a", VALUE)
    hit = cache.find(key)
    assert hit is not None
    files, root = fsspec.core.url_to_fs(url)
    path = f"{root}/blobs/{hit.digest[:2]}/{hit.digest}"
    whole = files.cat_file(path)
    for damaged in (whole[:-1], whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        files.pipe_file(path, damaged)
        with pytest.raises(CacheMissError):
            cache.load(hit)
        assert cache.find(key) is None and not files.exists(path)
        put(cache, "a", VALUE)
        assert digest(cache.load(hit)) == digest(VALUE)
    files.rm_file(path)
    with pytest.raises(CacheMissError, match="gone from"):
        cache.load(hit)


def test_damage_over_there_never_comes_to_the_disk(url: str, tmp_path: Path) -> None:
    key = put(Cache(memory_bytes=0, path=None, url=url), "a", VALUE)
    files, root = fsspec.core.url_to_fs(url)
    path = f"{root}/blobs/{digest(VALUE)[:2]}/{digest(VALUE)}"
    files.pipe_file(path, files.cat_file(path)[:-1])
    cache = Cache(memory_bytes=0, path=tmp_path / "here", url=url)
    hit = cache.find(key)
    assert hit is not None
    with pytest.raises(CacheMissError):
        cache.load(hit)
    assert list((tmp_path / "here" / "blobs").iterdir()) == []


def test_another_format_over_there_is_refused(url: str) -> None:
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(root, exist_ok=True)
    files.pipe_file(f"{root}/format", b"soma cache 7\n")
    with pytest.raises(CacheError, match=r"has the format .*soma cache 7.*; choose another URL"):
        Cache(memory_bytes=0, path=None, url=url).find(combine("a"))


class Broken(MemoryFileSystem):  # type: ignore[misc]
    """A place whose network is down."""

    protocol = "broken"
    asked = 0

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> Any:
        Broken.asked += 1
        raise ConnectionError("the network is unreachable")


@pytest.fixture
def broken() -> Iterator[str]:
    fsspec.register_implementation("broken", Broken, clobber=True)
    Broken.asked = 0
    yield "broken://place"
    Broken.clear_instance_cache()


def test_a_place_that_fails_is_told_once_and_is_no_error(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(shared.time, "monotonic", lambda: now)
    cache = Cache(memory_bytes=0, path=tmp_path / "here", url=broken)
    with pytest.warns(RuntimeWarning, match="the shared cache at broken://place fails, and is left out: ConnectionError: the network"):
        assert cache.find(combine("a")) is None
    key = put(cache, "a", VALUE)
    assert cache.find(combine("b")) is None and Broken.asked == 1
    hit = cache.find(key)
    assert hit is not None and hit.tier == "disk" and digest(cache.load(hit)) == digest(VALUE)
    now += shared.PAUSE + 1
    assert cache.find(combine("b")) is None and Broken.asked == 2  # asked again, and a second failure is not told


def test_urls_that_cannot_be_used_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CacheError, match="nothing://"):
        Shared("nothing://place")
    for name in [name for name in sys.modules if name.partition(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(CacheError, match=r'pip install "soma\[cloud\]"'):
        Shared("memory://place")
