"""examples/pipeline.py as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import soma

pytest.importorskip("sklearn")
pytestmark = pytest.mark.torch


@pytest.mark.timeout(90)
def test_pipeline(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(Path(__file__).parents[2] / "examples" / "pipeline.py")], capture_output=True, text=True,
                          timeout=80, cwd=tmp_path, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    figures = re.findall(r"^(one process|two stages) +: loss ([\d.]+), test accuracy ([\d.]+), [\d.]+ s$", done.stdout, re.M)
    (_, loss, accuracy), (_, other_loss, other_accuracy) = figures
    assert float(other_loss) == pytest.approx(float(loss), abs=2e-3) and float(other_accuracy) == pytest.approx(float(accuracy), abs=0.01)
    assert float(accuracy) > 0.8
    assert "each stage held at once: (2, 1)" in done.stdout
