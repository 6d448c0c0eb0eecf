"""Which seeds are played: 500 from 0 on, or as the environment says.

`SOMA_TEST_SEEDS=50000` plays so many; `SOMA_TEST_SEED=17` plays that one alone (with `-k one_seed`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test modules import the world by its bare name

SEEDS = int(os.environ.get("SOMA_TEST_SEEDS", "500"))
BUNCH = 50
"""Seeds in one test."""


def pytest_report_header(config: pytest.Config) -> str:
    return f"soma: {SEEDS} simulated histories"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        bunches = [range(first, min(first + BUNCH, SEEDS)) for first in range(0, SEEDS, BUNCH)]
        metafunc.parametrize("seeds", bunches, ids=lambda r: f"{r.start}-{r.stop - 1}")
