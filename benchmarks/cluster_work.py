"""How each figure of a cluster is taken, the same for every system: its actor lives on another node than the caller.

Calls and values are measured by the same procedures as on one machine (`steps`).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from benchmarks import steps
from benchmarks.steps import Scale, Values
from benchmarks.system import System

FULL = Scale(repeats=((1, 30), (10, 15), (100, 5)))
QUICK = Scale(sync=400, block=100, pipelined=2000, repeats=((1, 5), (10, 3), (100, 2)))

Step = Callable[[Scale], Values]

_CORES = sorted(os.sched_getaffinity(0))
NEAR, FAR = _CORES[:(len(_CORES) + 1) // 2], _CORES[len(_CORES) // 2:]
"""The cores of the caller's node, and those of the others. Where two nodes share cores, how long a message takes depends on whether the
kernel keeps both ends on one of them, which no two machines do."""


@contextmanager
def on_the_far_node() -> Iterator[None]:
    """Processes that are started here run on another node's cores."""
    os.sched_setaffinity(0, FAR)
    try:
        yield
    finally:
        os.sched_setaffinity(0, NEAR)


class Measured:
    """A system with an actor on another node: `start`, `stop` and the steps that every system takes."""

    def __init__(self, system: System, **own: Step) -> None:
        self.system = system
        self._actor: Any = None
        taken: dict[str, Step] = {"call": self.call, "pipelined": partial(self.by, steps.pipelined_calls),
                                  "argument": partial(self.by, steps.arguments), "result": partial(self.by, steps.results)}
        self.steps = {name: take for name, take in {**taken, **own}.items() if name not in system.skips}

    def start(self) -> None:
        os.sched_setaffinity(0, NEAR)
        self.system.start()
        self._actor = self.system.actor()
        self.system.call(self._actor, "ping")

    def stop(self) -> None:
        self.system.stop()

    def by(self, step: Callable[[System, Any, Scale], Values], scale: Scale) -> Values:
        return step(self.system, self._actor, scale)

    def call(self, scale: Scale) -> Values:
        """p50. soma is measured in blocks that alternate with raw ZeroMQ, so that both see the same machine."""
        self.system.latencies(self._actor, scale.block)
        if self.system.name != "soma":
            return {"call": median(self.system.latencies(self._actor, scale.sync)) * 1e6}
        with encrypted() as (raw, echo):
            mine, floor = [], []
            raw.latencies(echo, scale.block)
            for _ in range(scale.sync // scale.block):
                mine += self.system.latencies(self._actor, scale.block)
                floor += raw.latencies(echo, scale.block)
        return {"call": median(mine) * 1e6, "raw_call": median(floor) * 1e6, "call_ratio": median(mine) / median(floor)}

    def beside_raw(self, scale: Scale) -> Values:
        """The largest size, this system and raw ZeroMQ taking turns."""
        size, times = scale.repeats[-1]
        once, values = replace(scale, repeats=((size, 1),)), {}
        with encrypted() as (raw, echo):
            for name, step in (("argument", steps.arguments), ("result", steps.results)):
                mine, floor = [], []
                for _ in range(times):
                    mine.append(step(self.system, self._actor, once)[f"{name}_{size}"])
                    floor.append(step(raw, echo, once)[f"{name}_{size}"])
                values[f"{name}_ratio"] = median(mine) / median(floor)
        return values


@contextmanager
def encrypted() -> Iterator[tuple[System, Any]]:
    """Raw ZeroMQ with an actor."""
    from benchmarks.cluster_peers.raw import Encrypted

    raw = Encrypted()
    raw.start()
    try:
        echo = raw.actor()
        raw.latencies(echo, 10)
        yield raw, echo
    finally:
        raw.stop()


def join_time(command: Sequence[str], env: dict[str, str], joined: Callable[[], bool], *, stays: bool) -> float:
    """Seconds from the start of a command until the cluster says that the node is there. `stays`: the command goes on; it is ended."""
    begin = time.perf_counter()
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        try:
            while not joined():
                if time.perf_counter() - begin > 30 or process.poll():
                    raise RuntimeError(f"no node after {time.perf_counter() - begin:.0f} s; the command's exit code is {process.poll()}")
                time.sleep(0.005)
            seconds = time.perf_counter() - begin
            if not stays:
                process.wait(30)
        finally:
            process.terminate()
    return seconds
