"""soma's actors against raw ZeroMQ, multiprocessing and, where installed, Ray, Dask and xoscar: `python -m benchmarks.actors`.

Each round measures every system once, in a process of its own. Figures are medians over the rounds.
"""

from __future__ import annotations

import sys
import time

from benchmarks import peers, proc
from benchmarks.actor_figures import ACTORS
from benchmarks.rounds import Bench, Record, Round, lines_of, program

KILL_LIMIT = 30.0
"""Seconds that are watched after the driver's SIGKILL."""
KILL_AGAIN = 5.0
"""What took longer than this to disappear is not waited for in the further rounds."""


def kill_driver(bench: Bench, system: str, record: Record) -> None:
    with bench.process(system, "--until-killed") as (process, results, mark, scratch):
        deadline = time.monotonic() + 60
        while not (lines := lines_of(results)):
            if process.poll() is not None or time.monotonic() > deadline:
                record.add({"step": "driver_killed", "failed": "the driver did not start"})
                return
            time.sleep(0.02)
        if lines[0]["step"] != "ready":
            record.add(lines[0] | {"step": "driver_killed"})
            return
        try:
            seconds = proc.seconds_until_nothing_is_left(process, mark, scratch, KILL_LIMIT)
            record.add({"step": "driver_killed", "values": {"driver_killed": seconds}})
        except RuntimeError as left:
            record.add({"step": "driver_killed", "failed": str(left)})


def round_of(bench: Bench) -> Round:
    def measure(system: str, record: Record) -> None:
        bench.measure(system, record)
        if record.status == "absent" or "driver_killed" in record.skips:
            return
        slow = max(record.samples.get("driver_killed", [0.0])) > KILL_AGAIN
        if not slow and "driver_killed" not in record.failures:
            kill_driver(bench, system, record)

    return measure


if __name__ == "__main__":
    sys.exit(program(ACTORS, "benchmarks.one_round", peers.NAMES, round_of, __doc__))
