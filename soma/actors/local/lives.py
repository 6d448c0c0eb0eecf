"""Births and deaths of actors in the `local=True` engine. When they may live again is decided by `supervisor.Life`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from soma.actors.context import LeaveActor
from soma.actors.failures import describe
from soma.actors.local.actor import LocalActor
from soma.actors.local.calls import NeedFailed
from soma.errors import DeathCause

if TYPE_CHECKING:
    from soma.actors.local.run import LocalRun

Announce = Callable[[str, LocalActor, DeathCause | None], None]


class LocalLives:
    """Makes, restarts and ends actors."""

    def __init__(self, run: LocalRun, announce: Announce) -> None:
        self._run = run
        self._announce = announce
        """Called with the kind of event, the actor, and the cause of a death."""

    def construct(self, actor: LocalActor) -> None:
        """Run the constructor; a failure is the actor's death, and each call will say so."""
        actor.life.admitted()
        self._announce("ActorStarted", actor, None)
        error: BaseException | None = None
        try:
            args, kwargs = self._run.arguments(actor.made_from, actor.ctor_needs)
            with self._run.stack.of_constructor(actor):
                actor.instance = actor.spec.cls(*args, **kwargs)
                actor.restore()
        except NeedFailed as e:
            error = e.__cause__
        except (Exception, SystemExit, LeaveActor, GeneratorExit) as e:
            error = e
        if error is not None:
            return self._stillborn(actor, error)
        if actor.doom is not None:
            return self.dies(actor, actor.doom)
        actor.life.constructed()

    def _stillborn(self, actor: LocalActor, error: BaseException) -> None:
        actor.init_failure = failure = describe(error, f"the constructor of {actor.label}")
        detail = f"{failure.type_name}: {failure.message}\n\n{failure.traceback_text}"
        code = death_of(error).exit_code if isinstance(error, SystemExit) else None
        self.dies(actor, DeathCause("init", exit_code=code, pid=os.getpid(), detail=detail))

    def end(self, actor: LocalActor, cause: DeathCause) -> None:
        """End an actor from outside; if one of its calls runs, when that has returned."""
        if actor.cause is not None:
            return
        if actor.running:
            actor.doom = cause
        else:
            self.dies(actor, cause)

    def end_if_unused(self, actor: LocalActor) -> None:
        """The last handle is gone and so is the last call."""
        if actor.held and actor.handles <= 0 and actor.unsettled == 0 and actor.spec.options.lifetime != "detached":
            self.end(actor, DeathCause("killed", pid=os.getpid()))

    def dies(self, actor: LocalActor, cause: DeathCause) -> None:
        """Carry a death out: streams end, and either the constructor runs again or all that is queued has its answer."""
        if actor.cause is not None:
            return
        obituary = actor.obituary("maybe", cause)
        seen, pause = actor.life.died(cause, time.monotonic())
        actor.doom = None
        if pause is None:
            actor.cause = seen
        for stream in list(actor.streams):
            self._run.streams.end(stream, obituary)
        actor.instance = None
        actor.loop.close()
        self._announce("ActorDied", actor, seen)
        if pause is not None:
            self._announce("ActorRestarted", actor, None)
            return self.construct(actor)
        for call in actor.queued():
            self._run.pump(call)


def death_of(error: SystemExit) -> DeathCause:
    """`sys.exit(code)` in the words of a process that really ended so."""
    code = error.code
    if code is None or isinstance(code, int):
        return DeathCause("exited", exit_code=code or 0, pid=os.getpid())
    return DeathCause("exited", exit_code=1, pid=os.getpid(), stderr_tail=str(code))
