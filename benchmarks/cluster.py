"""soma over TCP with CURVE against raw ZeroMQ and, where installed, Ray and Dask: `python -m benchmarks.cluster`.

All nodes are processes of this machine that talk over loopback, each with a directory of its own, so that nothing goes by shared memory,
and on cores of its own, as machines have them: caller and head have the first half, the other nodes the second.
Each round measures every system once, in a process of its own. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys

from benchmarks import cluster_peers
from benchmarks.cluster_figures import CLUSTER
from benchmarks.rounds import Bench, Round, program


def round_of(bench: Bench) -> Round:
    return bench.measure


if __name__ == "__main__":
    sys.exit(program(CLUSTER, "benchmarks.cluster_round", cluster_peers.NAMES, round_of, __doc__))
