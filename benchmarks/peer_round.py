"""One round of one system, in this process: what `graph_round` and `training_round` have in common.

Appends one JSON line per step to the results as soon as it is known, so that a crash loses only what came after.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks import one_round, peers
from benchmarks.figures import Subject

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Packages that are distributed under another name."""


def run(systems: ModuleType, work: ModuleType, subject: Subject, description: str) -> int:
    """Measure the system that the command line names: `SYSTEM RESULTS [--quick]`.

    Args:
        systems: the package with a module for each system; says their NAMES and PACKAGES.
        work: says how often each thing is done: FULL, or QUICK.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("system", choices=systems.NAMES)
    parser.add_argument("results", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    package = systems.PACKAGES[arguments.system]
    if importlib.util.find_spec(package) is None:
        one_round.write(arguments.results, {"step": "absent"})
        return 0
    scale = work.QUICK if arguments.quick else work.FULL
    try:
        system = importlib.import_module(f"{systems.__name__}.{arguments.system}")
        version = peers.version(DISTRIBUTIONS.get(package, package))
        one_round.write(arguments.results, {"step": "about", "version": version, "note": system.NOTE,
                                            "skips": sorted(set(subject.step_of.values()) - set(system.STEPS))})
        system.start()
        for step, take in system.STEPS.items():
            one_round.attempt(arguments.results, step, partial(take, scale))
        system.stop()
    except Exception as error:  # the system itself does not start or stop: said in the results, then loudly
        one_round.write(arguments.results, {"step": "system", "failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
        raise
    return 0
