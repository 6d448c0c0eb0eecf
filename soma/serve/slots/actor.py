"""`SlotActor`: a serial actor that holds a predictor and runs one prediction at a time, in its process's main thread.

A cancel raises `Interrupted` in the user's code and nowhere else. What the user's code raises, `SystemExit` too, is the end of its
prediction and never of the process; a process that dies all the same is explained by the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

from soma import cluster
from soma.actors.context import Interrupted, LeaveActor
from soma.errors import SomaError
from soma.serve.slots.attempt import Attempt, text_of
from soma.serve.slots.capture import Tap
from soma.serve.slots.health import Health, verdict
from soma.serve.slots.interrupting import as_coroutine, completed, hold, let
from soma.serve.slots.outputs import Outputs, is_stream
from soma.serve.slots.scope import inside
from soma.serve.slots.setting_up import Called, Served, begun, failed, loaded, told
from soma.serve.slots.terms import Ended, Job, SetUp, Source


class SlotActor:
    """One predictor in a process of its own.

    Args:
        source: where it comes from.
        board: a handle of the `HealthBoard` where this slot is asked for its health, as `slot`.
    """

    def __init__(self, source: Source, board: Any = None, slot: str = "") -> None:
        self._source, self._board, self._slot = source, board, slot
        self._tap = Tap()
        self._tap.tell_deaths()
        self._tap.tell_before_exit()
        self._served: Served | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- set-up ----------------------------------------------------------------------------------------------------------------

    def setup(self, log: str = "") -> SetUp:
        """Load and set up. What goes wrong is in the answer, with all that was printed; unless that goes to `log`, a named pipe."""
        with self._tap.listening(log) as logs:
            answer = self._set_up()
        if answer["has_healthcheck"] and self._board is not None:
            threading.Thread(target=self._watch_board, name="soma-health", daemon=True).start()
        return {**answer, "logs": "".join(logs)}

    def _set_up(self) -> SetUp:
        try:
            served = loaded(self._source)
            left = begun(served)
            if left is not None:
                self._await(left)
            answer = told(served)
        except (Exception, SystemExit) as e:
            return failed(e)
        self._served = served
        return answer

    # -- predictions -----------------------------------------------------------------------------------------------------------

    def predict(self, *parts: Any) -> Ended:
        """Run one prediction, given as the parts of a `Job`, to its end."""
        job = Job(*parts)
        if self._served is None:
            raise RuntimeError("this slot is not set up")
        try:
            hold()
            ended = self._predicted(job, self._served)
        finally:
            let()
        if self._is_child():
            raise SystemExit(0)
        return ended

    def _predicted(self, job: Job, served: Served) -> Ended:
        called = served.of(job.kind)
        capture = self._tap.open(_tell_log)
        attempt = Attempt(job, self._source, called.parameters, self._tap.later)
        try:
            with inside(attempt.scope, alone=True):
                return self._attempted(attempt, called)
        finally:
            if not self._is_child():
                capture.end()
                attempt.close()

    def _attempted(self, attempt: Attempt, called: Called) -> Ended:
        def work() -> tuple[bool, bool, Any]:
            result = self._finished(called.fn(**attempt.arguments()))
            streams = is_stream(result, called.signature)
            return streams, isinstance(result, (list, tuple)), result if streams else attempt.outputs.encoded(result)

        try:
            streams, is_list, result = self._freely(work)
            if not streams:
                return attempt.succeeded(result, is_list=is_list)
            self._give(result, attempt.outputs)
            return attempt.succeeded(None, is_list=True)
        except LeaveActor:
            raise
        except Interrupted:
            return attempt.canceled()
        except BaseException as e:
            if self._is_child():
                raise
            return attempt.failed(e)

    def _is_child(self) -> bool:
        """Whether this is a process that the user's code forked, come out of the prediction: the files are its parent's, and it ends."""
        return os.getpid() != self._tap.pid

    def _freely(self, call: Callable[[], Any]) -> Any:
        """Run the user's code; a cancel may raise in it."""
        try:
            let()
            return call()
        finally:
            hold()

    def _finished(self, result: Any) -> Any:
        return self._await(result) if inspect.iscoroutine(result) else result

    def _give(self, items: Any, outputs: Outputs) -> None:
        """What an iterator gives, one by one. A cancel that comes between two items is raised at the generator's last `yield`."""
        items = iter(items) if isinstance(items, (list, tuple)) else items
        is_async = hasattr(items, "__anext__")

        def step() -> Any:
            return outputs.encoded(self._await(anext(items)) if is_async else next(items))

        try:
            while True:
                outputs.give(self._freely(step))
        except (StopIteration, StopAsyncIteration):
            return
        except Interrupted:
            if getattr(items, "gi_frame", None) is not None:
                with contextlib.suppress(StopIteration):  # it caught it, and returned
                    self._freely(functools.partial(items.throw, Interrupted()))
            raise
        finally:
            if hasattr(items, "aclose"):
                self._await(items.aclose())
            elif hasattr(items, "close"):
                items.close()

    def _await(self, work: Any) -> Any:
        """Run a coroutine, in the event loop that all of this predictor's run in. A cancel cancels it, and it may clean up."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return completed(self._loop, work)

    # -- health ----------------------------------------------------------------------------------------------------------------

    def healthcheck(self) -> Health:
        """What the user's healthcheck says, here and now."""
        check = self._served.loaded.healthcheck if self._served is not None else None
        if check is None:
            return {"ok": True, "error": ""}
        return judged(check)

    def _watch_board(self) -> None:
        """In a thread of its own. What the user's healthcheck prints meanwhile belongs to whoever predicts."""
        while True:
            try:
                cluster.get(self._board.wait.remote(self._slot))
                self._board.say.options(num_returns=0).remote(self._slot, self.healthcheck())
            except SomaError:
                return  # the board is gone, and nobody asks any more


def judged(check: Callable[[], Any]) -> Health:
    """Whether a healthcheck says yes. True or nothing is yes."""
    try:
        said = check()
        if inspect.isawaitable(said):
            said = asyncio.run(as_coroutine(said))
    except Exception as e:
        return {"ok": False, "error": f"the healthcheck raised {type(e).__name__}: {text_of(e)}"}
    return verdict(said)


def _tell_log(text: str) -> None:
    cluster.tell({"kind": "log", "text": text})
