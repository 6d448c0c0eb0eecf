"""What is measured of graphs, and what soma promises about them."""

from __future__ import annotations

from benchmarks.figures import Figure, Medians, Promise, Subject, of

FIGURES: tuple[Figure, ...] = (
    Figure("chain_1", "two floats through 1 trivial step (p50)", "ms", charted=False),
    Figure("chain_3", "two floats through 3 steps, each in a process of its own (p50)", "ms"),
    Figure("chain_10", "two floats through 10 steps (p50)", "ms", charted=False),
    Figure("chain_100", "two floats through 100 steps (p50)", "ms"),
    Figure("raw_3", "three raw ZeroMQ round trips, in blocks that alternate with soma's three steps (p50)", "ms", charted=False),
    Figure("ratio_3", "three steps ÷ those three round trips", "×", charted=False),
    Figure("event_us", "events of a node: told to a subscriber and written to the run's directory", "µs", charted=False),
    Figure("array_8", "an array of 8 MB through 3 steps in 3 processes (p50)", "ms"),
    Figure("branches", "two CPU-bound branches, in parallel", "s"),
    Figure("speedup", "two CPU-bound branches: one after the other ÷ in parallel", "×", lower_is_better=False),
    Figure("cold", "fit of a cached graph, 100 MB input, first time", "s"),
    Figure("warm", "the same again: everything is in the cache", "s"),
    Figure("hash", "hashing of that input", "GB/s", lower_is_better=False, charted=False),
    Figure("stream_rate", "a stream through 2 steps, limited to 256 MB each", "MB/s", lower_is_better=False, charted=False),
    Figure("stream_short", "memory that a stream of 0.5 GB adds to the driver", "MB", charted=False),
    Figure("stream_long", "memory that a stream of 2 GB adds to the driver", "MB", charted=False),
    Figure("stream_actors", "most memory of a step's process meanwhile", "MB", charted=False),
    Figure("compile_100", "compiling 100 nodes", "s", charted=False),
    Figure("compile_1000", "compiling 1,000 nodes", "s", charted=False),
    Figure("compile_10000", "compiling 10,000 nodes", "s", charted=False),
)


def _growth(median: Medians) -> float | None:
    """What four times as many chunks add."""
    short, long = median("soma", "stream_short"), median("soma", "stream_long")
    return None if short is None or long is None else long - short


PROMISES: tuple[Promise, ...] = (
    Promise("two floats through three processes ÷ three raw round trips", True, 5, "×", of("ratio_3")),
    Promise("an array of 8 MB through three processes", True, 15, "ms", of("array_8")),
    Promise("two CPU-bound branches: one after the other ÷ in parallel", False, 1.7, "×", of("speedup")),
    Promise("warm fit of a graph with an input of 100 MB", True, 0.15, "s", of("warm")),
    Promise("hashing", False, 2, "GB/s", of("hash")),
    Promise("memory of the driver: a stream of 2 GB beyond one of 0.5 GB", True, 16, "MB", _growth),
    Promise("memory of a streaming step's process", True, 256, "MB", of("stream_actors")),
    Promise("events of a node", True, 50, "µs", of("event_us")),
    Promise("compiling 1,000 nodes", True, 0.3, "s", of("compile_1000")),
    Promise("compiling 10,000 nodes", True, 3, "s", of("compile_10000")),
)

GRAPHS = Subject(
    "graphs", "Graphs on one machine", FIGURES, PROMISES, (),
    {**dict.fromkeys(("chain_1", "chain_3", "chain_10", "chain_100"), "chains"), **dict.fromkeys(("raw_3", "ratio_3"), "raw"),
     "event_us": "events", "array_8": "array", **dict.fromkeys(("branches", "speedup"), "branches"),
     **dict.fromkeys(("cold", "warm", "hash"), "cache"),
     **dict.fromkeys(("stream_rate", "stream_short", "stream_long", "stream_actors"), "stream"),
     **dict.fromkeys(("compile_100", "compile_1000", "compile_10000"), "compile")})
