"""One system's cluster, one round, in this process: `python -m benchmarks.cluster_round SYSTEM RESULTS [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import cluster_peers, cluster_work, peer_round
from benchmarks.cluster_figures import CLUSTER

if __name__ == "__main__":
    sys.exit(peer_round.run(cluster_peers, cluster_work, CLUSTER, __doc__))
