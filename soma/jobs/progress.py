"""Inside a job: `report` says how far it is, `params` is what it was given. Needs only the standard library.

A report is one line of JSON, written to a pipe in one piece, so that processes of one job may all report. Outside of a job `report` has
nobody to tell and does nothing, so a program runs by itself as well.
"""

from __future__ import annotations

import json
import math
import os
import select
from typing import Any

from soma.jobs.events import Reported

PIPE = "SOMA_JOB_PROGRESS"
PARAMS = "SOMA_JOB_PARAMS"
JOB = "SOMA_JOB_ID"

LINE_BYTES = 4096 if not hasattr(select, "PIPE_BUF") else select.PIPE_BUF
"""What a pipe takes in one piece."""

NAME_BYTES, METRICS = 64, 256
"""How long the name of a metric may be, and how many of them one job may have."""


def report(step: int | None = None, total: int | None = None, **metrics: float) -> None:
    """Say how far this job is: step `step` of `total`, and the latest value of each metric.

    Raises:
        TypeError, ValueError: a step that is no whole number from 0, a metric that is no number, or too many of them.
    """
    for name, count in (("step", step), ("total", total)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise ValueError(f"{name}={count!r}: a whole number from 0")
    told: dict[str, Any] = {"metrics": {name: _number(name, value) for name, value in metrics.items()}}
    told |= {k: v for k, v in (("step", step), ("total", total)) if v is not None}
    line = json.dumps(told).encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise ValueError(f"report: {len(metrics)} metrics take {len(line)} bytes; at most {LINE_BYTES}")
    path = os.environ.get(PIPE)
    if path is None:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # the job is over, and this process about to be ended
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def params() -> dict[str, Any]:
    """The parameters that this job was submitted with; empty outside of a job."""
    path = os.environ.get(PARAMS)
    if path is None:
        return {}
    with open(path, encoding="utf-8") as f:
        found = json.load(f)
    assert isinstance(found, dict)
    return found


def job_id() -> str | None:
    """The id of the job that this process belongs to."""
    return os.environ.get(JOB)


def reported(line: bytes) -> Reported:
    """What a line says.

    Raises:
        ValueError: it is none of `report`'s.
    """
    told = json.loads(line)
    if not isinstance(told, dict) or not isinstance(told.get("metrics", {}), dict):
        raise ValueError("no progress")
    for count in (told.get("step"), told.get("total")):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise ValueError("no progress")
    return Reported(told.get("step"), told.get("total"), {str(k): _number(k, v) for k, v in told.get("metrics", {}).items()})


def _number(name: str, value: Any) -> float:
    if len(name.encode("utf-8", "replace")) > NAME_BYTES:
        raise ValueError(f"metric {name[:80]!r}: a name of at most {NAME_BYTES} bytes")
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except TypeError:
        number = math.nan
    if isinstance(value, (str, bytes)) or (math.isnan(number) and not isinstance(value, float)):
        raise TypeError(f"{name}={value!r}: a metric is a number")
    return number
