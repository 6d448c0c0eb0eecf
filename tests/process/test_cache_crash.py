"""Processes that are killed while they store, wait for each other, fill the disk, or are tidied up under: no entry is ever wrong,
none that was stored is lost, and what one makes no other makes again.

Values can be computed from their keys, so every entry is checked against what it should be.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import soma
from soma.errors import CacheMissError
from soma.store import Cache, combine, digest, maintenance

pytestmark = pytest.mark.crash

COMMON = """
import contextlib, os, random, select, signal, sys
import numpy as np
from soma.errors import CacheFullError, CacheMissError
from soma.store import Cache, Made, combine, digest, maintenance

def value_of(name):
    rng = np.random.default_rng(int(combine(name)[:8], 16))
    size = int(rng.choice([1, 100, 20_000, 300_000]))
    return {"name": name, "x": rng.integers(0, 100, size)}

def log(fd, said):
    os.write(fd, f"{said}\\n".encode())  # one write to a file that is appended to: whole, whoever else writes

def store(cache, name):
    value = value_of(name)
    cache.store(combine(name), value, digest(value), Made("t", {"name": name}))
"""
SPACE: dict[str, Any] = {}
exec(COMMON, SPACE)
value_of = SPACE["value_of"]

STORES = COMMON + """
path, log_path, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
fd = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
chance = random.Random(seed)
cache = Cache(path=path, memory_bytes=0)
for at in range(rounds):
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        for n in range(10**6):
            name = f"{at}.{n}" if n % 4 != 3 else f"shared {n % 16}"
            store(cache, name)
            log(fd, name)
            if n == 0:
                os.write(said, b"x")
    os.read(heard, 1)
    select.select([], [], [], chance.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard)
    os.close(said)
"""


def environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(Path(soma.__file__).parents[1]))


@contextlib.contextmanager
def started(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([sys.executable, "-W", "error", "-c", program, *map(str, arguments)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, env=environment())
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def finished(children: list[subprocess.Popen[str]]) -> list[str]:
    said = [child.communicate(timeout=25)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return said


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def check_all(path: Path) -> set[str]:
    """Every entry that can be found is right; gives their names."""
    cache = Cache(path=path, memory_bytes=0)
    names = set()
    for entry in maintenance.look(maintenance.existing(str(path))).entries:
        hit = cache.find(entry.key)
        assert hit is not None
        name = hit.made.parts["name"]
        value = cache.load(hit)
        assert entry.key == combine(name) and hit.digest == digest(value) == digest(value_of(name))
        names.add(name)
    return names


@pytest.mark.timeout(120)
def test_killed_at_any_moment_while_storing(tmp_path: Path) -> None:
    path, log = tmp_path / "cache", tmp_path / "log"
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    with started(STORES, path, log, 60, seed) as child:
        child.communicate(timeout=110)
        assert child.returncode == 0
    stored = set(lines(log))
    assert len(stored) >= 60  # one of each round at least
    assert check_all(path) >= stored, "what was stored is there"
    disk = maintenance.existing(str(path))
    found = maintenance.verify(disk, repair=False)
    assert found.sound
    left = maintenance.gc(disk)
    assert left.leftovers > 0, "no writer was hit while it wrote: then this test shows nothing"
    assert left.entries == 0
    assert os.listdir(path / "tmp") == os.listdir(path / "locks") == []
    assert check_all(path) >= stored


ONCE = COMMON + """
path, log_path, keys = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
cache = Cache(path=path)
print("ready", flush=True)
sys.stdin.readline()
for n in range(keys):
    name = f"value {n}"
    with cache.only_once(combine(name)):
        hit = cache.find(combine(name))
        if hit is None:
            log(fd, f"begins {name}")
            store(cache, name)
            log(fd, f"made {name}")
        else:
            assert cache.load(hit)["name"] == name
"""


def test_three_processes_make_each_value_once(tmp_path: Path) -> None:
    path, log = tmp_path / "cache", tmp_path / "log"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(started(ONCE, path, log, 40)) for _ in range(3)]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        finished(children)
    assert collections.Counter(lines(log)) == {f"{what} value {n}": 1 for what in ("begins", "made") for n in range(40)}
    assert check_all(path) == {f"value {n}" for n in range(40)}
    assert os.listdir(path / "locks") == []


DIES = COMMON + """
cache = Cache(path=sys.argv[1])
with cache.only_once(combine("k")):
    if os.fork() == 0:  # a helper of the user's own, which outlives it for a while
        print("inside", flush=True)
        os.close(1)
        sys.stdin.readline()
        os._exit(0)
    signal.pause()
"""
WAITS = COMMON + """
cache = Cache(path=sys.argv[1])
print("waits", flush=True)
try:
    with cache.only_once(combine("k")):
        print("inside", cache.find(combine("k")), flush=True)
except KeyboardInterrupt:
    print("interrupted", os.listdir(sys.argv[1] + "/locks") == [combine("k")], flush=True)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with started(DIES, tmp_path) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
        with started(WAITS, tmp_path) as waiter:
            assert waiter.stdout is not None and waiter.stdout.readline() == "waits\n"
            holder.kill()
            assert waiter.stdout.readline() == "inside None\n"
            assert waiter.wait(timeout=10) == 0
    assert os.listdir(tmp_path / "locks") == []


