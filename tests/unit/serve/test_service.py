"""The service with a deployment that a test plays: what is refused, what is kept, which version gets what, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from soma.serve.desk import Desk
from soma.serve.predictions import Prediction
from soma.serve.protocol import Refused, Request
from soma.serve.schema import Invalid
from soma.serve.service import Retention, Service
from soma.serve.states import Health
from soma.serve.steps import Limits, QueueFull


class Checks:
    """A signature that takes everything but `wrong`."""

    def validate(self, given: Any) -> dict[str, Any]:
        if "wrong" in given:
            raise Invalid([{"loc": ["body", "input", "wrong"], "msg": "wrong", "type": "value_error"}])
        return dict(given)


class Played:
    """A deployment with room for so many."""

    def __init__(self, version: str, ended: Callable[[Prediction], None], room: int = 3, fails: Health | None = None) -> None:
        self.version, self._ended, self._room = version, ended, room
        self.desk = Desk(Limits(slots=1, grace=0.0))
        self.desk.health_ends = fails
        self.predictions: dict[str, Prediction] = {}
        self.signature: Any = None if fails else Checks()
        self.training: Any = None
        self.settled = asyncio.Event()
        self.settled.set()
        self.setup_logs, self.trouble, self.restarts = f"logs of {version}", "why", 0
        self.opened = self.closed = False
        self.has_healthcheck, self.says = True, asyncio.Future[dict[str, Any]]()

    def open(self) -> None:
        self.opened = True
        self.desk.open(0.0)
        if self.desk.health_ends is None:
            self.desk.set_up(0, 0.0)

    def close(self) -> None:
        self.closed = True

    @property
    def idle(self) -> bool:
        return not self.predictions

    async def healthcheck(self) -> dict[str, Any]:
        return await asyncio.shield(self.says)

    def submit(self, prediction: Prediction) -> None:
        if len(self.predictions) >= self._room:
            raise QueueFull(self._room > 1)
        self.predictions[prediction.key] = prediction
        prediction.begin(0.0)

    def cancel(self, key: str) -> bool:
        return self.end(key, "cancel")

    def end(self, key: str, how: str = "succeed") -> bool:
        prediction = self.predictions.pop(key)
        prediction.finish(how, 1.0)
        self._ended(prediction)
        return True


class Stage:
    """A service and all deployments it had made."""

    def __init__(self, retention: Retention | None = None, room: int = 3) -> None:
        self.made: list[Played] = []
        self.room = room
        self.service = Service(self.deploy, retention or Retention())  # type: ignore[arg-type]

    def deploy(self, version: str, ended: Callable[[Prediction], None], fails: Health | None = None) -> Played:
        self.made.append(Played(version, ended, self.room, fails))
        return self.made[-1]

    def create(self, id: str | None = None, kind: str = "prediction", **given: Any) -> Prediction:
        return self.service.create(Request(id=id, input=given), kind)

    def end(self, id: str) -> None:
        self.made[0].end(f"prediction/{id}")


def played(test: Callable[[Stage], Coroutine[Any, Any, None]], **stage: Any) -> None:
    async def live() -> None:
        made = Stage(**stage)
        await made.service.open()
        await test(made)
        await made.service.shutdown(0.0)
        assert all(deployment.closed for deployment in made.made if deployment.opened)

    asyncio.run(live())


def refusal(call: Callable[[], Any]) -> tuple[int, Any]:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.status, refused.value.retry_after


def test_what_is_refused_leaves_no_trace() -> None:
    async def test(stage: Stage) -> None:
        assert refusal(lambda: stage.create("a", wrong=1))[0] == 422
        assert refusal(lambda: stage.create("a", kind="training"))[0] == 404
        for id in "abc":
            stage.create(id)
        assert refusal(lambda: stage.create("a"))[0] == 409
        assert refusal(lambda: stage.create("d")) == (503, 1.0)
        assert stage.service.find("d") is None and not stage.service.cancel("d")
        stage.end("b")
        assert stage.create("d").id == "d"

    played(test)


def test_without_a_queue_the_refusal_is_another() -> None:
    async def test(stage: Stage) -> None:
        stage.create("a")
        assert refusal(lambda: stage.create("b"))[0] == 409

    played(test, room=1)


def test_a_watcher_that_breaks_loses_the_prediction_and_nothing_else() -> None:
    async def test(stage: Stage) -> None:
        def breaks(prediction: Prediction) -> None:
            raise ZeroDivisionError

        stage.service.on_create.append(breaks)
        with pytest.raises(ZeroDivisionError):
            stage.create("a")
        stage.service.on_create.clear()
        assert stage.service.find("a") is None and stage.create("a").status == "processing"

    played(test)


def test_so_many_results_are_kept_and_what_runs_is_never_forgotten() -> None:
    async def test(stage: Stage) -> None:
        for id in "abcde":
            stage.create(id)
        for id in "edc":
            stage.end(id)
        assert [stage.service.find(id) is not None for id in "abcde"] == [True, True, True, True, False]
        stage.end("a")
        assert [stage.service.find(id) is not None for id in "abcde"] == [True, True, True, False, False]

    played(test, retention=Retention(count=2), room=9)


def test_results_are_kept_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(stage: Stage) -> None:
        now = [0.0]
        monkeypatch.setattr("soma.serve.service.time.monotonic", lambda: now[0])
        stage.create("a")
        stage.create("b")
        stage.end("a")
        now[0] = 9.0
        assert stage.service.find("a") is not None
        now[0] = 11.0
        assert stage.service.find("a") is None and stage.service.find("b") is not None
        assert stage.create("a").status == "processing", "its id is free again"
        monkeypatch.undo()

    played(test, retention=Retention(seconds=10.0))


def test_a_reload_takes_what_comes_and_the_old_one_ends_when_it_is_done() -> None:
    async def test(stage: Stage) -> None:
        stage.create("a")
        assert await stage.service.reload(stage.deploy, "2")  # type: ignore[arg-type]
        old, new = stage.made
        assert stage.create("b").version == "2" and not old.closed and "prediction/b" in new.predictions
        stage.end("a")
        assert old.closed and not new.closed
        assert not await stage.service.reload(lambda v, e: stage.deploy(v, e, Health.SETUP_FAILED), "3")
        told = stage.service.health()
        assert stage.made[2].closed and told["version"] == "2" and told["reload_error"] == "logs of 3"
        assert await stage.service.reload(stage.deploy, "4") and "reload_error" not in stage.service.health()

    played(test)


def test_a_canary_that_is_broken_gets_nothing_more() -> None:
    async def test(stage: Stage) -> None:
        assert await stage.service.reload(stage.deploy, "2", 0.999_999)  # type: ignore[arg-type]
        assert {stage.create().version for _ in range(20)} == {"2"}
        stage.made[1].desk.health_ends = Health.DEFUNCT
        assert {stage.create().version for _ in range(20)} == {"1"}

    played(test, room=99)


def test_it_ends_when_what_runs_has_ended_and_takes_nothing_more() -> None:
    async def test(stage: Stage) -> None:
        stage.create("a")
        ends = asyncio.create_task(stage.service.shutdown(None))
        await asyncio.sleep(0)
        assert refusal(lambda: stage.create("b"))[0] == 503
        assert not ends.done() and not stage.made[0].closed
        stage.end("a")
        await ends
        assert stage.made[0].closed

    played(test)


def test_at_the_end_of_patience_what_runs_is_canceled() -> None:
    async def test(stage: Stage) -> None:
        prediction = stage.create("a")
        await stage.service.shutdown(0.01)
        assert prediction.status == "canceled"

    played(test)


def test_health() -> None:
    async def test(stage: Stage) -> None:
        only = stage.made[0]
        only.says.set_result({"ok": False, "error": "no GPU"})
        told = await stage.service.check_health()
        assert told["status"] == "UNHEALTHY" and told["user_healthcheck_error"] == "no GPU"
        assert stage.create("a").status == "processing", "all the same"
        only.says = asyncio.Future()
        only.says.set_result({"ok": True, "error": ""})
        assert (await stage.service.check_health())["status"] == "READY"
        only.desk.health_ends = Health.DEFUNCT
        told = await stage.service.check_health()
        assert told["status"] == "DEFUNCT" and told["error"] == "why" and refusal(lambda: stage.create("b"))[0] == 503

    played(test)


def test_a_check_that_says_nothing_for_long_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(stage: Stage) -> None:
        monkeypatch.setattr("soma.serve.service.CHECK", 0.01)
        told = await stage.service.check_health()
        assert told["status"] == "UNHEALTHY" and "longer than 0.01 s" in told["user_healthcheck_error"]

    played(test)
