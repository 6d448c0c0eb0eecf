"""One system, one round, in this process: `python -m benchmarks.one_round SYSTEM RESULTS [--quick] [--until-killed]`.

Appends one JSON line per step to RESULTS as soon as it is known, so that a crash loses only what came after. With
`--until-killed` it starts the system with four actors, writes `ready` to RESULTS, and waits for its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import peers, steps

STEP_LIMIT = 90
"""Seconds; a step that takes longer is a failed one, so that a hang costs one figure and not all."""


def _too_long() -> None:
    raise RuntimeError(f"not done after {STEP_LIMIT} s")


def attempt(results: Path, step: str, take: Callable[[], steps.Values]) -> None:
    """A step that fails is a result too, and the next step is still tried."""
    signal.signal(signal.SIGALRM, lambda *_: _too_long())
    signal.alarm(STEP_LIMIT)
    begin = time.perf_counter()
    try:
        line: dict[str, object] = {"step": step, "values": take()}
    except Exception as error:  # a peer may fail in any way; the text is reported
        traceback.print_exc()
        line = {"step": step, "failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        signal.alarm(0)
        print(f"{step} took {time.perf_counter() - begin:.1f} s", flush=True)
    write(results, line)


def write(results: Path, line: dict[str, object]) -> None:
    with results.open("a") as out:
        out.write(json.dumps(line) + "\n")


def measure(name: str, results: Path, scale: steps.Scale) -> None:
    system = peers.load(name)
    version, skips = peers.version(system.package), sorted(system.skips)
    write(results, {"step": "about", "version": version, "note": system.note, "skips": skips})
    if "import" not in system.skips:
        attempt(results, "import", partial(steps.import_time, system.package))
    actor, started = steps.start(system)
    if "start" not in system.skips:
        write(results, {"step": "start", "values": started})
    for step, take in steps.STEPS.items():
        if step not in system.skips:
            attempt(results, step, partial(take, system, actor, scale))
    system.stop()


def until_killed(name: str, results: Path) -> None:
    system = peers.load(name)
    system.start()
    actors = [system.actor() for _ in range(4)]
    for actor in actors:
        system.call(actor, "ping")
    write(results, {"step": "ready"})
    signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=peers.NAMES)
    parser.add_argument("results", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until-killed", action="store_true")
    arguments = parser.parse_args()
    if importlib.util.find_spec(peers.PACKAGES[arguments.system]) is None:
        write(arguments.results, {"step": "absent"})
        return 0
    try:
        if arguments.until_killed:
            until_killed(arguments.system, arguments.results)
        else:
            measure(arguments.system, arguments.results, steps.QUICK if arguments.quick else steps.FULL)
    except Exception as error:  # the system itself does not start or stop: said in the results, then loudly
        write(arguments.results, {"step": "system", "failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
