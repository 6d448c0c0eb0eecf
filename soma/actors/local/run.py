"""Running calls in the caller's own thread: which may run now, and what became of them.

Deterministic: a call runs inside `.remote()` unless something of its lane must end first; then it runs as soon as that did, or
when somebody waits for it. A wait that could never end is a `DeadlockError`, not a hang.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from soma.actors.context import LeaveActor
from soma.actors.failures import describe
from soma.actors.local.actor import LocalActor
from soma.actors.local.calls import Call, Lane, NeedFailed, Outcome, Slot
from soma.actors.local.lives import Announce, LocalLives, death_of
from soma.actors.local.objects import LocalObjects, kept
from soma.actors.local.stack import LocalStack
from soma.actors.local.streams import LocalStreams, complain
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, DeadlockError, DeathCause, GetTimeoutError, TaskCancelledError
from soma.transport.values import Parcel, open_parcel


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt of a call ended: results, or a failure. Holds no exception, so it keeps no frames alive."""

    results: tuple[Outcome, ...] = ()
    failure: Outcome | None = None
    cause: DeathCause | None = None
    """The death of the process that ran it."""
    final: bool = False
    """Not to be repeated, whatever attempts are left."""


class LocalRun:
    """The only place that runs the user's code."""

    def __init__(self, objects: LocalObjects, announce: Announce) -> None:
        self._objects = objects
        self._changed = threading.Condition()
        self.stack = LocalStack()
        self.lives = LocalLives(self, announce)
        self.streams = LocalStreams(self, objects)

    # -- lanes -----------------------------------------------------------------------------------------------------------------

    def enter(self, call: Call) -> None:
        """A new call: run it now if its lane is free."""
        call.lane.queue.append(call)
        if call.actor is not None:
            call.actor.unsettled += 1
        self.pump(call)

    def pump(self, of: Call) -> None:
        """Run what the lane of a call allows."""
        lane = of.lane
        while True:
            with self._changed:
                if lane.thread is not None or lane.stream is not None or not lane.queue:
                    return
                missing = self._missing(lane.queue[0])
                if missing is not None:
                    missing.callbacks.append(lambda: self.pump(of))
                    return
                call = lane.queue.popleft()
                lane.thread = threading.get_ident()
            try:
                self._run(call)
            finally:
                self._release(call)

    def _missing(self, call: Call) -> Slot | None:
        return next((s for s in map(self._objects.slot, call.needs) if s.outcome is None), None)

    def _release(self, call: Call) -> None:
        with self._changed:
            call.lane.thread = None
            self._changed.notify_all()

    @contextmanager
    def lane_taken(self, call: Call) -> Iterator[None]:
        """Hold the lane of a call; waits for another thread that does."""
        lane = call.lane
        with self._changed:
            if lane.thread == threading.get_ident():
                raise DeadlockError(self.stack.cycle(call))
            self._changed.wait_for(lambda: lane.thread is None)
            lane.thread = threading.get_ident()
        try:
            yield
        finally:
            self._release(call)

    def force(self, slot: Slot, until: float | None = None) -> None:
        """Make a slot settle: run what it waits for, or wait for the thread that does."""
        while slot.outcome is None:
            assert slot.call is not None
            lane = slot.call.lane
            if lane.thread == threading.get_ident():
                raise DeadlockError(self.stack.cycle(slot.call))
            if until is not None and time.monotonic() > until:
                raise GetTimeoutError("the call has not ended yet")
            if lane.thread is not None:
                left = None if until is None else max(0.0, until - time.monotonic())
                with self._changed:
                    self._changed.wait_for(partial(_moved, slot, lane), left)
            elif lane.stream is not None:
                self.streams.step(lane.stream)
            else:
                missing = self._missing(lane.queue[0])
                if missing is not None:
                    self.force(missing, until)
                self.pump(slot.call)

    def cancel(self, call: Call) -> None:
        """A call that has not begun ends now; for others it is too late."""
        if call in call.lane.queue:
            call.lane.queue.remove(call)
            self._settle(call, partial(raise_cancelled, call.label))

    # -- calls -----------------------------------------------------------------------------------------------------------------

    def _run(self, call: Call) -> None:
        """All attempts of a call."""
        while True:
            actor = call.actor
            if actor is not None and actor.cause is not None:
                return self._settle(call, actor.obituary("maybe" if call.attempt else "no"))
            attempt = self._attempt(call)
            failure = attempt.failure
            if attempt.cause is not None:
                failure = self.bury(call, attempt.cause)
            if failure is None:
                return self._settle(call, *attempt.results)
            if attempt.final or not call.may_repeat or (actor is not None and actor.cause is not None):
                return self._settle(call, failure)
            call.attempt += 1

    def _attempt(self, call: Call) -> Attempt:
        try:
            return Attempt(self._perform(call), cause=self.death_by(call.actor, None))
        except KeyboardInterrupt:
            self._settle(call, partial(raise_cancelled, call.label))
            raise
        except NeedFailed as e:
            return Attempt(failure=e.outcome, final=True)
        except BaseException as e:  # whatever it is, it is the caller's
            cause = self.death_by(call.actor, e)
            kinds = call.options.retry_exceptions
            wanted = kinds is True or (kinds is not False and isinstance(e, kinds))
            return Attempt((), describe(e, self.where(call)).throw, cause, final=cause is None and not wanted)

    def _perform(self, call: Call) -> tuple[Outcome, ...]:
        args, kwargs = self.arguments(call.parcel, call.needs)
        with self.stack.of_call(call):
            result = call.function()(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = call.loop.run(result)
        if call.stream is not None:
            if not isinstance(result, (Iterable, AsyncIterator)):
                raise TypeError(f"{call.label} returned {type(result).__name__}; num_returns='streaming' needs a generator")
            call.stream.generator = result if isinstance(result, AsyncIterator) else iter(result)
            return ()
        if call.actor is not None:
            call.actor.save()
        count = len(call.slots)
        if count == 0:
            return ()
        if count == 1:
            return (kept(result, "result"),)
        values = tuple(result) if isinstance(result, (tuple, list, Iterator)) else (result,)
        if len(values) != count:
            raise ValueError(f"{call.label} was called with num_returns={count} and returned {len(values)} value(s)")
        return tuple(kept(v, f"result[{i}]") for i, v in enumerate(values))

    def arguments(self, packed: Parcel, needs: list[ObjectRef[Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Private copies; refs at the top level are replaced by their values."""
        values = {}
        for ref in needs:
            slot = self._objects.slot(ref)
            self.force(slot)
            assert slot.outcome is not None
            try:
                values[ref.id] = slot.outcome()
            except BaseException as e:
                raise NeedFailed(slot.outcome) from e
        args, kwargs = open_parcel(packed)

        def there(value: Any) -> Any:
            return values[value.id] if isinstance(value, ObjectRef) else value

        return tuple(map(there, args)), {k: there(v) for k, v in kwargs.items()}

    def where(self, call: Call) -> str:
        """For the note on an exception."""
        who = "a task" if call.actor is None else call.actor.label
        return f"{call.label} of {who}, pid {os.getpid()}, node local" + (f", attempt {call.attempt}" if call.attempt else "")

    def death_by(self, actor: LocalActor | None, error: BaseException | None) -> DeathCause | None:
        """Whether the code that just returned ended its process, and how."""
        if actor is not None and actor.doom is not None and actor.running == 0:
            return actor.doom
        if isinstance(error, LeaveActor):
            return DeathCause("exit_actor", exit_code=0, pid=os.getpid())
        return death_of(error) if isinstance(error, SystemExit) else None

    def bury(self, call: Call, cause: DeathCause) -> Outcome:
        """The process that ran a call is gone: what the call's refs shall say."""
        if call.actor is None:
            return partial(_raise_died, f"task {call.label}", cause)
        outcome = call.actor.obituary("maybe", cause)
        self.lives.dies(call.actor, cause)
        return outcome

    # -- ends of calls ---------------------------------------------------------------------------------------------------------

    def _settle(self, call: Call, *outcomes: Outcome) -> None:
        """The end of a call, or the beginning of its stream: one outcome per ref, or one error for all of them."""
        if call.stream is not None:
            if outcomes:
                self.streams.item(call.stream, outcomes[0])
                call.stream.ended = True
                self.finished(call)
            else:
                self.streams.begin(call.stream)
            self._fill(call.stream.started, lambda: None)
            return
        for i, slot in enumerate(call.slots):
            self._fill(slot, outcomes[i if len(outcomes) == len(call.slots) else 0])
        if not call.slots and outcomes:
            complain(f"{call.label}, called with num_returns=0, failed", outcomes[0])
        self.finished(call)

    def _fill(self, slot: Slot, outcome: Outcome) -> None:
        with self._changed:
            slot.outcome = outcome
            callbacks, slot.callbacks = slot.callbacks, []
            self._changed.notify_all()
        for fn in callbacks:
            fn()

    def finished(self, call: Call) -> None:
        """Nothing of a call will run any more."""
        if call.actor is None:
            call.loop.close()
            return
        call.actor.unsettled -= 1
        self.lives.end_if_unused(call.actor)


def raise_cancelled(label: str) -> NoReturn:
    raise TaskCancelledError(f"{label} was cancelled")


def _raise_died(who: str, cause: DeathCause) -> NoReturn:
    raise ActorDiedError(who, cause, "maybe")


def _moved(slot: Slot, lane: Lane) -> bool:
    return slot.outcome is not None or lane.thread is None
