"""`AsyncSlotActor`: an async actor that holds an `async` predictor and runs several predictions at once in its event loop.

A cancel is the cancel of a task. Prints are told apart by context (`printing`); descriptors are shared, so what C code and child
processes print goes to the log of the process. The front end makes it with room for its predictions and for health checks beside them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any

from soma import cluster
from soma.actors.context import LeaveActor
from soma.serve.slots.attempt import Attempt, text_of
from soma.serve.slots.capture import PAUSE, Tap
from soma.serve.slots.encoding import PLAIN
from soma.serve.slots.health import Health, verdict
from soma.serve.slots.outputs import Outputs, is_stream
from soma.serve.slots.printing import PAGE, Page, install
from soma.serve.slots.scope import inside
from soma.serve.slots.setting_up import Called, Served, begun, failed, loaded, told
from soma.serve.slots.terms import Ended, Job, SetUp, Source

_THREADS = concurrent.futures.ThreadPoolExecutor(16, "soma-slot")
"""None of them is there before it is needed."""


class AsyncSlotActor:
    """One async predictor in a process of its own.

    Args:
        source: where it comes from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tap = Tap()
        self._tap.tell_deaths()
        self._tap.tell_before_exit()
        self._served: Served | None = None
        install()

    async def setup(self, log: str = "") -> SetUp:
        """As `SlotActor.setup`."""
        with self._tap.listening(log) as logs:
            answer = await self._set_up()
        return {**answer, "logs": "".join(logs)}

    async def _set_up(self) -> SetUp:
        try:
            served = loaded(self._source)
            left = begun(served)
            if left is not None:
                await left
            answer = told(served)
        except (Exception, SystemExit) as e:
            return failed(e)
        self._served = served
        return answer

    async def predict(self, *parts: Any) -> Ended:
        """Run one prediction, given as the parts of a `Job`, to its end, beside others."""
        job = Job(*parts)
        if self._served is None:
            raise RuntimeError("this slot is not set up")
        called = self._served.of(job.kind)
        attempt = Attempt(job, self._source, called.parameters, _later)
        page = Page(_tell_log, asyncio.get_running_loop())
        PAGE.set(page)
        try:
            with inside(attempt.scope, alone=False):
                return await _attempted(attempt, called)
        finally:
            page.end()
            attempt.close()

    async def healthcheck(self) -> Health:
        """What the user's healthcheck says. One that is no coroutine runs in a thread."""
        check = self._served.loaded.healthcheck if self._served is not None else None
        if check is None:
            return {"ok": True, "error": ""}
        try:
            said = await check() if inspect.iscoroutinefunction(check) else await _in_thread(check)
        except Exception as e:
            return {"ok": False, "error": f"the healthcheck raised {type(e).__name__}: {text_of(e)}"}
        return verdict(said)


async def _attempted(attempt: Attempt, called: Called) -> Ended:
    try:
        arguments = await _in_thread(attempt.arguments) if called.parameters.has_files else attempt.arguments()
        result = called.fn(**arguments)
        if inspect.isawaitable(result):
            result = await result
        if is_stream(result, called.signature):
            await _give(result, attempt.outputs)
            return attempt.succeeded(None, is_list=True)
        output = await _apart(attempt.outputs.encoded, result)
        return attempt.succeeded(output, is_list=isinstance(result, (list, tuple)))
    except LeaveActor:
        raise
    except BaseException as e:
        task = asyncio.current_task()
        if isinstance(e, asyncio.CancelledError) and task is not None and task.cancelling():
            return attempt.canceled()  # not one that the user's code made for itself
        return attempt.failed(e)


async def _give(items: Any, outputs: Outputs) -> None:
    """What an iterator gives, one by one."""
    if not hasattr(items, "__anext__"):
        for item in items:
            outputs.give(await _apart(outputs.encoded, item))
        return
    try:
        async for item in items:
            outputs.give(await _apart(outputs.encoded, item))
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()


def _later(fn: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(PAUSE, fn)


async def _apart(fn: Callable[[Any], Any], value: Any) -> Any:
    """What may read or send files does so in a thread; the others go on meanwhile."""
    return fn(value) if type(value) in PLAIN else await _in_thread(fn, value)


async def _in_thread(fn: Callable[..., Any], *args: Any) -> Any:
    """As `asyncio.to_thread`, but not in line with what the user's code sends there."""
    call = functools.partial(contextvars.copy_context().run, fn, *args)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def _tell_log(text: str) -> None:
    cluster.tell({"kind": "log", "text": text})
