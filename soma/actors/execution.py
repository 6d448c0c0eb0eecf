"""Running one call in an actor: decode, resolve refs, run, encode, reply. Exactly one last reply per accepted call.

`Executor` is what serial, threaded and async actors share; `modes` decides which thread or coroutine runs it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from soma.actors.blackbox import Recorder
from soma.actors.context import CALL, Interrupted, LeaveActor, exit_code
from soma.actors.failures import describe
from soma.actors.refs import ObjectRef
from soma.actors.runtime import Runtime
from soma.actors.savepoint import Savepoint
from soma.actors.streams import Allowance
from soma.errors import NotSerializableError, ResultNotSerializableError, SomaError
from soma.transport import messages as m
from soma.transport.codec import decode, encode
from soma.transport.frames import pack
from soma.transport.values import Parcel, from_frames, open_parcel, parcel, to_frames


@dataclass(slots=True, eq=False)
class Job:
    """An accepted call."""

    call: m.Call
    frames: list[bytes]
    replied: bool = False


class Executor:
    """The actor's instance and how a call on it is answered."""

    def __init__(self, runtime: Runtime, label: str, recorder: Recorder) -> None:
        self.runtime = runtime
        self.label = label
        self.instance: Any = None
        self.savepoint: Savepoint | None = None
        """Set for actors that save their state."""
        self._recorder = recorder
        self._cancelled: OrderedDict[bytes, None] = OrderedDict()
        self._allowances: dict[bytes, Allowance] = {}

    # -- cancelling and credit (any thread) --------------------------------------------------------------------------------

    def mark_cancelled(self, call_id: bytes) -> None:
        self._cancelled[call_id] = None
        while len(self._cancelled) > 4096:
            self._cancelled.popitem(last=False)

    def is_cancelled(self, call_id: bytes) -> bool:
        return call_id in self._cancelled

    def on_credit(self, msg: m.Credit, frames: list[bytes]) -> None:
        allowance = self._allowances.get(msg.call_id)
        if allowance is not None:
            allowance.taken = max(allowance.taken, msg.taken)

    def allowance(self, call_id: bytes) -> Allowance:
        return self._allowances.setdefault(call_id, Allowance())

    # -- one call ------------------------------------------------------------------------------------------------------------

    def begin(self, job: Job) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The method and its decoded arguments; refs among them are still refs."""
        self._recorder.begin(job.call.call_id)
        frames, job.frames = job.frames, []
        arena = self.runtime.port.arena
        args, kwargs = decode(frames[0], ()) if len(frames) == 1 else open_parcel(from_frames(frames, arena))
        return getattr(self.instance, job.call.method), args, kwargs

    def resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Refs given as arguments arrive as their values."""
        refs = [a for a in (*args, *kwargs.values()) if type(a) is ObjectRef]
        values = dict(zip(refs, self.runtime.get(refs, None), strict=True))

        def swap(a: Any) -> Any:
            return values[a] if type(a) is ObjectRef else a

        return tuple(map(swap, args)), {k: swap(v) for k, v in kwargs.items()}

    def run(self, job: Job, call: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        """Run a call to its last reply in this thread. `call` invokes the method (and guards it against late interrupts)."""
        msg = job.call
        held = self.runtime.sharing.adopt(msg.refs) if msg.refs else ()
        token = CALL.set(msg)
        try:
            if msg.call_id in self._cancelled:
                self.reply_cancelled(job)
                return
            method, args, kwargs = self.begin(job)
            if ObjectRef in map(type, (*args, *kwargs.values())):
                args, kwargs = call(self.resolve, (args, kwargs), {})  # as the user's code: a cancel ends this wait too
            result = call(method, args, kwargs)
            del args, kwargs
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            if msg.num_returns < 0:
                self._stream(job, iter(result), call)
            else:
                self.reply_result(job, result)
        except (SystemExit, LeaveActor) as e:
            self.end_if_forked(e)
            raise
        except Interrupted:
            self.reply_cancelled(job)
        except BaseException as e:
            self.reply_error(job, e)
        finally:
            self._recorder.end()
            CALL.reset(token)
            self.finished(job)
            if held:
                self.runtime.sharing.let_go(held)
                self.runtime.sharing.collect()

    def end_if_forked(self, e: BaseException) -> None:
        """End this process if it is a child that a method forked: it came back from the method, but it is not the actor."""
        if os.getpid() != self.runtime.side.pid:
            if not isinstance(e, SystemExit):
                traceback.print_exception(e)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(exit_code(e) if isinstance(e, SystemExit) else 1)

    def finished(self, job: Job) -> None:
        if self._cancelled:
            self._cancelled.pop(job.call.call_id, None)
        if self._allowances:
            self._allowances.pop(job.call.call_id, None)

    def _stream(self, job: Job, items: Iterator[Any], call: Callable[..., Any]) -> None:
        allowance = self.allowance(job.call.call_id)
        done = object()
        try:
            while True:
                item = call(next, (items, done), {})
                if item is done:
                    break
                self.reply_item(job, allowance.sent, item)
                allowance.sent += 1
                del item
                if not allowance.open:
                    self.runtime.inbox.wait_until(lambda: allowance.open or self.is_cancelled(job.call.call_id))
                if self.is_cancelled(job.call.call_id):
                    raise Interrupted
        except Interrupted:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            raise
        self.reply_end(job, allowance.sent)

    # -- replies ---------------------------------------------------------------------------------------------------------------

    def _send(self, job: Job, index: int, status: int, last: bool, kept: Parcel | None) -> None:
        caller, port = job.call.caller, self.runtime.port
        if kept is None:
            port.outlet.send(caller, [pack(m.Reply(job.call.call_id, index, status, last, ()))])
            job.replied = job.replied or last
            return
        if kept.block is None and not kept.notes:
            frames = to_frames(kept, None, caller)
            job.replied = job.replied or last
            port.outlet.send(caller, [pack(m.Reply(job.call.call_id, index, status, last, ())), *frames])
            return
        sharing = self.runtime.sharing
        with port.lock:
            if sharing.is_dead(caller):
                return
            try:
                frames = to_frames(kept, port.arena, caller, port.outlet.near(caller))
            except SomaError as error:  # no more leases, or too much for another machine
                if not last:
                    raise  # then the call fails by it
                kept, index, status = Parcel(encode(describe(error, self.label)).body), 0, m.ERROR
                frames = to_frames(kept, None, caller)
            notes = sharing.register(kept.notes, caller)
        job.replied = job.replied or last  # not before: what fails until here is answered with that error
        port.outlet.send(caller, [pack(m.Reply(job.call.call_id, index, status, last, notes)), *frames])

    def _parcel(self, value: Any, path: str) -> Parcel:
        try:
            return parcel(encode(value, path=path), self.runtime.port.arena)
        except NotSerializableError as e:
            raise ResultNotSerializableError(e.path, e.problem, e.hint) from None

    def reply_result(self, job: Job, result: Any) -> None:
        if self.savepoint is not None:
            self.savepoint.after_call()
        n = job.call.num_returns
        if n == 1:
            self._send(job, 0, m.OK, True, self._parcel(result, "result"))
            return
        if n == 0:
            self._send(job, 0, m.OK, True, None)
            return
        values = list(result) if isinstance(result, (tuple, list)) else None
        if values is None or len(values) != n:
            got = f"{len(values)} values" if values is not None else f"a {type(result).__name__}"
            raise ValueError(f"num_returns={n} was asked for, and {got} came back")
        parcels = [self._parcel(v, f"result[{i}]") for i, v in enumerate(values)]
        for i, p in enumerate(parcels):
            self._send(job, i, m.OK, i == n - 1, p)

    def reply_item(self, job: Job, index: int, item: Any) -> None:
        self._send(job, index, m.OK, False, self._parcel(item, f"item {index}"))

    def reply_end(self, job: Job, count: int) -> None:
        if self.savepoint is not None:
            self.savepoint.after_call()
        self._send(job, count, m.END, True, None)

    def reply_cancelled(self, job: Job) -> None:
        if not job.replied:
            self._send(job, 0, m.CANCELLED, True, None)

    def reply_error(self, job: Job, e: BaseException) -> None:
        self.end_if_forked(e)
        if job.replied:
            return
        what = getattr(self.instance, "task", "") or f"method {job.call.method}"
        where = f"{self.label}, pid {self.runtime.side.pid}, node {self.runtime.identity.node}, {what}"
        failure = describe(e, where, skip=0 if isinstance(e, SomaError) else 2)
        index = self._allowances[job.call.call_id].sent if job.call.call_id in self._allowances else 0
        self._send(job, index, m.ERROR, True, parcel(encode(failure), None))
