"""One system's training, one round, in this process and its ranks: `python -m benchmarks.training_round SYSTEM RESULTS [--quick]`.

Appends one JSON line per step to RESULTS as soon as it is known, so that a crash loses only what came after.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from functools import partial
from pathlib import Path

from benchmarks import one_round, peers, training_peers, training_work
from benchmarks.training_figures import TRAINING


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=training_peers.NAMES)
    parser.add_argument("results", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    package = training_peers.PACKAGES[arguments.system]
    if importlib.util.find_spec(package) is None:
        one_round.write(arguments.results, {"step": "absent"})
        return 0
    scale = training_work.QUICK if arguments.quick else training_work.FULL
    try:
        system = importlib.import_module(f"benchmarks.training_peers.{arguments.system}")
        one_round.write(arguments.results, {"step": "about", "version": peers.version(package), "note": system.NOTE,
                                            "skips": sorted(set(TRAINING.step_of.values()) - set(system.STEPS))})
        system.start()
        for step, take in system.STEPS.items():
            one_round.attempt(arguments.results, step, partial(take, scale))
        system.stop()
    except Exception as error:  # the system itself does not start or stop: said in the results, then loudly
        one_round.write(arguments.results, {"step": "system", "failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
