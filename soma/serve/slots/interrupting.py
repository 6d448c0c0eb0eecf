"""When a cancel may raise in the main thread of a serial slot: in the user's code only, never where descriptors are half exchanged.

Nor in an event loop, which would forget what it was about to do: there a cancel becomes the cancel of the task.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from soma.actors.context import INTERRUPT, Interrupted

_mask: Any = getattr(signal, "_signal", signal).pthread_sigmask
"""Without the dressing of its answer, which takes longer than all else."""
_ONLY = (INTERRUPT,)


def hold() -> bool:
    """From here on a cancel waits. One that came just before raises here, and what comes later waits all the same.

    Returns:
        Whether it waited before already.
    """
    return threading.current_thread() is threading.main_thread() and INTERRUPT in _mask(signal.SIG_BLOCK, _ONLY)


def let() -> None:
    """From here on a cancel raises; one that waited does so here."""
    if threading.current_thread() is threading.main_thread():
        _mask(signal.SIG_UNBLOCK, _ONLY)


def completed(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """Run something awaitable to its end in a loop; Interrupted if it was cancelled by a cancel of the call."""
    task = asyncio.ensure_future(as_coroutine(work), loop=loop)
    with _as_cancel(loop, task) as interrupted:
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if interrupted:
                raise Interrupted from None
            raise
        finally:
            if task.done() and not task.cancelled():
                task.exception()  # has been seen
            if inspect.iscoroutine(work):
                work.close()  # cancelled before its first step


async def as_coroutine(work: Any) -> Any:
    """Of anything that can be awaited."""
    return await work


@contextmanager
def _as_cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[list[bool]]:
    """What would raise `Interrupted` cancels a task; the list is not empty then. Where a cancel has to wait it goes on waiting."""
    interrupted: list[bool] = []
    held = False
    before = signal.getsignal(INTERRUPT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def on_signal() -> None:
        try:
            before(INTERRUPT, None)
        except Interrupted:
            interrupted.append(True)
            task.cancel()

    wakes = -1
    try:
        held = hold()
        wakes = signal.set_wakeup_fd(-1)
        loop.add_signal_handler(INTERRUPT, on_signal)  # by the loop's pipe: one that comes just before it waits would be noticed after it
        if not held:
            let()
        yield interrupted
    finally:
        hold()
        loop.remove_signal_handler(INTERRUPT)
        signal.signal(INTERRUPT, before)
        signal.set_wakeup_fd(wakes)
        if not interrupted:
            signal.raise_signal(INTERRUPT)  # the loop may have ended before it saw one; if none came, this one does nothing
        if not held:
            let()
