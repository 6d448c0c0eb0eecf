"""soma: a head and two nodes on this machine, made by the commands that users type, each with directories of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import soma
from benchmarks import cluster_head
from benchmarks.cluster_work import Measured, join_time, on_the_far_node
from benchmarks.peers.soma import Actor
from benchmarks.peers.soma import Soma as OneMachine
from benchmarks.steps import Scale, Values
from soma.actors.admission import ClusterQueue, Pools, Where

NOTE = "CURVE between all; three processes of a cluster (head, two nodes) beside the driver"
TOKEN = re.compile(r"soma1\.[\w-]+\.[\w-]+")
PLACES = {"XDG_RUNTIME_DIR": "r", "XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": "s"}
COMMAND = [sys.executable, "-c", "from soma.cli import main; main()"]


def environment(machine: str) -> dict[str, str]:
    """As if it were another machine: another runtime directory, so nothing goes by shared memory, and other keys."""
    own = {key: Path(os.environ["TMPDIR"]) / f"{machine}-{part}" for key, part in PLACES.items()}
    for folder in own.values():
        folder.mkdir(mode=0o700, exist_ok=True)
    return {**os.environ, **{key: str(folder) for key, folder in own.items()}}


class Soma(OneMachine):
    def start(self) -> None:
        said = command("head", "start", "--head", "--bind", "tcp://127.0.0.1:0", "--num-cpus", "2")
        token, address = TOKEN.search(said), re.search(r"tcp://127\.0\.0\.1:\d+", said)
        if token is None or address is None:
            raise RuntimeError(f"soma start does not say how to join: {said}")
        self.token, self.address = token[0], address[0]
        command("far", *self.join_far("far"))
        os.environ["XDG_CONFIG_HOME"] = environment("head")["XDG_CONFIG_HOME"]  # the driver is the head's user, and needs no token
        soma.init(self.address)
        self._remote = soma.remote(Actor).options(tags=("far",))

    def join_far(self, tag: str) -> tuple[str, ...]:
        return "join", self.address, "--token", self.token, "--host", "127.0.0.1", "--num-cpus", "2", "--tags", tag

    def stop(self) -> None:
        soma.shutdown()
        for machine in ("far", "joins", "head"):
            command(machine, "stop")


def command(machine: str, *arguments: str) -> str:
    """A command on that machine, and what it printed."""
    with nullcontext() if machine == "head" else on_the_far_node():
        done = subprocess.run([*COMMAND, *arguments], env=environment(machine), capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"soma {arguments[0]} on {machine}: {done.stdout}{done.stderr}")
    return done.stdout


def join(scale: Scale) -> Values:
    before = len(soma.nodes())
    return {"join": join_time([*COMMAND, *SYSTEM.join_far("joins")], environment("joins"), lambda: len(soma.nodes()) > before, stays=False)}


def beats(scale: Scale) -> Values:
    return cluster_head.measure(nodes=1000 if scale.sync >= 1000 else 200, seconds=10.0 if scale.sync >= 1000 else 3.0)


def place(scale: Scale) -> Values:
    """10,000 tasks of one CPU on 1,000 nodes of four: added, admitted in waves, given back."""
    tasks, pools, queue = scale.pipelined, Pools(), ClusterQueue()
    for n in range(1000):
        pools.add_node(f"n{n}", {"CPU": 4.0, "memory": 2.0**34})
    begin, placed = time.perf_counter(), 0
    for n in range(tasks):
        queue.add(f"t{n}", {"CPU": 1.0}, Where(strategy="SPREAD"))
    while len(queue):
        admitted = queue.admit(pools)
        placed += len(admitted)
        for holder, _ in admitted:
            pools.release(holder)
    seconds = time.perf_counter() - begin
    if placed != tasks:
        raise AssertionError(f"{placed} of {tasks} tasks were placed")
    return {"place": tasks / seconds}


SYSTEM: Any = Soma()
MEASURED = Measured(SYSTEM, join=join, beats=beats, place=place)
MEASURED.steps["object"] = MEASURED.beside_raw
STEPS, start, stop = MEASURED.steps, MEASURED.start, MEASURED.stop
