"""Which thread runs a call: the only one (`Serial`), one of several (`Threaded`), or an event loop (`Async`).

The serial actor reads its mailbox and runs its calls in the same thread, so a call costs no thread switch.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from soma.actors.context import CALL, INTERRUPT, Interrupted, LeaveActor
from soma.actors.execution import Executor, Job
from soma.actors.interrupts import take_back
from soma.actors.refs import ObjectRef
from soma.transport import messages as m


class Serial:
    """One call at a time, in the main thread."""

    def __init__(self, executor: Executor) -> None:
        self._x = executor
        self._queue: deque[Job] = deque()
        self._in_user_code = False
        self._running: bytes | None = None
        self.stopping = False
        self._main = threading.main_thread().ident
        executor.runtime.waiting.serial = True
        signal.signal(INTERRUPT, self._on_signal)

    def accept(self, job: Job) -> None:
        self._queue.append(job)

    def cancel(self, call_id: bytes) -> None:
        """From the side thread: interrupt the call if it runs; a queued one is dropped when its turn comes."""
        if self._running == call_id and self._main is not None:
            signal.pthread_kill(self._main, INTERRUPT)
        self._x.runtime.inbox.wake()  # after it: a signal that comes just before a wait does not end the wait

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        running = self._running
        if running is not None and self._in_user_code and self._x.is_cancelled(running):
            if self._x.runtime.interrupts.protects(frame):
                self._x.runtime.interrupts.later(functools.partial(self.cancel, running))
                return
            self._in_user_code = False
            raise Interrupted

    def _call(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._in_user_code = True
        if self._running is not None and self._x.is_cancelled(self._running):
            self._in_user_code = False
            raise Interrupted
        try:
            return method(*args, **kwargs)
        finally:
            self._in_user_code = False

    def loop(self) -> None:
        queue, inbox = self._queue, self._x.runtime.inbox
        while True:
            inbox.wait_until(lambda: bool(queue) or self.stopping)
            if not queue:
                return
            job = queue.popleft()
            self._running = job.call.call_id
            self._x.run(job, self._call)
            self._running = None
            del job

    def stop(self) -> None:
        self.stopping = True
        self._x.runtime.inbox.wake()


class Threaded:
    """Up to `concurrency` calls at once in threads; named groups have their own."""

    def __init__(self, executor: Executor, concurrency: int, groups: Mapping[str, int], group_of: Mapping[str, str | None]) -> None:
        self._x = executor
        make = concurrent.futures.ThreadPoolExecutor
        self._pools: dict[str | None, concurrent.futures.ThreadPoolExecutor] = {None: make(concurrency, "soma-call")}
        self._pools.update({g: make(n, f"soma-{g}") for g, n in groups.items()})
        self._group_of = group_of
        self._threads: dict[bytes, int] = {}
        """Which thread runs the user's code of a call; only there may a cancel raise."""
        self._guard = threading.Lock()
        self.stopping = False
        self._left: BaseException | None = None

    def accept(self, job: Job) -> None:
        self._pools[self._group_of.get(job.call.method)].submit(self._run, job)

    def _run(self, job: Job) -> None:
        try:
            self._x.run(job, functools.partial(self._call, job.call.call_id))
        except (SystemExit, LeaveActor) as e:
            self._left = e
            self._x.runtime.inbox.wake()

    def _call(self, call_id: bytes, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        me = threading.get_ident()
        with self._guard:
            self._threads[call_id] = me
        try:
            if self._x.is_cancelled(call_id):
                raise Interrupted
            return method(*args, **kwargs)
        finally:
            with self._guard:
                self._threads.pop(call_id, None)
                take_back(me)  # one that was on its way comes too late

    def cancel(self, call_id: bytes) -> None:
        """Raises in the call's thread at its next bytecode: C code that never returns cannot be interrupted there."""
        interrupts = self._x.runtime.interrupts
        with self._guard:
            thread = self._threads.get(call_id)
            if thread is not None and not interrupts.raise_in(thread, Interrupted):
                interrupts.later(functools.partial(self.cancel, call_id))  # it handles a message: in a moment it does not
                return
        self._x.runtime.inbox.wake()  # it may wait there

    def loop(self) -> None:
        self._x.runtime.inbox.wait_until(lambda: self._left is not None or self.stopping)
        if self._left is not None:
            raise self._left
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    def stop(self) -> None:
        self.stopping = True
        self._x.runtime.inbox.wake()


class Async:
    """Coroutines on one event loop in the main thread; another thread reads the mailbox."""

    def __init__(self, executor: Executor, concurrency: int, groups: Mapping[str, int], group_of: Mapping[str, str | None]) -> None:
        self._x = executor
        self._loop = asyncio.new_event_loop()
        self._limits: dict[str | None, asyncio.Semaphore] = {None: asyncio.Semaphore(concurrency)}
        self._limits.update({g: asyncio.Semaphore(n) for g, n in groups.items()})
        self._group_of = group_of
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._begun: set[bytes] = set()
        """Of these, which may be cancelled: one that is cancelled before its first step would never run, nor answer."""
        self._left: asyncio.Future[None] = self._loop.create_future()
        self._credit = asyncio.Event()
        self.stopping = False

    def accept(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(self._start, job)

    def _start(self, job: Job) -> None:
        task = self._loop.create_task(self._run(job))
        self._tasks[job.call.call_id] = task
        task.add_done_callback(lambda _: self._ended(job.call.call_id))

    def _ended(self, call_id: bytes) -> None:
        self._tasks.pop(call_id, None)
        self._begun.discard(call_id)

    def cancel(self, call_id: bytes) -> None:
        def interrupt() -> None:
            task = self._tasks.get(call_id)
            if task is not None and call_id in self._begun:
                task.cancel()

        self._loop.call_soon_threadsafe(interrupt)

    async def _run(self, job: Job) -> None:
        x, msg = self._x, job.call
        self._begun.add(msg.call_id)
        if x.is_cancelled(msg.call_id):  # before it was here
            x.reply_cancelled(job)
            x.finished(job)
            x.runtime.sharing.let_go(x.runtime.sharing.adopt(msg.refs))
            return
        held = x.runtime.sharing.adopt(msg.refs)
        CALL.set(msg)
        try:
            async with self._limits[self._group_of.get(msg.method)]:
                method, args, kwargs = x.begin(job)
                args = tuple([await a if type(a) is ObjectRef else a for a in args])
                kwargs = {k: await v if type(v) is ObjectRef else v for k, v in kwargs.items()}
                result = method(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
                if msg.num_returns < 0:
                    await self._stream(job, result)
                else:
                    x.reply_result(job, result)
        except (asyncio.CancelledError, Interrupted):
            x.reply_cancelled(job)
        except (SystemExit, LeaveActor) as e:
            x.end_if_forked(e)
            if not self._left.done():
                self._left.set_exception(_Left(e))
        except BaseException as e:
            x.reply_error(job, e)
        finally:
            x.finished(job)
            x.runtime.sharing.let_go(held)

    async def _stream(self, job: Job, items: Any) -> None:
        allowance = self._x.allowance(job.call.call_id)
        if inspect.isasyncgen(items):
            try:
                async for item in items:
                    await self._item(job, item)
            finally:
                await items.aclose()
        else:
            for item in items:
                await self._item(job, item)
        self._x.reply_end(job, allowance.sent)

    async def _item(self, job: Job, item: Any) -> None:
        allowance = self._x.allowance(job.call.call_id)
        self._x.reply_item(job, allowance.sent, item)
        allowance.sent += 1
        while not allowance.open:
            self._credit.clear()
            await self._credit.wait()

    def on_credit(self, msg: m.Credit, frames: list[bytes]) -> None:
        self._x.on_credit(msg, frames)
        self._loop.call_soon_threadsafe(self._credit.set)

    def loop(self) -> None:
        reader = threading.Thread(target=self._x.runtime.inbox.wait_until, args=(lambda: self.stopping,), name="soma-reader", daemon=True)
        reader.start()
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._left)
        except _Left as e:
            raise e.args[0] from None
        finally:
            self.stopping = True
            self._x.runtime.inbox.wake()

    def stop(self) -> None:
        def end() -> None:
            if self._tasks:
                asyncio.gather(*self._tasks.values(), return_exceptions=True).add_done_callback(lambda _: self._end())
            else:
                self._end()

        self._loop.call_soon_threadsafe(end)

    def _end(self) -> None:
        if not self._left.done():
            self._left.set_result(None)


class _Left(Exception):
    """Carries SystemExit or LeaveActor out of the event loop, which would treat them as its own."""
