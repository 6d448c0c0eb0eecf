"""soma's graphs against scikit-learn's Pipeline, joblib and, where installed, Ray and Dask: `python -m benchmarks.graphs`.

Each round measures every system once, in a process of its own. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys

from benchmarks import graph_peers
from benchmarks.graph_figures import GRAPHS
from benchmarks.rounds import Bench, Round, program


def round_of(bench: Bench) -> Round:
    return bench.measure


if __name__ == "__main__":
    sys.exit(program(GRAPHS, "benchmarks.graph_round", graph_peers.NAMES, round_of, __doc__))
