"""What of a job is told to everybody who listens (`soma.on_event`): its phases, how far it is, its end. Pure: times are arguments.

Reports come as often as a program makes them, news of them at most five times a second; what is left out is in the next, and its end is
always told.
"""

from __future__ import annotations

from typing import Any

from soma.jobs.states import JobStatus

EVERY = 0.2
"""Seconds between two news of a phase's progress."""


class News:
    """Of one job, numbered without gaps."""

    def __init__(self, every: float = EVERY) -> None:
        self._every, self._told_at, self._seq = every, float("-inf"), 0

    def of(self, before: JobStatus, after: JobStatus, now: float) -> dict[str, Any] | None:
        """The event for a change, as plain data; None if there is nothing to tell now."""
        if after == before or before.state.is_end:
            return None
        fields: dict[str, Any]
        if after.state.is_end:
            began = after.submitted if after.started is None else after.started
            fields = {"kind": "JobEnded", "state": after.state.value, "message": after.message[:4000],
                      "metrics": dict(after.progress.metrics), "duration_ms": 1e3 * ((after.ended or began) - began)}
        else:
            if after.progress.phase is before.progress.phase and now - self._told_at < self._every:
                return None
            self._told_at = now
            phase = after.progress.phase
            fields = {"kind": "JobProgress", "phase": phase.value if phase else "", "step": after.progress.step,
                      "total": after.progress.total, "metrics": dict(after.progress.metrics)}
        self._seq += 1
        return {**fields, "run_id": after.id, "seq": self._seq - 1, "time": now}
