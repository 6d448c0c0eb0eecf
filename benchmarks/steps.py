"""How each figure is taken: the same procedure for every system, on the verbs of `system.System`.

A step returns `{figure key: value}` in the units of `figures.FIGURES`. What is warm is warmed first; what is measured
often in one round is its median. Every array is checked on arrival, so a system cannot be fast by being wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.system import System

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """How often each thing is done in one round."""

    sync: int = 2000
    block: int = 500
    pipelined: int = 10_000
    each_caller: int = 1000
    further: int = 20
    waiting: int = 100
    repeats: tuple[tuple[int, int], ...] = ((1, 30), (10, 15), (100, 5))
    """(MB, times)"""


FULL = Scale()
QUICK = Scale(sync=400, block=100, pipelined=2000, each_caller=300, further=5, repeats=((1, 5), (10, 3), (100, 2)))


def import_time(package: str) -> Values:
    """In an interpreter of its own that has imported nothing else."""
    code = (f"import sys, time; t = time.perf_counter(); import {package}; t = time.perf_counter() - t; "
            "print(t, len({'torch', 'sklearn'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    seconds, heavy = out.split()[-2:]
    return {"import": float(seconds) * 1e3, "heavy_imports": float(heavy)}


def start(system: System) -> tuple[Any, Values]:
    """From `init` to the first answer; returns the actor that gave it."""
    begin = time.perf_counter()
    system.start()
    ready = time.perf_counter()
    actor = system.actor()
    system.call(actor, "ping")
    end = time.perf_counter()
    return actor, {"init": end - begin, "first_actor": (end - ready) * 1e3}


def further_actors(system: System, first: Any, scale: Scale) -> Values:
    """One after the other, 20 or what can be made in 4 s; then the memory of these idle processes and of the helpers.

    Helpers are all processes of the system that are neither the driver nor an actor's.
    """
    from benchmarks import proc  # not at the top: psutil would be missing from a system's own `init`

    taken: list[float] = []
    actors: list[Any] = []
    while len(actors) < scale.further and sum(taken) < 4:
        begin = time.perf_counter()
        actor = system.actor()
        system.call(actor, "ping")
        taken.append(time.perf_counter() - begin)
        actors.append(actor)
    pids = {system.call(a, "pid") for a in actors}
    memory = median(proc.pss(p) for p in pids)
    if os.getpid() in pids:
        raise AssertionError("an actor runs in the driver's process")
    busy = pids | {system.call(first, "pid"), os.getpid()}
    helpers = sum(proc.pss(p.pid) for p in proc.family(os.getpid(), proc.my_mark()) if p.pid not in busy)
    for actor in actors:
        system.release(actor)
    return {"further_actor": median(taken) * 1e3, "actor_pss": memory, "helpers_pss": helpers}


def sync_calls(system: System, actor: Any, scale: Scale) -> Values:
    """p50. soma is measured in blocks that alternate with raw ZeroMQ, so that both see the same machine."""
    system.latencies(actor, scale.block)
    if system.name != "soma":
        return {"sync": median(system.latencies(actor, scale.sync)) * 1e6}
    from benchmarks.peers.raw import Raw

    raw = Raw()
    raw.start()
    try:
        echo, mine, floor = raw.actor(), [], []
        raw.latencies(echo, scale.block)
        for _ in range(scale.sync // scale.block):
            mine += system.latencies(actor, scale.block)
            floor += raw.latencies(echo, scale.block)
    finally:
        raw.stop()
    return {"sync": median(mine) * 1e6, "raw_sync": median(floor) * 1e6, "sync_ratio": median(mine) / median(floor)}


def pipelined_calls(system: System, actor: Any, scale: Scale) -> Values:
    """10,000 calls; a slow system makes as many as it does in about 4 s, so that five rounds stay bearable."""
    rate = scale.pipelined // 10 / system.burst(actor, scale.pipelined // 10)
    calls = min(scale.pipelined, int(4 * rate))
    return {"pipelined": calls / system.burst(actor, calls)}


def four_by_four(system: System, first: Any, scale: Scale) -> Values:
    """Four actors each spread their calls over four others; the clock is the driver's."""
    targets, callers = ([system.actor() for _ in range(4)] for _ in range(2))
    drives = [system.method(c, "drive") for c in callers]
    system.gather([drive(targets, scale.each_caller // 10) for drive in drives])
    begin = time.perf_counter()
    system.gather([drive(targets, scale.each_caller) for drive in drives])
    seconds = time.perf_counter() - begin
    for actor in targets + callers:
        system.release(actor)
    return {"four": 4 * scale.each_caller / seconds}


def wait_for_all(system: System, actor: Any, scale: Scale) -> Values:
    ping, taken = system.method(actor, "ping"), []
    for _ in range(4):
        begin = time.perf_counter()
        system.wait([ping() for _ in range(1000)])
        taken.append(time.perf_counter() - begin)
    return {"wait": median(taken[1:]) * 1e3}


def arguments(system: System, actor: Any, scale: Scale) -> Values:
    """One float64 array, changed before each call: every call has to send it again. The first two calls warm up."""
    import numpy as np

    take, values = system.method(actor, "take"), {}
    for size, times in scale.repeats:
        x, taken = np.ones(size * 10**6 // 8), []
        for i in range(times + 2):
            x[0] = i
            begin = time.perf_counter()
            answer = system.get(take(x))
            taken.append(time.perf_counter() - begin)
            if answer != i + 1 + x.nbytes:
                raise AssertionError(f"the actor received another array: {answer}")
        values[f"argument_{size}"] = x.nbytes / median(taken[2:]) / 1e9
    return values


def results(system: System, actor: Any, scale: Scale) -> Values:
    """The array the actor holds; the caller reads both ends and drops it before the next call."""
    give, values = system.method(actor, "give"), {}
    for size, times in scale.repeats:
        system.call(actor, "hold", size * 10**6)
        taken = []
        for i in range(times + 2):
            begin = time.perf_counter()
            x = system.get(give(float(i)))
            ends = x[0] + x[-1]
            taken.append(time.perf_counter() - begin)
            if ends != i + 1 or x.nbytes != size * 10**6:
                raise AssertionError(f"another array came back: {ends}, {x.nbytes} bytes")
            del x
        values[f"result_{size}"] = size * 10**6 / median(taken[2:]) / 1e9
    return values


def death(system: System, first: Any, scale: Scale) -> Values:
    """SIGKILL to an actor's process until each of the calls that wait for it has its error."""
    actor = system.actor()
    pid, nap = system.call(actor, "pid"), system.method(actor, "nap")
    refs = [nap(60.0) for _ in range(scale.waiting)]
    time.sleep(0.3)  # time for all calls to reach the actor: no system tells when a call has arrived
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    for settled, ref in enumerate(refs):
        try:
            system.get(ref, timeout=max(0.1, begin + 15 - time.perf_counter()))
        except TimeoutError:
            raise AssertionError(f"after 15 s only {settled} of {len(refs)} calls had their error") from None
        except Exception:  # each system has its own error for a death; that one came is all that is asked here
            continue
        raise AssertionError("a call to a killed actor returned")
    return {"death": (time.perf_counter() - begin) * 1e3}


STEPS: dict[str, Callable[[System, Any, Scale], Values]] = {
    "further": further_actors,
    "sync": sync_calls,
    "pipelined": pipelined_calls,
    "wait": wait_for_all,
    "four": four_by_four,
    "argument": arguments,
    "result": results,
    "death": death,
}
"""In this order: memory is measured before large values have passed, death comes last."""
