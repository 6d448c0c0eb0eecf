"""One version of what is served: its desk, and the slots that the desk's steps are done to.

The shell around `Desk`, in the front end's event loop. What slots say comes from soma's threads; it is queued and taken by the loop in
turn, so that nothing here needs a lock. When it is closed every prediction has ended, and nothing is heard any more.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from soma import cluster
from soma.errors import ActorDiedError
from soma.events import ActorDied, Event
from soma.serve.desk import Desk
from soma.serve.predictions import Prediction
from soma.serve.processes import Kind, Life, Process, Sent, end_of, explained, has_begun, outcome
from soma.serve.schema import Signature
from soma.serve.steps import Ask, Begin, Finish, Kill, Limits, Make, Recall, Requeue, Send, Step


class Deployment:
    """Use `open`, then `submit`; `close` ends its processes.

    Args:
        kind: of its processes; owned: its board ends with them.
        limits: of its desk.
        version: its name.
        ended: told of every prediction that has ended here.
    """

    def __init__(self, kind: Kind, limits: Limits, version: str, ended: Callable[[Prediction], None]) -> None:
        self._kind, self.version, self._ended = kind, version, ended
        self.desk = Desk(limits)
        self.predictions: dict[str, Prediction] = {}
        self._lives: dict[int, Life] = {}
        self._shared: Process | None = None
        self._first: Process | None = None
        self._news: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.signature: Signature | None = None
        self.training: Signature | None = None
        self.has_healthcheck = False
        self.restarts = 0
        self.trouble = ""
        """Of the last death, or setup that failed."""
        self.settled = asyncio.Event()
        """Set when it is first ready, or never will be."""
        self.closed = False

    def open(self) -> None:
        """Make its slots."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._stop_events = cluster.on_event(self._on_event)
        self.desk.open(time.monotonic())
        self._act()

    def close(self) -> None:
        """End its processes; what waits or runs here has ended then, as canceled."""
        if self.closed:
            return
        self.closed = True
        self._stop_events()
        if self._timer is not None:
            self._timer.cancel()
        for life in self._lives.values():
            life.end()
        self._lives.clear()
        if self._kind.board is not None:
            cluster.kill(self._kind.board)
        for prediction in list(self.predictions.values()):
            self._finish(prediction, "cancel")
        self.settled.set()

    @property
    def setup_logs(self) -> str:
        """What its first setup said, so far; of one that failed, all that is known."""
        return "" if self._first is None else self._first.logs

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits here."""
        return not self.predictions

    async def healthcheck(self) -> dict[str, Any]:
        """What the user's own check says, in a slot that is set up. Who asks while it is asked already gets the same answer."""
        return await self._kind.healthcheck(self._lives)

    # -- predictions -----------------------------------------------------------------------------------------------------------

    def submit(self, prediction: Prediction) -> None:
        """QueueFull if there is no room."""
        self.desk.submit(prediction.key, time.monotonic())
        self.predictions[prediction.key] = prediction
        self._act()

    def cancel(self, key: str) -> None:
        self.desk.cancel(key, time.monotonic())
        self._act()

    # -- what the desk wants ---------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        while steps := self.desk.take():
            for step in steps:
                self._do(step)
        self._rearm()
        if self.desk.health_ends is not None:
            self.settled.set()

    def _do(self, step: Step) -> None:
        match step:
            case Begin(key, slot):
                self._begin(self._lives[slot], key)
            case Send(key, slot):
                self._send_ahead(self._lives[slot], key)
            case Recall(slot):
                self._lives[slot].recall()
            case Finish(key, how, error):
                self._finish(self.predictions[key], how, error=error)
            case Make(slot, delay):
                if delay:
                    self._loop.call_later(delay, self._make_slot, slot)
                else:
                    self._make_slot(slot)
            case Ask(slot):
                self._lives[slot].ask()
            case Kill(slot) if slot in self._lives:
                self._kill(self._lives[slot])
            case Requeue(key):
                self.predictions[key].requeue()

    def _kill(self, life: Life) -> None:
        process = life.process
        if process.answer is None:
            process.late = self.desk.health_ends is None
        else:
            process.counted = True  # no fault of the predictor
            if life.now is None:  # nobody waits to hear of it
                del self._lives[life.number]
        process.kill()

    def _rearm(self) -> None:
        """See that time passes when something is due. A timer that is early does no harm, and need not be made anew for each prediction."""
        due = self.desk.next_due()
        if due < self._timer_at and not self.closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.desk.pass_time(time.monotonic())
        self._act()

    def _make_slot(self, number: int) -> None:
        if self.desk.health_ends is not None or self.closed:
            return
        known = self._shared
        if known is None or known.gone:
            known = self._make_process(number)
            self._shared = known if self._kind.shared else None
        life = self._lives[number] = Life(number, known)
        life.predict = known.actor.predict.options(listener=lambda said: self._post(life.hear, said))
        known.lives.append(life)
        if known.answer is not None:
            self.desk.set_up(number, time.monotonic())
            self._act()

    def _make_process(self, number: int) -> Process:
        if number in self._lives:
            self.restarts += 1
        process = Process(self._kind.make(number))
        self._first = self._first or process
        call = process.actor.setup.options(listener=lambda said: self._post(process.hear, said)).remote(process.listen())
        call.future().add_done_callback(lambda done: self._post(self._set_up, process, done))
        return process

    def _begin(self, life: Life, key: str) -> None:
        if (prediction := self.predictions.get(key)) is not None:  # else it was canceled while it waited in the slot
            prediction.begin(time.monotonic())  # before it is sent: traces add to its context
        life.now, life.ahead = life.ahead or self._sent(life, key), None
        if life.now is None:
            self.desk.ended(life.number, time.monotonic())
        else:
            life.now.call.when_done(lambda call=life.now.call: self._post(self._told, life, call))

    def _send_ahead(self, life: Life, key: str) -> None:
        life.ahead = self._sent(life, key)
        if life.ahead is None:
            self.desk.unsent(life.number)

    def _sent(self, life: Life, key: str) -> Sent | None:
        """None if it cannot be: then it has failed."""
        prediction = self.predictions[key]
        try:
            call = life.predict.remote(*self._kind.job_of(prediction))
        except Exception as e:  # the cluster has ended, or this cannot be sent
            self._finish(prediction, "fail", error=f"the prediction cannot be sent to its slot: {type(e).__name__}: {e}")
            return None
        return Sent(prediction, call)

    # -- what slots say --------------------------------------------------------------------------------------------------------

    def _post(self, fn: Callable[..., None], *args: Any) -> None:
        """From any thread."""
        self._news.append((fn, args))
        if not self._woken and not self.closed:
            self._woken = True
            here = threading.get_ident() == self._thread
            (self._loop.call_soon if here else self._loop.call_soon_threadsafe)(self._take_news)

    def _take_news(self) -> None:
        self._woken = False
        while self._news:
            fn, args = self._news.popleft()
            if not self.closed:
                fn(*args)

    def _set_up(self, process: Process, done: Any) -> None:
        if process.gone or self.desk.health_ends is not None:
            return
        error = process.fail(done, self.desk.limits.setup_timeout)
        if error is None:
            self._ready(process, done.result())
        else:
            self._setup_failed(process, error)
        self._act()

    def _setup_failed(self, process: Process, error: str) -> None:
        process.gone = True
        process.kill()
        self.trouble = f"setup failed: {error}"
        if self.signature is None:
            self._first = process
        for life in process.lives:
            life.gone = True
            if self.desk.health_ends is None:
                self.desk.setup_failed(life.number, time.monotonic(), counts=process.counts())

    def _ready(self, process: Process, told: dict[str, Any]) -> None:
        process.answer = told
        if self.signature is None:
            self._first = process
            self.signature = Signature.from_json(told["signature"])
            self.training = Signature.from_json(told["training"]) if told.get("training") else None
            self.has_healthcheck = bool(told["has_healthcheck"])
        for life in process.lives:
            self.desk.set_up(life.number, time.monotonic())
        self.settled.set()

    def _told(self, life: Life, call: Any) -> None:
        sent = life.now
        told, error = outcome(call)
        if life.gone or sent is None or sent.call is not call or self.desk.health_ends is not None:
            return  # its end was heard of before
        life.now = None
        life.parts.clear()
        if isinstance(error, ActorDiedError):
            self._died(life, explained(error), begun=has_begun(error))
            return
        why = self.desk.why(life.number)
        self.desk.ended(life.number, time.monotonic())
        self._act()  # the next one begins before this one's answer is made
        how, text, fields = end_of(told, error)
        if how != "succeed" and (why is not None or how == "cancel"):
            how, text = self.desk.verdict(why or "canceled", text)
        self._finish(sent.prediction, how, error=text, **fields)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ActorDied):
            self._post(self._heard_of_death, event.actor_id, event.reason)

    def _heard_of_death(self, actor_id: str, reason: str) -> None:
        """Of idle slots; one that was busy is told by its call, with more to say."""
        for life in list(self._lives.values()):
            if life.process.actor.actor_id == actor_id and life.now is None and life.ready:
                self._died(life, f"the process of an idle slot died: {reason}", begun=False)

    def _died(self, life: Life, error: str, *, begun: bool) -> None:
        process, self.trouble = life.process, error
        life.gone = process.gone = True
        if self._kind.board is not None:
            self._kind.board.drop.options(num_returns=0).remote(str(life.number))
        if self.desk.health_ends is None:
            self.desk.died(life.number, error, time.monotonic(), begun=begun, ahead_begun=life.has_begun_ahead(), counts=process.counts())
        self._act()

    def _finish(self, prediction: Prediction, how: str, **told: Any) -> None:
        self.predictions.pop(prediction.key, None)
        if prediction.finish(how, time.monotonic(), **told):
            self._ended(prediction)
