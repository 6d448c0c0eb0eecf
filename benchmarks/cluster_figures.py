"""What is measured of a cluster over several machines, and what soma promises about it."""

from __future__ import annotations

from benchmarks.figures import Figure, Promise, Subject, against, of

SIZES = (1, 10, 100)

FIGURES: tuple[Figure, ...] = (
    Figure("call", "synchronous call to an actor on another node (p50)", "µs"),
    Figure("raw_call", "raw encrypted round trip in blocks that alternate with those calls (p50)", "µs", charted=False),
    Figure("call_ratio", "synchronous call ÷ that raw round trip", "×", charted=False),
    Figure("pipelined", "pipelined calls to it", "calls/s", lower_is_better=False),
    *(Figure(f"argument_{mb}", f"argument of {mb} MB", "GB/s", lower_is_better=False) for mb in SIZES),
    *(Figure(f"result_{mb}", f"result of {mb} MB", "GB/s", lower_is_better=False) for mb in SIZES),
    Figure("join", "command that joins a node, until the cluster has it", "s"),
    Figure("beats_cpu", "CPU of the head that hears 1,000 nodes, once a second each", "% of a core", charted=False),
    Figure("beat_p99", "those heartbeats, sent to answered (p99)", "ms", charted=False),
    Figure("place", "placing 10,000 tasks on 1,000 nodes", "ms", charted=False),
)

PROMISES: tuple[Promise, ...] = (
    Promise("synchronous call ÷ raw encrypted round trip", True, 2, "×", of("call_ratio")),
    Promise("synchronous call ÷ Ray's, which is not encrypted", True, 0.5, "×", against("call", "ray")),
    Promise("argument of 100 MB ÷ raw encrypted", False, 0.7, "×", against("argument_100", "raw")),
    Promise("result of 100 MB ÷ raw encrypted", False, 0.7, "×", against("result_100", "raw")),
    Promise("joining a node", True, 2, "s", of("join")),
    Promise("CPU of the head with 1,000 nodes", True, 50, "% of a core", of("beats_cpu")),
    Promise("placing 10,000 tasks", True, 1000, "ms", of("place")),
)

CLUSTER = Subject(
    "cluster", "A cluster over TCP (loopback)", FIGURES, PROMISES, (),
    {**dict.fromkeys((f"argument_{mb}" for mb in SIZES), "argument"), **dict.fromkeys((f"result_{mb}" for mb in SIZES), "result"),
     **dict.fromkeys(("call", "raw_call", "call_ratio"), "call"), **dict.fromkeys(("beats_cpu", "beat_p99"), "beats"),
     "pipelined": "pipelined", "join": "join", "place": "place"},
    {"raw": "pyzmq, CURVE", "plain": "pyzmq, plain", "ray": "ray, plain", "dask": "dask, TLS"})

COLOURS = {"plain": "#b9b9b9"}
"""Beside those of `chart`."""
