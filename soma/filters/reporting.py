"""What a filter says while it works: `soma.report(name, value)` and `soma.progress(done, total)`.

In a graph's run both become events of that run, in order; in an ordinary local call they do nothing, so a filter that reports works
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

SINK: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("soma_report", default=None)
"""Where the filter that runs now may say something; set by its actor."""


def say(kind: str, **fields: Any) -> None:
    """An event from inside a filter, if anybody listens."""
    sink = SINK.get()
    if sink is not None:
        sink({"kind": kind, **fields})


def report(name: str, value: float, step: int | None = None) -> None:
    """Report a metric of the running filter: it appears in the run's events and in `metrics.jsonl`.

    Args:
        name: e.g. "loss".
        value: a number, or something that `float` takes (a numpy scalar, a tensor of one element).
        step: its place on the horizontal axis.

    Raises:
        TypeError: `value` is no number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"soma.report({name!r}, {value!r:.80}): the value must be a number") from None
    say("MetricReported", name=str(name), value=number, step=None if step is None else int(step))


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Say how far the running filter is: `done` of `total`, in whatever unit; bars show it."""
    say("NodeProgress", done=float(done), total=None if total is None else float(total), text=str(text)[:200])
