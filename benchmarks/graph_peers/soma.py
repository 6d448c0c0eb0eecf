"""soma's graphs: a process for each filter."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import soma
from benchmarks.graph_work import TWO_FLOATS, Scale, Values, cached_input, p50, same, speedup, spin

NOTE = "a process for each filter; sklearn's Pipeline runs in the caller's process, so its steps cost nothing to reach"


def chain(n: int, **options: Any) -> soma.Graph:
    graph = soma.Graph(**options)
    for i in range(n):
        graph.node(f"s{i}", soma.filter(same))
        if i:
            graph.connect(f"s{i - 1}", f"s{i}")
    return graph


def chains(scale: Scale) -> Values:
    found = {}
    for n in (1, 3, 10, 100):
        with chain(n) as graph:
            graph.pids()
            found[f"chain_{n}"] = p50(lambda graph=graph: graph.forward(TWO_FLOATS),  # type: ignore[misc]
                                      scale.long_calls if n == 100 else scale.calls) * 1e3
    return found


def raw(scale: Scale) -> Values:
    """Blocks of both, in turns: the raw round trip depends on where the kernel puts the processes, so both must see the same."""
    from benchmarks.peers.raw import Raw

    system = Raw()
    system.start()
    try:
        with chain(3) as graph:
            graph.pids()
            echoes, mine, floor = [system.actor() for _ in range(3)], [], []
            block = max(10, scale.calls // 8)

            def three() -> None:
                for echo in echoes:
                    system.get(system.method(echo, "ping")())

            for call in (three, lambda: graph.forward(TWO_FLOATS)):
                p50(call, block)
            for _ in range(8):
                for call, taken in ((lambda: graph.forward(TWO_FLOATS), mine), (three, floor)):
                    for _ in range(block):
                        begin = time.perf_counter()
                        call()
                        taken.append(time.perf_counter() - begin)
    finally:
        system.stop()
    return {"raw_3": median(floor) * 1e3, "ratio_3": median(mine) / median(floor)}


def events(scale: Scale) -> Values:
    """A chain of 100, with a subscriber and a recorded run, against the same without: call by call, in turns. What a recorded run costs
    once (its directory, manifest and plan) is spread over the nodes."""
    heard: list[Any] = []
    taken: dict[bool, list[float]] = {False: [], True: []}
    with chain(100) as graph:
        graph.pids()
        for i in range(4 * scale.long_calls):
            loud = i % 2 == 1
            stop = soma.on_event(heard.append) if loud else None
            begin = time.perf_counter()
            graph.forward(TWO_FLOATS, record=loud)
            taken[loud].append(time.perf_counter() - begin)
            if stop is not None:
                stop()
    assert len(heard) == 2 * scale.long_calls * (2 * 100 + 2)
    return {"event_us": max(0.0, (median(taken[True]) - median(taken[False])) / 100 * 1e6)}


def array(scale: Scale) -> Values:
    with chain(3) as graph:
        graph.pids()
        x = np.random.default_rng(0).normal(size=1_000_000)

        def call() -> None:
            x[0] += 1
            out = graph.forward(x)
            assert out[0] == x[0] and out[-1] == x[-1]

        return {"array_8": p50(call, scale.arrays) * 1e3}


def branches(scale: Scale) -> Values:
    n = scale.spin
    work = soma.filter(lambda x: spin(n)), soma.filter(lambda x: spin(n))
    with soma.Graph(soma.filter(same) >> work >> soma.filter(lambda x: sum(x.values()))) as graph:
        graph.pids()
        want = 2 * spin(n)

        def parallel() -> None:
            assert graph.forward(0) == want

        return speedup(parallel, lambda: (spin(n), spin(n)), scale.spins)


@soma.filter
class Scaler:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0), "scale": x.std(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return (x - state["mean"]) / state["scale"]


def cache(scale: Scale) -> Values:
    """Two scalers and a least-squares fit, as in sklearn's figure; a new graph each time."""
    from soma.store import digest

    x, where = cached_input(scale.cached_mb), tempfile.mkdtemp()
    y = x[:, 0].copy()

    @soma.filter
    class Line:
        def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
            return {"w": np.linalg.lstsq(x, y, rcond=None)[0]}

        def forward(self, x: Any, state: Any) -> Any:
            return x @ state["w"]

    def fit() -> float:
        with soma.Graph(Scaler() >> Scaler() >> Line(), cache="disk", cache_path=where, record=False) as graph:
            begin = time.perf_counter()
            graph.fit(x, y)
            return time.perf_counter() - begin

    try:
        cold, warm = fit(), sorted(fit() for _ in range(5))[2]
        begin = time.perf_counter()
        digest(x)
        return {"cold": cold, "warm": warm, "hash": x.nbytes / (time.perf_counter() - begin) / 1e9}
    finally:
        shutil.rmtree(where, ignore_errors=True)


def stream(scale: Scale) -> Values:
    """Chunks of 1 MB that are made as they are taken; the memory of the filters' processes is looked at while they work."""
    limit = 256 * 10**6
    first = soma.filter(lambda x: x * 2, memory=limit)
    second = soma.filter(lambda x: x.sum(axis=1), memory=limit)
    most = 0.0

    def run(mb: int) -> tuple[float, float]:
        nonlocal most
        chunk = np.ones((1000, 125))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        with soma.Graph(first >> second, record=False) as graph:
            total = 0.0
            for i, out in enumerate(graph.forward((chunk + i for i in range(mb)), stream=True)):
                total += out[0]
                if i % 100 == 50:
                    used = [a["memory_bytes"] for a in soma.status()["actors"] if a["class_name"] == "FilterActor"]
                    most = max(most, *used)
        assert total == 250 * sum(range(1, mb + 1))
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, mb / (time.perf_counter() - begin)

    run(50)
    short, _ = run(scale.stream_mb[0])
    long, rate = run(scale.stream_mb[1])
    return {"stream_short": short, "stream_long": short + long, "stream_rate": rate, "stream_actors": most / 1e6}


def compile(scale: Scale) -> Values:
    found = {}
    for n in (100, 1000, 10_000):
        expression: Any = soma.filter(same)
        made = 1
        while made < n:
            expression = expression >> (soma.filter(same) | soma.filter(same)) >> soma.filter(same)
            made += 3
        graph = soma.Graph(expression)
        begin = time.perf_counter()
        plan = graph.compile()
        found[f"compile_{n}"] = time.perf_counter() - begin
        assert len(plan.nodes) >= n
    return found


def start() -> None:
    os.environ.setdefault("SOMA_RUNS", str(Path(tempfile.mkdtemp()) / "runs"))
    soma.init(num_cpus=4, log_to_driver=False)


STEPS = {"chains": chains, "raw": raw, "events": events, "array": array, "branches": branches, "cache": cache, "stream": stream,
         "compile": compile}
stop = soma.shutdown
