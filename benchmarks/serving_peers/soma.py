"""`soma serve`."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.serving_work import STEPS as ALL
from benchmarks.serving_work import Server, free_port, started

NOTE = "each prediction in a slot's process; the command as it is, without lines about requests"
PREDICTORS = Path(__file__).parent / "served" / "predictors.py"  # apart: its directory is on sys.path, and a module here is called coglet


def serve(what: str, slots: int) -> AbstractContextManager[Server]:
    port = free_port()
    command = [sys.executable, "-c", "from soma.cli import main; main()", "serve", f"{PREDICTORS}:{what}", "--port", str(port), "--slots",
               str(slots), "--log", "none"]
    return started(command, {}, port, "/health-check", lambda status, body: b'"READY"' in body, path="/predictions",
                   ask=lambda inputs: json.dumps({"input": inputs}).encode(), answer=dict)


def begin() -> None:
    return None


start = stop = begin
STEPS = {name: partial(step, serve) for name, step in ALL.items()}
STEPS["start"] = partial(ALL["start"], serve, file=PREDICTORS)
