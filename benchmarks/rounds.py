"""Rounds: each measures every system once, each in a process of its own that is started for it, so none disturbs another and a crash is a
result. The order rotates from round to round; figures are medians over the rounds."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import proc, report
from benchmarks.figures import Subject

ROUND_LIMIT = 300.0
"""Seconds after which a system's round is ended and reported as failed."""


@dataclass(slots=True)
class Record:
    """What is known of one system after some rounds."""

    status: str = "measured"
    version: str = ""
    note: str = ""
    skips: list[str] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    """Step → text of each failure: a median of the rounds that went well must not hide the others."""

    def add(self, line: dict[str, object]) -> None:
        match line:
            case {"step": "about", "version": str(version), "note": str(note), "skips": list(skips)}:
                self.version, self.note, self.skips = version, note, skips
            case {"step": "absent"}:
                self.status = "absent"
            case {"step": str(step), "failed": str(text)}:
                self.failures.setdefault(step, []).append(text)
            case {"values": dict(values)}:
                for key, value in values.items():
                    self.samples.setdefault(key, []).append(float(value))


@dataclass(frozen=True, slots=True)
class Bench:
    """How the measured processes are started: `python -m MODULE SYSTEM RESULTS …`."""

    module: str
    quick: bool
    python: str
    logs: Path

    @contextmanager
    def process(self, system: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Path, str, Path]]:
        """A process that measures `system`: (process, its results, its mark, its scratch); nothing of it stays."""
        mark, scratch = secrets.token_hex(8), Path(tempfile.mkdtemp(prefix="b"))
        results = scratch / "results"
        results.touch()
        arguments = [self.module, system, str(results), *flags, *(["--quick"] if self.quick else [])]
        with (self.logs / f"{system}.log").open("a") as log:
            process = proc.spawn(arguments, mark, scratch, self.python, log)
            try:
                yield process, results, mark, scratch
            finally:
                proc.end(proc.family(process.pid, mark))
                process.kill()
                process.wait()
                shutil.rmtree(scratch, ignore_errors=True)

    def measure(self, system: str, record: Record) -> None:
        with self.process(system) as (process, results, _, _):
            try:
                code = process.wait(ROUND_LIMIT)
                ended = f"its process ended with {code}"
            except subprocess.TimeoutExpired:
                code, ended = 1, f"not done after {ROUND_LIMIT:.0f} s"
            lines = lines_of(results)
        for line in lines:
            record.add(line)
        if code and not any("failed" in line for line in lines):
            record.add({"step": "system", "failed": ended})


def lines_of(results: Path) -> list[dict[str, object]]:
    """Whole lines only: the last one may be being written."""
    return [json.loads(line) for line in results.read_text().splitlines(keepends=True) if line.endswith("\n")]


Round = Callable[[str, Record], None]
"""Measures a system once more."""


def run(systems: Sequence[str], rounds: int, measure: Round) -> dict[str, Record]:
    systems, records = list(systems), {system: Record() for system in systems}
    for number in range(rounds):
        turn = number % len(systems)
        for system in systems[turn:] + systems[:turn]:
            record = records[system]
            if record.status == "absent":
                continue
            begin = time.monotonic()
            measure(system, record)
            said = "absent" if record.status == "absent" else f"{time.monotonic() - begin:.1f} s"
            print(f"round {number + 1}/{rounds}: {system} {said}", file=sys.stderr, flush=True)
    return records


def program(subject: Subject, module: str, names: Sequence[str], measure: Callable[[Bench], Round], doc: str | None) -> int:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{subject.name}", description=doc)
    parser.add_argument("--rounds", type=int, help="default 5, or 1 with --quick")
    parser.add_argument("--only", default=",".join(names), help="comma-separated: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="few calls, one round: to see that it works, not to quote")
    parser.add_argument("--python", default=sys.executable, help="interpreter that measures, default this one")
    parser.add_argument("--readme", type=Path, help="write the tables between this file's bench markers")
    arguments = parser.parse_args()
    systems = [name for name in arguments.only.split(",") if name]
    if unknown := set(systems) - set(names):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    rounds = arguments.rounds if arguments.rounds is not None else 1 if arguments.quick else 5
    if rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    logs = Path(tempfile.mkdtemp(prefix="bench-logs-"))
    records = run(systems, rounds, measure(Bench(module, arguments.quick, arguments.python, logs)))
    found = report.summary(subject, records, rounds, arguments.quick)
    report.write(subject, found, arguments.out, arguments.readme)
    print(f"what the systems printed: {logs}", file=sys.stderr)
    return 0
