"""Two victims of SIGKILL at once, of node agent, head, actor and driver: who waits hears of it, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleets import Fleet, gone, made, until

import soma
from soma.errors import ActorDiedError, ClusterLostError

pytestmark = pytest.mark.crash

PATIENCE = 2.0
"""Seconds that nodes live without their head."""

OTHER = """
import os, sys, time, soma
soma.init(sys.argv[1])
@soma.remote
class A:
    def pid(self):
        return os.getpid()
made = [A.options(tags=(t,)).remote() for t in ("one", "two")]
print(*soma.get([a.pid.remote() for a in made]), flush=True)
time.sleep(60)
"""


@soma.remote
class Actor:
    def pid(self) -> int:
        return os.getpid()

    def nap(self, path: str) -> str:
        Path(path).touch()
        signal.pause()
        return "never"


PAIRS = [("node", "driver"), ("node", "head"), *(pytest.param(pair, marks=pytest.mark.slow) for pair in (
    ("head", "actor"), ("node", "actor"), ("head", "driver"), ("actor", "driver")))]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with made(tmp_path, patience=PATIENCE) as fleet:
        yield fleet


@pytest.mark.parametrize("victims", PAIRS, ids="-".join)
def test_two_are_killed(fleet: Fleet, victims: tuple[str, str], tmp_path: Path) -> None:
    """The node is "two"; the actor is one on "one"; the driver is another program, with an actor on both."""
    with soma.init(fleet.address):
        mine = {name: Actor.options(tags=(name,)).remote() for name in ("one", "two")}
        pids = {name: soma.get(actor.pid.remote(), timeout=15) for name, actor in mine.items()}
        refs = {name: actor.nap.remote(str(tmp_path / name)) for name, actor in mine.items()}
        until(lambda: all((tmp_path / name).exists() for name in mine))
        with subprocess.Popen([sys.executable, "-c", OTHER, fleet.address], stdout=subprocess.PIPE, text=True) as other:
            try:
                assert other.stdout is not None
                theirs = [int(text) for text in other.stdout.readline().split()]
                assert len(theirs) == 2
                who = {"node": fleet.nodes["two"], "head": fleet.head, "actor": pids["one"], "driver": other.pid}
                for victim in victims:
                    os.kill(who[victim], signal.SIGKILL)
                check(victims, refs, pids, theirs)
            finally:
                other.kill()
    if "head" in victims:  # nobody tells the nodes: they leave by themselves
        until(lambda: gone(fleet.nodes["one"]) and gone(fleet.nodes["two"]), PATIENCE + 8)
    until(lambda: all(map(gone, (*pids.values(), *theirs))), 5)


def check(victims: tuple[str, str], refs: dict[str, soma.ObjectRef[str]], pids: dict[str, int], theirs: list[int]) -> None:
    """What the surviving program sees. `refs` are calls that run on "one" and "two"."""
    lost = {"one": "actor" in victims, "two": "node" in victims}
    for name, ref in refs.items():
        if "head" in victims:
            with pytest.raises((ActorDiedError, ClusterLostError)):
                soma.get(ref, timeout=10)
        elif lost[name]:
            with pytest.raises(ActorDiedError) as died:
                soma.get(ref, timeout=10)
            assert died.value.reason == ("signal" if name == "one" else "node") and died.value.executed == "maybe"
        else:
            assert not soma.wait([ref], timeout=0)[0] and not gone(pids[name])
    if "driver" in victims and "head" not in victims:
        until(lambda: all(map(gone, theirs)), 5)
