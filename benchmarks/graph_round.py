"""One system's graphs, one round, in this process: `python -m benchmarks.graph_round SYSTEM RESULTS [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import graph_peers, graph_work, peer_round
from benchmarks.graph_figures import GRAPHS

if __name__ == "__main__":
    sys.exit(peer_round.run(graph_peers, graph_work, GRAPHS, __doc__))
