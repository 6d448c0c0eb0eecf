"""A graph on a stream of chunks: a bounded number of them is under way at once, results come in order, memory does not grow.

Nodes are "fixed" (each chunk by itself), "evolving" (their state moves on from chunk to chunk, in order) or "barrier" (all chunks at once:
they and all that comes behind them run once, at the end; what they need in chunks is collected for them).

With `max_restarts` a stream outlives its processes: what died is made anew, evolving states go back to where they were last taken, and the
chunks since then, which are kept, go through again. A result is given once, whatever happens; a source is read once.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self

from soma.errors import TaskCancelledError
from soma.graph.cancelling import UnderWay
from soma.graph.course import Course
from soma.graph.lasting import StreamCheckpoint


class Stream:
    """Iterate it for the results, chunk by chunk. Dropping it, `close()`, or the end of its `with` ends the stream."""

    def __init__(self, course: Course, underway: UnderWay) -> None:
        self._course, self._underway = course, underway
        self._turn = threading.RLock()
        self._items = _items(course, underway, weakref.WeakMethod(self._end_if_idle))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._turn:
            course = self._course
            self._underway.drives(course.run.id, course.execution)
            try:
                return next(self._items)
            except StopIteration:
                if course.execution.cancelled and not course.ended:
                    raise course.execution.cancellation() from None
                raise

    def close(self) -> None:
        """End it: what is under way is cancelled, and what filters keep for it is forgotten."""
        with self._turn:
            self._items.close()

    def cancel(self, *, force: bool = True) -> None:
        """End it from another thread, within a second: who waits for its next result gets `TaskCancelledError`. See `Graph.cancel`."""
        self._underway.cancel(force=force, only=self._course.run.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        items = self.__dict__.get("_items")
        if items is not None:
            items.close()

    def _end_if_idle(self) -> None:
        """Cancelled between two results: nobody is there to be told, until the next is asked for."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if inspect.getgeneratorstate(self._items) == inspect.GEN_SUSPENDED:
                with contextlib.suppress(TaskCancelledError):
                    self._items.throw(self._course.execution.cancellation())
        finally:
            self._turn.release()

    # -- how far it is ---------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> StreamCheckpoint:
        """How far it has come, for `graph.stream(source, resume=…)` in this program or another. Between two results, not beside them.

        Evolving states in it are those that were last taken (`checkpoint_every`); the chunks since then go through once more.
        """
        return self._course.checkpoint()

    @property
    def states(self) -> dict[str, Any]:
        """Once it is at its end: the states that evolving nodes have come to, by id: what `graph.load_state` takes."""
        return self._course.states

    @property
    def restarts(self) -> int:
        """How many deaths it survived."""
        return self._course.restarts

    @property
    def credit(self) -> int:
        """How many chunks are under way at once; the source is read no further ahead of the results."""
        return self._course.chunked.credit

    @property
    def retained(self) -> int:
        """How many chunks are kept now, to go through again if a process dies."""
        return len(self._course.kept)


def _items(course: Course, underway: UnderWay, if_idle: Callable[[], Callable[[], None] | None]) -> Generator[Any, None, None]:
    """What a stream gives. It knows the stream only weakly: nobody else keeps one that is dropped."""

    def end_if_idle() -> None:
        end = if_idle()
        if end is not None:
            end()

    with underway.run(course.run.id, course.processes, end_if_idle), course.run:
        underway.drives(course.run.id, course.execution)
        try:
            yield from course.results()
        finally:
            if not course.ended:
                course.abandon()
