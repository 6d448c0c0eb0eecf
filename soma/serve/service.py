"""`Service`: what HTTP stands on. It keeps the predictions, sends each to a version of what is served, and knows how all that is.

One version is served most of the time. A reload makes a second one, and when that is ready it takes all that comes; a canary takes a share.
The old one ends when it has nothing left to do, so nothing is refused meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soma.serve.deployment import Deployment
from soma.serve.figures import Figures
from soma.serve.predictions import Prediction
from soma.serve.protocol import Refused, Request
from soma.serve.schema import Invalid, Signature
from soma.serve.states import Health
from soma.serve.steps import QueueFull

KINDS = ("prediction", "training")
CHECK = 5.0
"""Seconds that the user's own health check may take."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended predictions can be asked for.

    Attributes:
        count: of the last so many.
        seconds: for so long.
    """

    count: int = 1000
    seconds: float = 3600.0


class Service:
    """See the module. Belongs to the event loop in which `open` was called.

    Args:
        deploy: makes a deployment of a version, not yet open, from its name and whom to tell of ends.
        retention: of results.
        version: name of the first version.
    """

    def __init__(self, deploy: Callable[[str, Callable[[Prediction], None]], Deployment], retention: Retention = Retention(),
                 version: str = "1") -> None:
        self._deploy, self._retention = deploy, retention
        self._predictions: OrderedDict[str, Prediction] = OrderedDict()
        self._where: dict[str, Deployment] = {}
        self._stable = deploy(version, self._ended)
        self._canary: tuple[Deployment, float] | None = None
        self._leaving: list[Deployment] = []
        self._coming: Deployment | None = None
        self._reloading = asyncio.Lock()
        self.reload_error = ""
        """Logs of the last reload, if its setup failed."""
        self._began = self._set_up = ""
        self._stopping = False
        self._unwell = ""
        self._empty = asyncio.Event()
        self.figures = Figures()
        self.on_create: list[Callable[[Prediction], None]] = []
        """Told of every prediction before it may begin."""

    async def open(self) -> None:
        """Begin to set up. Does not wait for it: `health` says how it goes."""
        self._began = _now()
        self._stable.open()
        self._watch = asyncio.create_task(self._note_setup())

    async def _note_setup(self) -> None:
        await self._stable.settled.wait()
        self._set_up = _now()

    async def ready(self) -> bool:
        """Wait for the setup; whether it went well."""
        await self._stable.settled.wait()
        return self._stable.desk.health_ends is None

    # -- what is served --------------------------------------------------------------------------------------------------------

    @property
    def signature(self) -> Signature | None:
        return self._stable.signature

    @property
    def training(self) -> Signature | None:
        return self._stable.training

    async def reload(self, deploy: Callable[[str, Callable[[Prediction], None]], Deployment], version: str, share: float = 1.0) -> bool:
        """Another version: set up beside the present one, which then takes a share of what comes, or all of it.

        False, and everything stays as it is, if its setup fails.
        """
        async with self._reloading:
            if self._stopping:
                return False
            made = self._coming = deploy(version, self._ended)
            made.open()
            await made.settled.wait()
            self._coming = None
            if made.desk.health_ends is not None or self._stopping:
                self.reload_error = made.setup_logs
                made.close()
                return False
            self.reload_error = ""
            if self._canary is not None:
                self._leave(self._canary[0])
                self._canary = None
            if share >= 1.0:
                before, self._stable, self._unwell = self._stable, made, ""
                self._leave(before)
            else:
                self._canary = made, share
            return True

    def _leave(self, deployment: Deployment) -> None:
        self._leaving.append(deployment)
        self._end_idle()

    def _end_idle(self) -> None:
        for deployment in [d for d in self._leaving if d.idle]:
            self._leaving.remove(deployment)
            deployment.close()

    # -- predictions -----------------------------------------------------------------------------------------------------------

    def create(self, request: Request, kind: str = "prediction") -> Prediction:
        """Begin one, or let it wait.

        Raises:
            Refused: its input is wrong, its id is taken, there is no room, or nothing can run now.
        """
        signature = self.signature if kind == "prediction" else self.training
        self._check_open(signature, kind)
        assert signature is not None
        id = request.id or secrets.token_hex(13)
        if request.id is not None:
            self._forget()  # an id may be taken again then
            if f"{kind}/{id}" in self._predictions:
                raise Refused(409, f"{kind} {id!r} is there already")
        try:
            clean = signature.validate(request.input)
        except Invalid as e:
            raise Refused(422, e.detail) from None
        deployment = self._route()
        prediction = Prediction(id, kind, request, deployment.version, lambda: self._abandoned(id, kind))
        prediction.clean = clean
        self._predictions[prediction.key], self._where[prediction.key] = prediction, deployment
        try:
            for fn in self.on_create:
                fn(prediction)
            deployment.submit(prediction)
        except BaseException as e:
            del self._predictions[prediction.key], self._where[prediction.key]
            if isinstance(e, QueueFull):
                self.figures.refused += 1
                raise _no_room(e) from None
            raise
        return prediction

    def _check_open(self, signature: Signature | None, kind: str) -> None:
        if self._stopping:
            raise Refused(503, "the server is stopping")
        match self._stable.desk.health_ends:
            case Health.SETUP_FAILED:
                raise Refused(503, "setup failed; GET /health-check has its logs")
            case Health.DEFUNCT:
                raise Refused(503, "the server gave up: its processes died too often")
        if self._stable.signature is None:
            raise Refused(503, "setup has not finished", retry_after=1.0)
        if signature is None:
            raise Refused(404, f"this predictor has no {kind}s")

    def _route(self) -> Deployment:
        canary = self._canary
        if canary is not None and canary[0].desk.health_ends is None and secrets.randbelow(1_000_000) < canary[1] * 1_000_000:
            return canary[0]
        return self._stable

    def find(self, id: str, kind: str = "prediction") -> Prediction | None:
        self._forget()
        return self._predictions.get(f"{kind}/{id}")

    def cancel(self, id: str, kind: str = "prediction") -> bool:
        """False if there is no such prediction. One that has ended stays as it is."""
        prediction = self._predictions.get(f"{kind}/{id}")
        if prediction is None:
            return False
        if not prediction.done:
            self._where[prediction.key].cancel(prediction.key)
        return True

    def _abandoned(self, id: str, kind: str) -> None:
        self.cancel(id, kind)

    def _ended(self, prediction: Prediction) -> None:
        self._where.pop(prediction.key, None)
        prediction.ended_at = time.monotonic()
        self._predictions.move_to_end(prediction.key)
        self.figures.ended(prediction)
        self._forget()
        if self._leaving:
            self._end_idle()
        if self._stopping and not self._where:
            self._empty.set()

    def _forget(self) -> None:
        """Ended ones that are too many or too old."""
        ended = len(self._predictions) - len(self._where)
        late = time.monotonic() - self._retention.seconds
        while ended > 0:
            key, first = next(iter(self._predictions.items()))
            if not first.done:
                self._predictions.move_to_end(key)  # what runs is never the oldest that ended
                continue
            if ended <= self._retention.count and first.ended_at > late:
                return
            del self._predictions[key]
            ended -= 1

    # -- how it is -------------------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """As `/health-check` answers, without asking the predictor."""
        state = self._stable.desk.health
        if self._unwell and state in (Health.READY, Health.BUSY):
            state = Health.UNHEALTHY
        failed = state is Health.SETUP_FAILED
        setup = {"started_at": self._began, "completed_at": self._set_up or None, "logs": self._stable.setup_logs,
                 "status": "failed" if failed else "succeeded" if self._set_up else "starting"}
        told: dict[str, Any] = {"status": state.value, "setup": setup, "version": self._stable.version,
                                "slots": dict(self._stable.desk.counts()), "restarts": self._stable.restarts}
        if state in (Health.SETUP_FAILED, Health.DEFUNCT):
            told["error"] = self._stable.trouble
        if self._canary is not None:
            made, share = self._canary
            told["canary"] = {"version": made.version, "status": made.desk.health.value, "share": share}
        if self.reload_error:
            told["reload_error"] = self.reload_error
        if self._unwell:
            told["user_healthcheck_error"] = self._unwell
        return told

    async def check_health(self) -> dict[str, Any]:
        """The same, after the user's own check."""
        if self._stable.has_healthcheck and self._stable.desk.health in (Health.READY, Health.BUSY):
            try:
                said = await asyncio.wait_for(self._stable.healthcheck(), CHECK)
            except TimeoutError:
                said = {"ok": False, "error": f"the health check took longer than {CHECK:g} s"}
            self._unwell = "" if said["ok"] else said["error"] or "the health check said no"
        return self.health()

    def metrics_text(self) -> str:
        """For Prometheus."""
        return self.figures.text(dict(self._stable.desk.counts()), self._stable.restarts)

    async def shutdown(self, patience: float | None = None) -> None:
        """Take nothing more, let what runs and waits end (at most so many seconds), and end all processes."""
        self._stopping = True
        if not await self._emptied(patience):
            for prediction in [p for p in self._predictions.values() if not p.done]:
                self.cancel(prediction.id, prediction.kind)
            await self._emptied(min(patience or 0.0, self._stable.desk.limits.grace + 1.0))
        self._watch.cancel()
        for deployment in (self._stable, self._coming, *(self._canary or ())[:1], *self._leaving):
            if deployment is not None:
                deployment.close()

    async def _emptied(self, seconds: float | None) -> bool:
        """Wait until nothing runs or waits; whether it came to that."""
        if self._where:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        return not self._where


def _no_room(full: QueueFull) -> Refused:
    if full.waits:
        return Refused(503, "all slots are busy and the queue is full", retry_after=1.0)
    return Refused(409, "Already running a prediction", retry_after=1.0)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
