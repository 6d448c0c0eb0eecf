"""The cache of a graph whose driver is killed at random moments, or that two programs use at once: never a wrong value, never twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fleets import in_cluster, until

import soma
from soma.errors import CacheMissError
from soma.store.records import Record

pytestmark = pytest.mark.crash
ROOT = Path(soma.__file__).parents[1]
STAGES = 6
KILLS = 50 if os.environ.get("SOMA_TEST_PROFILE") == "nightly" else 12
"""Each takes most of a second."""

PROGRAM = '''
"""Six stages, each of which learns and says in a file that it does. Run as: stages.py CACHE LOG INPUT..."""
import os
import sys

import numpy as np

import soma

CACHE, LOG, INPUTS = sys.argv[1], sys.argv[2], [int(a) for a in sys.argv[3:]]


def note(text):
    with open(LOG, "a") as f:
        f.write(text + "\\n")


@soma.filter
class Stage:
    def __init__(self, number, log):
        self.number, self.log = number, log

    def fit(self, x, y=None):
        note(f"fit {self.number} {int(x[0, 0]) % 1_000_003}")
        return {"mean": x.mean(), "all": x * 2}

    def forward(self, x, state):
        note(f"forward {self.number} {int(x[0, 0]) % 1_000_003}")
        return x + state["all"] + self.number


def graph():
    g = soma.Graph(cache="disk", cache_path=CACHE, record=False)
    for i in range(STAGES):
        g.node(f"s{i}", Stage(i, LOG))
        if i:
            g.connect(f"s{i - 1}", f"s{i}")
    return g


with soma.init(num_cpus=2, log_to_driver=False):
    with graph() as g:
        print("ready", soma.status()["directory"], flush=True)
        for n in INPUTS:
            out = g.fit(np.full((200, 100), float(n))).forward(np.full((200, 100), float(n)))
            print(n, repr(float(out[3, 7])), bool((out == out[0, 0]).all()), flush=True)
'''.replace("STAGES", str(STAGES))


def expected(n: int) -> float:
    """What comes out, computed in another way: each stage triples and adds its number."""
    value = float(n)
    for i in range(STAGES):
        value = 3 * value + i
    return value


def start(program: Path, cache: Path, log: Path, *inputs: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(program), str(cache), str(log), *map(str, inputs)], stdout=subprocess.PIPE, text=True,
                            stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_for_the_rest(directory: str) -> None:
    """A driver's actors end a moment after it was killed, and may finish what they were storing."""
    until(lambda: not in_cluster(os.path.basename(directory)), 5)


def stored(cache: Path) -> Counter[str]:
    """How many records there are of each stage: "s3 fit" → 7."""
    found: Counter[str] = Counter()
    for record in (cache / "actions").glob("*/*"):
        if (made := Record.from_bytes(record.read_bytes())) is not None:
            found[made.made.title.rpartition("@")[2]] += 1
    return found


def computed(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(f"s{line.split()[1]} {line.split()[0]}" for line in lines)


@pytest.mark.timeout(180)
def test_a_driver_killed_at_random_moments(tmp_path: Path) -> None:
    """Each run has its own input. Whatever was stored when it died is not computed again; the rest is; and all values are right."""
    program, cache, log = tmp_path / "stages.py", tmp_path / "cache", tmp_path / "log"
    program.write_text(PROGRAM)
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    last = 0.0
    for n in range(KILLS):  # the first is left alone: it shows how long one takes on this machine, now
        run = start(program, cache, log, n)
        assert run.stdout is not None
        ready, directory = run.stdout.readline().split()
        assert ready == "ready"
        began = time.monotonic()
        delay = rng.uniform(0, 1.2 * last) if n else None
        try:
            run.wait(delay)
            last = time.monotonic() - began
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
        run.stdout.close()
        wait_for_the_rest(directory)
    kept, before = stored(cache), computed(log)
    assert sum(kept.values()) > KILLS and sum(before.values()) >= sum(kept.values())

    log.unlink()
    run = start(program, cache, log, *range(KILLS))
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    lines = [line.split() for line in out.splitlines()[1:]]
    assert [(int(n), float(v), whole) for n, v, whole in lines] == [(n, expected(n), "True") for n in range(KILLS)]
    again = computed(log)
    for stage in (f"s{i} {what}" for i in range(STAGES) for what in ("fit", "forward")):
        assert again[stage] == KILLS - kept[stage], stage


@pytest.mark.timeout(90)
def test_two_programs_compute_once(tmp_path: Path) -> None:
    program, cache, log = tmp_path / "stages.py", tmp_path / "cache", tmp_path / "log"
    program.write_text(PROGRAM)
    inputs = range(8)
    runs = [start(program, cache, log, *inputs) for _ in range(2)]
    outs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outs[0].splitlines()[1:] == outs[1].splitlines()[1:]
    assert computed(log) == Counter({f"s{i} {what}": len(inputs) for i in range(STAGES) for what in ("fit", "forward")})


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    """Bytes that flip on the disk are found by their checksum, in the driver and in the actors; no run sees them."""
    import numpy as np

    @soma.filter
    class Grow:
        def fit(self, x: Any, y: Any = None) -> Any:
            return {"w": np.arange(5000.0)}

        def forward(self, x: Any, state: Any) -> Any:
            return x + state["w"]

    def graph() -> soma.Graph:
        return soma.Graph(Grow() >> Grow() >> Grow(), cache="disk", cache_path=tmp_path / "c")

    x = np.zeros(5000)
    with soma.init(num_cpus=2):
        with graph() as g:
            want = g.fit(x).forward(x)
        rng = random.Random(0)
        for _ in range(12):
            blobs = sorted((tmp_path / "c" / "blobs").glob("*/*"))
            victim = rng.choice(blobs)
            data = bytearray(victim.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            os.chmod(victim, 0o600)
            victim.write_bytes(data)
            with graph() as g:
                np.testing.assert_array_equal(g.fit(x).forward(x), want)
                try:
                    got = g.forward(x + 1)
                except CacheMissError as e:  # a state was only seen to be there, and is needed now
                    assert "had learnt was in the cache" in str(e)
                    got = g.fit(x).forward(x + 1)
                np.testing.assert_array_equal(got, want + 1)
