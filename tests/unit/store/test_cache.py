"""The cache as graphs use it: which tier gives what, what is shared between caches, and how one is asked for."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.config import MIB
from soma.errors import CacheFullError, CacheMissError
from soma.store import Cache, CacheSpec, Hit, Made, cache, combine, digest, folder

VALUE = {"x": np.arange(1000.0), "y": ["a", 1]}
DIGEST = digest(VALUE)
KEY = combine("key")
MADE = Made("app.Scale.fit@scale", {"code": "c0de", "x": "da7a"}, 12.5, 1000.0, "dict of 2", "run-1")


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Memory tiers live as long as the process: each test gets its own, and a default directory of its own."""
    monkeypatch.setattr(cache, "_memories", {})
    monkeypatch.setenv("SOMA_CACHE", str(tmp_path / "default"))
    yield


def tiers(tmp_path: Path) -> dict[str, Cache]:
    return {"memory": Cache(path=None), "disk": Cache(memory_bytes=0, path=tmp_path / "disk"), "tiered": Cache(path=tmp_path / "tiered")}


@pytest.mark.parametrize("kind", ["memory", "disk", "tiered"])
def test_what_is_stored_is_found(tmp_path: Path, kind: str) -> None:
    used = tiers(tmp_path)[kind]
    assert used.find(KEY) is None and used.last(MADE.title) is None
    stored = used.store(KEY, VALUE, DIGEST, MADE)
    assert stored == used.store(KEY, VALUE, DIGEST, MADE)
    hit = used.find(KEY)
    assert hit == dataclasses.replace(stored, tier="disk" if kind == "disk" else "memory")
    assert (stored.key, stored.digest, stored.made) == (KEY, DIGEST, MADE) and stored.nbytes > 8000
    assert stored.tier == ("memory" if kind == "memory" else "disk")
    for value in (used.load(hit), used.load(stored), used.load_value(DIGEST)):
        assert digest(value) == DIGEST
        value["x"][:] = 0
        value["y"].clear()
    assert used.last(MADE.title) == MADE


def test_keep_goes_to_memory_only(tmp_path: Path) -> None:
    used = Cache(path=tmp_path / "a")
    hit = used.keep(KEY, VALUE, DIGEST, MADE)
    assert hit.tier == "memory" and digest(used.load(hit)) == DIGEST and used.find(KEY) == hit
    used.forget_memory()
    assert used.find(KEY) is None
    with pytest.raises(CacheMissError):
        used.load(hit)


def test_what_memory_dropped_comes_from_the_disk(tmp_path: Path) -> None:
    used = Cache(path=tmp_path / "a")
    used.store(KEY, VALUE, DIGEST, MADE)
    hit = used.find(KEY)
    assert hit is not None and hit.tier == "memory"
    used.forget_memory()
    assert digest(used.load(hit)) == DIGEST
    again = used.find(KEY)
    assert again is not None and again.tier == "memory", "a load brings it back into memory"


def test_beside_a_disk_memory_keeps_what_is_small(tmp_path: Path) -> None:
    used = Cache(path=tmp_path / "a", memory_bytes=16 * MIB)
    for name, size, tier in [("small", 100_000, "memory"), ("large", 1_000_000, "disk")]:
        value = np.zeros(size)
        used.store(combine(name), value, digest(value), MADE)
        for _ in range(2):
            hit = used.find(combine(name))
            assert hit is not None and hit.tier == tier
            used.load(hit)
    alone = Cache(path=None, memory_bytes=16 * MIB)
    value = np.zeros(1_000_000)
    alone.store(combine("large"), value, digest(value), MADE)
    assert alone.find(combine("large")) is not None


def test_a_value_larger_than_memory_is_not_kept(tmp_path: Path) -> None:
    used = Cache(path=None, memory_bytes=MIB)
    value = np.zeros(MIB)
    hit = used.store(KEY, value, digest(value), MADE)
    assert used.find(KEY) is None and used.last(MADE.title) == MADE
    with pytest.raises(CacheMissError, match="not in memory any more"):
        used.load(hit)
    with pytest.raises(CacheMissError):
        used.load_value(hit.digest)


def test_caches_of_one_process_with_equal_specs_share_their_memory(tmp_path: Path) -> None:
    Cache(path=None).store(KEY, VALUE, DIGEST, MADE)
    assert Cache(path=None).find(KEY) is not None
    assert Cache(path=None, memory_bytes=MIB).find(KEY) is None
    assert Cache(path=tmp_path / "a").find(KEY) is None


