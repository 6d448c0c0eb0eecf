"""Generators of the `local=True` engine: each runs as far as its consumer asks, in the consumer's thread."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from soma.actors.context import LeaveActor
from soma.actors.failures import describe
from soma.actors.local.calls import Outcome, Slot, Stream
from soma.actors.local.objects import LocalObjects, kept
from soma.ids import object_id

if TYPE_CHECKING:
    from soma.actors.local.run import LocalRun

_END = object()


class LocalStreams:
    """Steps generators and ends them."""

    def __init__(self, run: LocalRun, objects: LocalObjects) -> None:
        self._run = run
        self._objects = objects

    def begin(self, stream: Stream) -> None:
        """The generator exists; it holds its lane until it ends."""
        call = stream.call
        call.lane.stream = stream
        if call.actor is not None:
            call.actor.streams.append(stream)

    def item(self, stream: Stream, outcome: Outcome) -> None:
        stream.items += 1
        id = object_id(stream.call.id, stream.items)
        stream.ready.append(self._objects.new_ref(id, Slot(stream.call, outcome), stream.call.producer))

    def step(self, stream: Stream) -> None:
        """Run a generator to its next value, or to its end."""
        call = stream.call
        with self._run.lane_taken(call):
            if not stream.ended:
                self._advance(stream)
        if stream.ended:
            self._run.pump(call)

    def _advance(self, stream: Stream) -> None:
        call = stream.call
        try:
            with self._run.stack.of_call(call):
                value = _next(stream)
            if value is _END or call.cancelled:
                return self.end(stream)
            return self.item(stream, kept(value, f"item {stream.items}"))
        except KeyboardInterrupt:
            self.end(stream)
            raise
        except BaseException as e:  # whatever it is, it is the consumer's
            failure = describe(e, self._run.where(call)).throw
            cause = self._run.death_by(call.actor, e)
        if cause is not None:
            failure = self._run.bury(call, cause)
        self.end(stream, failure)

    def end(self, stream: Stream, outcome: Outcome | None = None) -> None:
        """No further items, but for the one that says why. The generator's own `finally` runs now."""
        call = stream.call
        if stream.ended:
            return
        if getattr(stream.generator, "gi_running", False) or getattr(stream.generator, "ag_running", False):
            call.cancelled = True  # it stands further up this stack: ended as soon as it yields
            return
        stream.ended = True
        if outcome is not None:
            self.item(stream, outcome)
        self._close(stream)
        if call.lane.stream is stream:
            call.lane.stream = None
        if call.actor is not None and stream in call.actor.streams:
            call.actor.streams.remove(stream)
        self._run.finished(call)

    def _close(self, stream: Stream) -> None:
        call, generator = stream.call, stream.generator
        try:
            with self._run.stack.of_call(call):
                if hasattr(generator, "aclose"):
                    call.loop.run(_awaited(generator.aclose()))
                elif hasattr(generator, "close"):
                    generator.close()
        except (Exception, SystemExit, LeaveActor) as e:
            complain(f"{call.label} failed while its stream was closed", describe(e, self._run.where(call)).throw)


async def _awaited(thing: Any) -> Any:
    return await thing


def _next(stream: Stream) -> Any:
    generator = stream.generator
    if not isinstance(generator, AsyncIterator):
        return next(generator, _END)

    async def step() -> Any:
        try:
            return await anext(generator)
        except StopAsyncIteration:
            return _END

    return stream.call.loop.run(step())


def complain(what: str, outcome: Outcome) -> None:
    """An error that no ref can carry goes where an actor's would: to stderr."""
    try:
        outcome()
    except BaseException as e:
        print(f"{what}: {type(e).__name__}: {e}\n{e.__cause__ or ''}", file=sys.stderr)
