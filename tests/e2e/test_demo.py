"""`soma demo` as a user runs it: a fresh process, from the first line to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import soma

pytest.importorskip("sklearn")

ROOT = Path(soma.__file__).parents[1]
FILTERS = ("standard_scaler", "logistic_regression", "k_neighbors_classifier", "vote")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"})


@pytest.mark.timeout(60)
def test_the_demo() -> None:
    done = run("-c", "from soma.cli import main; main()", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no terminal: no bar
    pids = {name: int(pid) for name, pid in re.findall(r"^  (\w+)[^\n]*?\s(\d+) *$", done.stdout, re.M)}
    assert set(pids) == {"driver", "daemon", *FILTERS}
    assert len(set(pids.values())) == len(pids)
    accuracy = re.search(r"^Test accuracy +([\d.]+) +450 digits never seen", done.stdout, re.M)
    assert accuracy and float(accuracy[1]) >= 0.95
    assert re.search(r"^Time +[\d.]+ s", done.stdout, re.M)
    assert [name for name in FILTERS if f"─ {name} " in done.stdout] == list(FILTERS)
    assert "Next:" in done.stdout.splitlines()[-1]


@pytest.mark.timeout(60)
def test_the_demo_with_a_progress_bar() -> None:
    done = run("-c", "from soma.cli import main; main()", "demo", "--progress")
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr and "3/3" not in done.stdout
