"""One system's studies, one round, in this process: `python -m benchmarks.study_round SYSTEM RESULTS [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import peer_round, study_peers, study_work
from benchmarks.study_figures import STUDIES

if __name__ == "__main__":
    sys.exit(peer_round.run(study_peers, study_work, STUDIES, __doc__))
