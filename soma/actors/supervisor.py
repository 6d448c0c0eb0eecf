"""When a dead actor is made anew: a pure decision. Time is an argument.

Erlang's words: `max_restarts` is the actor's own allowance, `intensity` deaths in `period` seconds is the budget that stops a
crash loop whatever the allowance says. A constructor that raises is never repeated: it would raise again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from soma.actors.lifecycle import Happening, Phase, advance
from soma.errors import DeathCause

FINAL_REASONS = frozenset({"killed", "exit_actor", "init", "owner", "shutdown"})
"""Deaths after which `max_restarts` does not count."""


@dataclass(slots=True)
class Life:
    """One actor over all its incarnations."""

    max_restarts: int = 0
    intensity: int = 3
    period: float = 30.0
    phase: Phase = Phase.WAITING
    incarnation: int = -1
    restarts: int = 0
    history: tuple[DeathCause, ...] = ()
    _deaths: deque[float] = field(default_factory=deque)

    def admitted(self) -> int:
        """Resources are there (or the pause is over): the number of the incarnation to start."""
        self.phase = advance(self.phase, Happening.ADMITTED if self.phase is Phase.WAITING else Happening.PAUSE_OVER)
        self.incarnation += 1
        return self.incarnation

    def constructed(self) -> bool:
        """The constructor returned; True if the actor is now ready (False: it is being stopped)."""
        self.phase = advance(self.phase, Happening.CONSTRUCTED)
        return self.phase is Phase.READY

    def stop(self) -> bool:
        """Told to end; True if there is a process to end."""
        self.phase = advance(self.phase, Happening.STOP)
        return self.phase is Phase.STOPPING

    def died(self, cause: DeathCause, now: float) -> tuple[DeathCause, float | None]:
        """The process is gone: the cause as callers shall see it, and seconds until the restart (None: dead for good)."""
        earlier = self.history
        self.history = (*self.history, cause)[-10:]
        allowed = self.max_restarts < 0 or self.restarts < self.max_restarts
        if self.phase is Phase.STOPPING or cause.reason in FINAL_REASONS or not allowed:
            self.phase = advance(self.phase, Happening.DIED_FINALLY)
            self.history = earlier
            return cause, None
        self._deaths.append(now)
        while self._deaths[0] < now - self.period:
            self._deaths.popleft()
        if len(self._deaths) > self.intensity:
            self.phase = advance(self.phase, Happening.DIED_FINALLY)
            self.history = earlier
            detail = f"{cause.detail}\n{len(self._deaths)} deaths within {self.period:g} s: no more restarts".strip()
            return replace(cause, detail=detail), None
        self.restarts += 1
        self.phase = advance(self.phase, Happening.DIED_RESTARTABLE)
        return cause, min(10.0, 0.02 * 4 ** (len(self._deaths) - 1))
