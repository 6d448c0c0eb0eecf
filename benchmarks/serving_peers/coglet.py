"""Cog's server, `cog.server.http`: HTTP in Rust, the predictor in a process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.serving_work import STEPS as ALL
from benchmarks.serving_work import Server, free_port, started

NOTE = "without docker; its latencies are those of refusals too; a predictor that is not async has one slot, so there is no figure for two"
SCHEMA = {"openapi": "3.0.2", "info": {"title": "measured", "version": "1"}, "paths": {"/predictions": {"post": {"x-cog-streaming": True}}}}
PREDICTORS = Path(__file__).parent / "served" / "predictors.py"  # apart: its directory is on sys.path, and a module here is called coglet


def serve(what: str, slots: int) -> AbstractContextManager[Server]:
    port = free_port()
    env = {"COG_PREDICT_TYPE_STUB": f"{PREDICTORS}:{what}", "PORT": str(port), "COG_LOG_LEVEL": "error",
           "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}  # its worker is the first python there
    where = Path(tempfile.mkdtemp())
    (where / ".cog").mkdir()
    (where / ".cog" / "openapi_schema.json").write_text(json.dumps(SCHEMA))  # where it looks whether a predictor streams
    return started([sys.executable, "-m", "cog.server.http"], env, port, "/health-check", lambda status, body: b'"READY"' in body,
                   cwd=str(where), path="/predictions", ask=lambda inputs: json.dumps({"input": inputs}).encode(), answer=dict)


def begin() -> None:
    return None


start = stop = begin
STEPS = {name: partial(step, serve) for name, step in ALL.items() if name != "busy"}
STEPS["start"] = partial(ALL["start"], serve, file=PREDICTORS)