def test_the_newest_of_a_title_from_whichever_tier(tmp_path: Path) -> None:
    used, other = Cache(path=tmp_path / "a"), Cache(path=tmp_path / "a", memory_bytes=0)
    used.store(KEY, VALUE, DIGEST, MADE)
    newer = dataclasses.replace(MADE, created=2000.0, parts={"code": "0ther"})
    other.store(combine("other"), VALUE, DIGEST, newer)  # as another process would
    assert used.last(MADE.title) == newer
    newest = dataclasses.replace(MADE, created=3000.0)
    used.keep(combine("third"), VALUE, DIGEST, newest)
    assert used.last(MADE.title) == newest


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    used = Cache(memory_bytes=0, path=tmp_path / "a")
    used.store(KEY, VALUE, DIGEST, MADE)
    path = tmp_path / "a" / "blobs" / DIGEST[:2] / DIGEST
    path.write_bytes(path.read_bytes()[:-1])
    hit = used.find(KEY)
    assert hit is not None
    with pytest.raises(CacheMissError):
        used.load(hit)
    assert used.find(KEY) is None
    used.store(KEY, VALUE, DIGEST, MADE)
    assert digest(used.load(hit)) == DIGEST


def test_only_once_without_a_disk_lets_everybody_in() -> None:
    used = Cache(path=None)
    with used.only_once(KEY), used.only_once(KEY):
        used.store(KEY, VALUE, DIGEST, MADE)
    assert used.find(KEY) is not None


def test_a_disk_that_is_full_while_something_comes_from_afar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/place"
    Cache(memory_bytes=0, path=None, url=url).store(KEY, VALUE, DIGEST, MADE)
    used = Cache(memory_bytes=0, path=tmp_path / "a", url=url)

    def full(*arguments: Any) -> Any:
        raise CacheFullError("no room in the cache")

    monkeypatch.setattr(folder.Draft, "__enter__", full)
    hit = used.find(KEY)
    assert hit is not None
    with pytest.warns(RuntimeWarning, match="no room in the cache"):
        assert digest(used.load(hit)) == DIGEST
    assert digest(used.load(hit)) == DIGEST  # told once


# -- how one is asked for ------------------------------------------------------------------------------------------------------


def test_words(tmp_path: Path) -> None:
    default = str(tmp_path / "default")
    assert Cache.of(None) is None
    assert [Cache.of(what).spec for what in ("memory", "disk", "tiered")] == [  # type: ignore[union-attr]
        CacheSpec(None, None, cache.MEMORY_BYTES), CacheSpec(default, None, 0), CacheSpec(default, None, cache.MEMORY_BYTES)]
    own = Cache(path=None)
    assert Cache.of(own) is own
    assert Cache.of("disk", tmp_path / "other").spec == CacheSpec(str(tmp_path / "other"), None, 0)  # type: ignore[union-attr]
    url = f"file://{tmp_path}/place"
    assert Cache.of("tiered", url).spec == CacheSpec(default, url, cache.MEMORY_BYTES)  # type: ignore[union-attr]
    assert Cache.of("disk", url).spec == CacheSpec(default, url, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["disc", True, 1, "", "Memory"])
def test_other_words_list_the_choices(what: Any) -> None:
    with pytest.raises(ValueError, match=r"None, 'memory', 'disk', 'tiered', or a soma.store.Cache") as caught:
        Cache.of(what)
    assert f"cache={what!r}" in str(caught.value)


@pytest.mark.parametrize("what", [None, "memory"])
def test_a_path_without_a_disk_is_a_mistake(what: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs cache='disk' or cache='tiered', not"):
        Cache.of(what, tmp_path)


def test_where_it_lies_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.default_path() == str(tmp_path / "default")
    monkeypatch.setenv("SOMA_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_path() == str(tmp_path / "mine")
    monkeypatch.delenv("SOMA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_path() == str(tmp_path / "xdg" / "soma")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_path() == str(tmp_path / ".cache" / "soma")


def test_a_relative_path_is_the_same_place_for_everybody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    used = Cache(path="mine", memory_bytes=0)
    assert used.spec.path == str(tmp_path / "mine")


OPENS = """
import pickle, sys
from soma.store import Cache, digest
spec, key, used = pickle.load(open(sys.argv[1], "rb"))
for cache in (Cache.open(spec), used):
    hit = cache.find(key)
    print(hit.tier, hit.digest == digest(cache.load(hit)), digest(cache.load_value(hit.digest)) == hit.digest)
"""


def test_another_process_opens_the_same(tmp_path: Path) -> None:
    used = Cache(path=tmp_path / "a")
    used.store(KEY, VALUE, DIGEST, MADE)
    file = tmp_path / "spec"
    file.write_bytes(pickle.dumps((used.spec, KEY, used)))
    environment = dict(os.environ, PYTHONPATH=str(Path(soma.__file__).parents[1]))
    command = [sys.executable, "-W", "error", "-c", OPENS, str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "disk True True\nmemory True True\n", "what was loaded is in the memory of its own process then"


def test_a_hit_travels() -> None:
    hit = Hit(KEY, DIGEST, 1, "disk", MADE)
    assert pickle.loads(pickle.dumps(hit)) == hit


def test_importing_it_loads_nothing_large() -> None:
    program = ("import sys\nimport soma.store\nfrom soma.store import maintenance\n"
               "print(sorted({'numpy', 'torch', 'fsspec', 'zmq', 'pandas', 'scipy'} & set(sys.modules)))")
    environment = dict(os.environ, PYTHONPATH=str(Path(soma.__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n"
