"""One system's serving, one round, in this process: `python -m benchmarks.serving_round SYSTEM RESULTS [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import peer_round, serving_peers, serving_work
from benchmarks.serving_figures import SERVING

if __name__ == "__main__":
    sys.exit(peer_round.run(serving_peers, serving_work, SERVING, __doc__))
