"""The example of a population, as a user runs it."""

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
def test_population(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(Path(__file__).parents[2] / "examples" / "population.py")], capture_output=True, text=True,
                          timeout=80, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    figures = dict(re.findall(r"^(population|random search): +validation [\d.]+, test ([\d.]+), width \d+,", done.stdout, re.M))
    assert float(figures["population"]) >= 0.94 and float(figures["random search"]) >= 0.94
    (rates,) = re.findall(r"its learning rate went (.*)$", done.stdout, re.M)
    assert len(set(rates.split(", "))) > 1 and all(1e-4 <= float(rate) <= 1 for rate in rates.split(", "))
