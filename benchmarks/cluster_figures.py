"""What is measured of a cluster over several machines, and what soma promises about it."""

from __future__ import annotations

from benchmarks.figures import Figure, Promise, Subject, of

SIZES = (1, 10, 100)

FIGURES: tuple[Figure, ...] = (
    Figure("call", "synchronous call to an actor on another node (p50)", "µs"),
    Figure("raw_call", "raw encrypted round trip in blocks that alternate with those calls (p50)", "µs", charted=False),
    Figure("call_ratio", "synchronous call ÷ that raw round trip", "×", charted=False),
    Figure("pipelined", "pipelined calls to it", "calls/s", lower_is_better=False),
    Figure("argument_ratio", "argument of 100 MB ÷ raw encrypted, which takes turns with it", "×", lower_is_better=False, charted=False),
    Figure("result_ratio", "result of 100 MB ÷ raw encrypted, which takes turns with it", "×", lower_is_better=False, charted=False),
    *(Figure(f"argument_{mb}", f"argument of {mb} MB", "GB/s", lower_is_better=False) for mb in SIZES),
    *(Figure(f"result_{mb}", f"result of {mb} MB", "GB/s", lower_is_better=False) for mb in SIZES),
    Figure("join", "command that joins a node, until the cluster has it", "s"),
    Figure("beats_cpu", "CPU of the head that hears 1,000 nodes, once a second each", "% of a core", charted=False),
    Figure("beat_p99", "those heartbeats, sent to answered (p99)", "ms", charted=False),
    Figure("place", "tasks placed on 1,000 nodes", "placements/s", lower_is_better=False, charted=False),
)

PROMISES: tuple[Promise, ...] = (
    Promise("synchronous call ÷ raw encrypted round trip", True, 2, "×", of("call_ratio")),
    Promise("argument of 100 MB ÷ raw encrypted", False, 0.6, "×", of("argument_ratio")),
    Promise("result of 100 MB ÷ raw encrypted", False, 0.6, "×", of("result_ratio")),
    Promise("joining a node", True, 1, "s", of("join")),
    Promise("tasks placed on 1,000 nodes", False, 20_000, "placements/s", of("place")),
)

CLUSTER = Subject(
    "cluster", "A cluster over TCP (loopback)", FIGURES, PROMISES, (),
    {**dict.fromkeys((f"argument_{mb}" for mb in SIZES), "argument"), **dict.fromkeys((f"result_{mb}" for mb in SIZES), "result"),
     **dict.fromkeys(("call", "raw_call", "call_ratio"), "call"), **dict.fromkeys(("argument_ratio", "result_ratio"), "object"),
     **dict.fromkeys(("beats_cpu", "beat_p99"), "beats"),
     "pipelined": "pipelined", "join": "join", "place": "place"},
    {"raw": "pyzmq, CURVE", "plain": "pyzmq, plain", "ray": "ray, plain", "dask": "dask, TLS"})
