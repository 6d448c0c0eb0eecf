"""soma's studies against optuna alone, Ray Tune, and joblib's loky, where installed: `python -m benchmarks.studies`.

Each round measures every system once, in a process of its own. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys

from benchmarks import study_peers
from benchmarks.rounds import Bench, Round, program
from benchmarks.study_figures import STUDIES


def round_of(bench: Bench) -> Round:
    return bench.measure


if __name__ == "__main__":
    sys.exit(program(STUDIES, "benchmarks.study_round", study_peers.NAMES, round_of, __doc__))
