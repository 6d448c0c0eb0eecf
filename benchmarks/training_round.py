"""One system's training, one round, in this process and its ranks: `python -m benchmarks.training_round SYSTEM RESULTS [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import peer_round, training_peers, training_work
from benchmarks.training_figures import TRAINING

if __name__ == "__main__":
    sys.exit(peer_round.run(training_peers, training_work, TRAINING, __doc__))
