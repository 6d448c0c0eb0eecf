"""The processes of slots, as the front end knows them: a `Process`, and a `Life` for each slot it holds.

A serial predictor has a process for each slot, an async one has one for all of them. News of a life that is over is dropped, so a process
that was given up changes nothing any more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soma import cluster
from soma.errors import ActorDiedError, SomaError, TaskCancelledError
from soma.serve.predictions import Prediction
from soma.serve.setup_log import SetupLog
from soma.serve.slots.terms import Job
from soma.serve.steps import End

LINE = "\n"
HOW: dict[str, End] = {"succeeded": "succeed", "failed": "fail", "canceled": "cancel"}


@dataclass(frozen=True, slots=True)
class Kind:
    """How processes are made and spoken to.

    Attributes:
        make: gives a fresh actor for the slot of that number.
        job_of: what a slot is sent of a prediction.
        shared: one process holds all slots.
        board: where slots are asked for their health, if they cannot be asked themselves.
    """

    make: Callable[[int], Any]
    job_of: Callable[[Prediction], Job]
    shared: bool = False
    board: Any = None

    async def healthcheck(self, lives: Mapping[int, Life]) -> dict[str, Any]:
        """What the user's own check says, in one of the slots that are set up."""
        while (life := next((life for life in lives.values() if life.ready), None)) is not None:
            said = await self._asked(life)
            if said is not None:
                return said
        return {"ok": True, "error": ""}

    async def _asked(self, life: Life) -> dict[str, Any] | None:
        """What the user's own check says in that slot, also to who asks while it is asked already; None if the slot has gone meanwhile."""
        if life.asked is None or life.asked.done():
            life.asked = asyncio.ensure_future(self._ask_health(life))
        await asyncio.wait([life.asked])  # it is not ended with who asks
        return None if life.gone or life.asked.cancelled() else life.asked.result()

    async def _ask_health(self, life: Life) -> dict[str, Any]:
        """Takes as long as the check does."""
        asked = life.process.actor.healthcheck if self.shared else None if self.board is None else self.board.ask
        if asked is None:
            return {"ok": True, "error": ""}
        try:
            said: dict[str, Any] = await (asked.remote() if self.shared else asked.remote(str(life.number)))
        except SomaError as e:
            return {"ok": False, "error": f"the slot cannot be asked: {type(e).__name__}"}
        return said


@dataclass(slots=True, eq=False)
class Process:
    """One process.

    Attributes:
        lives: of the slots it holds.
        answer: what its setup told, once it is set up.
        logs: what it said in its setup.
        log: the pipe where it says that.
        gone: it died, or was given up.
        counted: its death counts, or was counted; a process that we killed counts no death.
        late: its setup took too long.
    """

    actor: Any
    lives: list[Life] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    logs: str = ""
    log: SetupLog | None = None
    gone: bool = False
    counted: bool = False
    late: bool = False

    def counts(self) -> bool:
        """Whether this death is to be counted; once."""
        first, self.counted = not self.counted, True
        return first

    def listen(self) -> str:
        """Where its setup is to print."""
        self.log = SetupLog(self._add)
        return self.log.path

    def kill(self) -> None:
        cluster.kill(self.actor)
        self.end_log()

    def end_log(self) -> None:
        """Its setup prints no more."""
        if self.log is not None:
            self.log.close()
            self.log = None

    def _add(self, text: str) -> None:
        self.logs += text

    def hear(self, said: dict[str, Any]) -> None:
        """What it says in its setup."""
        if said["kind"] == "log" and self.answer is None:
            self.logs += said["text"]

    def fail(self, done: Any, limit: float | None) -> str | None:
        """Why its setup failed, which its logs say too then; None if it went well."""
        self.end_log()
        error = done.exception()
        if error is None:
            told = done.result()
            self.logs = told["logs"] or self.logs
            if told["ok"]:
                return None
            why = str(told["error"])
        elif self.late:
            why = f"setup took longer than {limit:g} s"
        elif isinstance(error, ActorDiedError):
            why = f"the process of the setup died: {error.cause.describe().splitlines()[0]}"
        else:
            why = f"{type(error).__name__}: {error}"
        if why not in self.logs:
            self.logs += f"{'' if not self.logs or self.logs.endswith(LINE) else LINE}{why}{LINE}"
        return why


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A prediction in a slot's process, and the call that it is."""

    prediction: Prediction
    call: Any


@dataclass(slots=True, eq=False)
class Life:
    """A slot, as long as its process lives.

    Attributes:
        predict: the actor's method, with a listener for what is said meanwhile.
        now: what runs.
        ahead: what was sent too, and waits in the process.
        parts: of an item that comes in pieces.
        asked: the health check under way.
    """

    number: int
    process: Process
    predict: Any = None
    now: Sent | None = None
    ahead: Sent | None = None
    parts: list[str] = field(default_factory=list)
    gone: bool = False
    asked: asyncio.Future[dict[str, Any]] | None = None

    @property
    def ready(self) -> bool:
        return self.process.answer is not None and not self.gone

    def ask(self) -> None:
        """Ask what runs to end."""
        if self.now is not None:
            cluster.cancel(self.now.call)

    def recall(self) -> None:
        """Cancel what waits in the process."""
        if self.ahead is not None:
            cluster.cancel(self.ahead.call)

    def has_begun_ahead(self) -> bool:
        """Whether what waited in a process that died had begun there all the same."""
        return self.ahead is not None and has_begun(outcome(self.ahead.call)[1])

    def end(self) -> None:
        """Kill its process, and listen no more."""
        self.gone = self.process.gone = True
        self.process.kill()
        if self.asked is not None:
            self.asked.cancel()

    def hear(self, said: dict[str, Any]) -> None:
        """What its prediction says."""
        if self.now is None:
            return
        prediction = self.now.prediction
        match said["kind"]:
            case "log":
                prediction.log(said["text"])
            case "output" if "part" in said:
                self.parts.append(said["part"])
                if said["last"]:
                    text, self.parts = "".join(self.parts), []
                    prediction.output(said["index"], json.loads(text))
            case "output":
                prediction.output(said["index"], said["value"])
            case "outputs":
                for i, value in enumerate(said["values"]):
                    prediction.output(said["first"] + i, value)
            case "metric":
                prediction.metric(said["name"], said["value"], said["mode"])


def explained(error: ActorDiedError) -> str:
    """A death in a line: signal or exit code, and memory."""
    return f"the process of the prediction died: {error.cause.describe().splitlines()[0]}"


def end_of(told: Any, error: BaseException | None) -> tuple[End, str, dict[str, Any]]:
    """What a call that is done says of its prediction: how it ended, the error, and what else `Prediction.finish` takes."""
    if error is None:
        return HOW[told["state"]], told["error"], {name: told[name] for name in ("output", "is_list", "metrics", "took")}
    if isinstance(error, TaskCancelledError):
        return "cancel", "", {}
    return "fail", f"{type(error).__name__}: {error}", {}


def has_begun(error: BaseException | None) -> bool:
    """Whether the call of which this is the outcome may have begun in a process that died since."""
    return not (isinstance(error, ActorDiedError) and error.executed == "no")


def outcome(call: Any) -> tuple[Any, BaseException | None]:
    """What a call that is done gave, or raised."""
    try:
        return cluster.get(call), None
    except Exception as e:
        return None, e