def is_waiting_for_a_lock(pid: int) -> bool:
    """Whether the kernel says that a process waits for one."""
    return any(f" {pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="/proc/locks says who waits")
def test_whoever_waits_can_be_interrupted(tmp_path: Path) -> None:
    used = Cache(path=tmp_path)
    with used.only_once(combine("k")), started(WAITS, tmp_path) as waiter:
        assert waiter.stdout is not None and waiter.stdout.readline() == "waits\n"
        while not is_waiting_for_a_lock(waiter.pid):
            os.sched_yield()
        waiter.send_signal(signal.SIGINT)
        assert waiter.stdout.readline() == "interrupted True\n"
        assert waiter.wait(timeout=10) == 0


FILLS = COMMON + """
from pathlib import Path

path = sys.argv[1] + "/cache"
cache = Cache(path=path, memory_bytes=0)
files = lambda: sorted(str(found) for found in Path(path).rglob("*") if found.is_file())

def fits(name, size):
    value = {"name": name, "x": np.full(size, len(name), "u1")}
    before = files()
    try:
        cache.store(combine(name), value, digest(value), Made("t", {"name": name}))
    except CacheFullError as error:
        assert "No space left on device" in str(error) and path in str(error), error
        assert files() == before, set(files()) - set(before)
        return False
    return True

assert fits("first", 1000)
assert not fits("larger than the disk", 10_000_000)
stored = ["first"]
for n in range(10_000):
    if not fits(f"value {n}", 100_000):
        break
    stored.append(f"value {n}")
else:
    raise AssertionError("it was never full")
while fits(f"small {len(stored)}", 10):
    stored.append(f"small {len(stored)}")
for name in stored:
    hit = cache.find(combine(name))
    assert hit is not None and cache.load(hit)["name"] == name
with cache.only_once(combine("value")):
    assert not fits("another", 10)
disk = maintenance.existing(path)
assert maintenance.verify(disk).sound
assert maintenance.gc(disk, max_bytes=500_000).entries > 0
assert fits("again", 100_000) and cache.load(cache.find(combine("again")))["name"] == "again"
assert maintenance.verify(disk).sound
print("well", len(stored))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    own = ["unshare", "-m", "sh", "-ec", 'mount -t tmpfs -o size=4m,mode=700 tmpfs "$0"; exec "$@"', str(tmp_path)]
    try:
        tried = subprocess.run([*own, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {tried.stderr.strip()}")
    command = [*own, sys.executable, "-W", "error", "-c", FILLS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.stdout.startswith("well"), done.stderr
    assert int(done.stdout.split()[1]) > 20
    assert list(tmp_path.iterdir()) == []


BUSY = COMMON + """
path, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
cache = Cache(path=path, memory_bytes=0)
seen = {"hit": 0, "miss": 0, "gone": 0}
for _ in range(150):
    name = f"value {chance.randrange(12)}"
    hit = cache.find(combine(name))
    if hit is None:
        seen["miss"] += 1
        store(cache, name)
        continue
    try:
        value = cache.load(hit)
    except CacheMissError:
        seen["gone"] += 1
        continue
    seen["hit"] += 1
    assert digest(value) == digest(value_of(name))
print(seen["hit"], seen["miss"], seen["gone"])
"""
TIDIES = COMMON + """
disk = maintenance.existing(sys.argv[1])
print("ready", flush=True)
freed = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    freed += maintenance.gc(disk, max_bytes=1_000_000).entries
    assert maintenance.verify(disk).sound
print(freed)
"""


def test_tidied_up_while_others_read_and_write(tmp_path: Path) -> None:
    Cache(path=tmp_path)
    with started(TIDIES, tmp_path) as tidies, contextlib.ExitStack() as stack:
        assert tidies.stdout is not None and tidies.stdout.readline() == "ready\n"
        said = finished([stack.enter_context(started(BUSY, tmp_path, seed)) for seed in range(3)])
        freed, _ = tidies.communicate("end\n", timeout=25)
        assert tidies.returncode == 0
    counts = [list(map(int, line.split())) for line in said]
    assert all(hits + misses + gone == 150 for hits, misses, gone in counts)
    assert sum(hits for hits, _, _ in counts) > 20 and int(freed) > 20, "both sides had something to do"
    assert maintenance.verify(maintenance.existing(str(tmp_path))).sound
    check_all(tmp_path)


def test_cleared_under_a_reader(tmp_path: Path) -> None:
    used = Cache(path=tmp_path, memory_bytes=0)
    SPACE["store"](used, "a")
    hit = used.find(combine("a"))
    assert hit is not None
    value = used.load(hit)
    maintenance.clear(maintenance.existing(str(tmp_path)))
    assert digest(value) == hit.digest, "what was loaded stays"
    with pytest.raises(CacheMissError, match="gone"):
        used.load(hit)
    assert used.find(combine("a")) is None
