"""The federated example, as a user runs it: a fresh process, real data, from the first line to the last."""

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


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_federated(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "federated.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=80, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    out = done.stdout
    assert [int(n) for n in re.findall(r"(\d+) patients,", out)] == [56, 168, 140, 27, 35]
    rows = re.findall(r"^(FedAvg|FedProx|all patients).* accuracy ([\d.]+), test loss", out, re.M)
    figures = {name: float(right) for name, right in rows}
    assert len(figures) == 3 and min(figures.values()) > 0.93
    assert figures["FedAvg"] > figures["all patients"] - 0.03 and figures["FedProx"] > figures["all patients"] - 0.03
    alone = [float(right) for right in re.findall(r"(?:north|south|east|west|island) ([\d.]+)", out.rpartition("alone:")[2])]
    assert len(alone) == 5 and min(alone) < 0.9 < figures["FedAvg"], "together they know more than the one that sees one kind only"
