"""soma's serving against Cog's server, LitServe and Ray Serve, where installed: `python -m benchmarks.serving`.

The load comes from wrk, on the same machine. Each round measures every system once. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys

from benchmarks import serving_peers
from benchmarks.rounds import Bench, Round, program
from benchmarks.serving_figures import SERVING


def round_of(bench: Bench) -> Round:
    return bench.measure


if __name__ == "__main__":
    sys.exit(program(SERVING, "benchmarks.serving_round", serving_peers.NAMES, round_of, __doc__))
