"""LitServe."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.serving_work import STEPS as ALL
from benchmarks.serving_work import Server, free_port, started

NOTE = "one worker process, or two; it has no logs of a prediction"


def serve(what: str, slots: int) -> AbstractContextManager[Server]:
    port = free_port()
    return started([sys.executable, "-m", "benchmarks.serving_peers.litserve_app", str(port), what, str(slots)], {}, port, "/health",
                   lambda status, body: status == 200, path="/predict", ask=lambda inputs: json.dumps(inputs).encode(), answer=dict)


def begin() -> None:
    return None


start = stop = begin
STEPS = {name: partial(step, serve) for name, step in ALL.items() if name != "logs"}
