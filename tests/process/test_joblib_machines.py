"""The joblib backend on two machines of one cluster (on loopback)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from fleets import made
from joblib import Parallel, delayed

import soma
from soma.util.joblib import register_soma

pytestmark = pytest.mark.crash


def where(x: Any, n: int) -> tuple[str, float]:
    return soma.get_runtime_context().node_id, float(x[n])


def test_tasks_run_on_all_machines(tmp_path: Path) -> None:
    register_soma()
    x = np.arange(250_000.0)
    with made(tmp_path) as fleet, soma.init(fleet.address), joblib.parallel_config("soma"):
        assert joblib.effective_n_jobs(-1) == 4
        seen = Parallel(batch_size=1)(delayed(where)(x, n) for n in range(200))
        assert [value for _, value in seen] == list(range(200)) and len({node for node, _ in seen}) == 2
        (big, *_) = Parallel()(delayed(np.full)(250_000, os.getpid()) for _ in range(4))
        big += 1
        assert big[-1] == os.getpid() + 1
