"""What a run of a study does next: when it may take a trial, and what has been running for too long. Pure: `now` is an argument.

A trial counts as running from `begin`, and its time from `started`: its process may have to wait for resources. One that is to end is
asked first, by the exception that a cancelled call gets; if it is still there after a second, its process is killed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Why = Literal["timeout", "pruned", "stopped"]
GRACE = 1.0
"""Seconds between asking and killing."""
LEAST = 1 / 16
"""Seconds after which it is looked again, at the soonest, whether a trial has started."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. All in seconds; None: no limit.

    Attributes:
        timeout: after so long, no further trial is taken; those under way end by themselves.
        trial_timeout: a trial may take so long.
        prune_grace: so long may a trial go on that the pruner has given up.
        max_failures: so many trials may fail before no further one is taken.
    """

    timeout: float | None = None
    trial_timeout: float | None = None
    prune_grace: float = 5.0
    max_failures: int | None = None


@dataclass(slots=True)
class _Running:
    started: float = math.inf
    pruned: float | None = None
    why: Why | None = None
    asked: float = math.inf
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """Something to be done to a trial: ask it to end, or kill its process."""

    trial: int
    act: Literal["cancel", "kill"]


class Course:
    """Of one run that began at `now`."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits, self._began = limits, now
        self._running: dict[int, _Running] = {}
        self._failures = 0
        self._stopped = False

    @property
    def running(self) -> int:
        return len(self._running)

    def may_take(self, now: float) -> bool:
        """Whether another trial may be taken."""
        late = self._limits.timeout is not None and now - self._began >= self._limits.timeout
        enough = self._limits.max_failures is not None and self._failures > self._limits.max_failures
        return not (self._stopped or late or enough)

    def stop(self) -> None:
        """Take no further one."""
        self._stopped = True

    def begin(self, trial: int) -> None:
        """It was taken."""
        self._running[trial] = _Running()

    def started(self, trial: int, now: float) -> None:
        """It runs."""
        if (at := self._running.get(trial)) is not None:
            at.started = min(at.started, now)

    def prune(self, trial: int, now: float) -> None:
        """The pruner has given it up."""
        at = self._running.get(trial)
        if at is not None and at.pruned is None:
            at.pruned = now

    def end(self, trial: int, failed: bool) -> Why | None:
        """It has ended; if it was made to, why."""
        self._failures += failed
        return self._running.pop(trial).why

    def orders(self, now: float) -> Iterator[Order]:
        """What is to be done now. Each is given once."""
        for trial, at in self._running.items():
            due, why = self._due(at)
            if at.why is None and now >= due:
                at.why, at.asked = why, now
                yield Order(trial, "cancel")
            elif at.why is not None and not at.killed and now >= at.asked + GRACE:
                at.killed = True
                yield Order(trial, "kill")

    def pause(self, now: float) -> float | None:
        """Seconds until `orders` may have something to say; None: not by time alone. A trial that starts meanwhile changes nothing."""
        soonest = min((self._next(at, now) for at in self._running.values()), default=math.inf)
        return None if soonest == math.inf else max(0.0, soonest - now)

    def _next(self, at: _Running, now: float) -> float:
        if at.why is not None:
            return math.inf if at.killed else at.asked + GRACE
        due = self._due(at)[0]
        if at.started == math.inf and self._limits.trial_timeout is not None:
            due = min(due, now + max(LEAST, self._limits.trial_timeout))
        return due

    def _due(self, at: _Running) -> tuple[float, Why]:
        late = math.inf if self._limits.trial_timeout is None else at.started + self._limits.trial_timeout
        pruned = math.inf if at.pruned is None else at.pruned + self._limits.prune_grace
        return (late, "timeout") if late <= pruned else (pruned, "pruned")
