"""soma's training against torch, its DDP with gloo, NumPy and, where installed, Flower: `python -m benchmarks.training`.

Each round measures every system once, in processes of its own. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys

from benchmarks import training_peers
from benchmarks.rounds import Bench, Round, program
from benchmarks.training_figures import TRAINING


def round_of(bench: Bench) -> Round:
    return bench.measure


if __name__ == "__main__":
    sys.exit(program(TRAINING, "benchmarks.training_round", training_peers.NAMES, round_of, __doc__))
