"""The scheduler: one actor for each cluster, found or made by `scheduler_of_cluster()`. The thin shell around `actors.scheduling`.

It looks at the machines before it decides, and again when actors begin or end. Its methods are coroutines, so a request that waits
blocks nobody. What was placed for a process that died is given back, and what it waited for is withdrawn. With `local=True` nothing
ends while a call waits, so there what does not fit is refused even if it would wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soma.actors import current
from soma.actors.context import CALL
from soma.actors.engine import LOCAL_NODE
from soma.actors.handle import ActorClass, ActorHandle
from soma.actors.options import Options
from soma.actors.scheduling import (
    Event,
    Facts,
    Instruction,
    Machine,
    Place,
    Refuse,
    Release,
    Request,
    Scheduling,
    Submit,
    Waiting,
    Withdraw,
    as_dict,
    request_of,
)
from soma.errors import PlacementError, SomaError

NAME, NAMESPACE = "soma-scheduler", "soma"
LOG_ENTRIES, LOG_ITEMS = 10_000, 200_000
"""Entries, and actors and tasks in them, after which the log begins anew, with a snapshot."""
AT_ONCE = 1_000_000
"""Calls: requests that wait must leave room for the one that gives them what they wait for."""


Entry = tuple[Event, tuple[Instruction, ...]] | dict[str, Any]
"""Of the log: an event and what was said to it, or a snapshot."""


class Scheduler:
    """Places requests (see `scheduling.Request`; plain data both ways) on the machines of its cluster."""

    def __init__(self) -> None:
        self._core = Scheduling()
        self._log: list[Entry] = [self._core.snapshot()]
        self._traces: list[list[Entry]] = []
        """The part of the log that belongs to each request which is not answered."""
        self._logged = 0
        """Items in the log."""
        self._answers: dict[str, asyncio.Future[Place]] = {}
        """For owners that wait."""
        self._callers: dict[str, str] = {}
        """Owner → the actor's process that asked for it."""
        self._listens = False
        self._looks = False
        """It is about to look at the machines."""

    async def place(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The processes to be made, in order: {"owner", "processes": [{"name", "tasks", "machine", "needs", "reasons"}], "log"}.

        "log" is what was heard and said from the moment of asking to that of the answer, as `log()` gives it: it replays to this answer.

        Raises:
            PlacementError: it fits nowhere, or not now and `wait` was not asked for; says what was asked and who holds it.
            ValueError: no such request can be.
        """
        wanted = request_of(request)
        call = CALL.get()
        if call is not None:
            self._callers[wanted.owner] = call.caller
        self._listen()
        trace: list[Entry] = [self._core.snapshot()]
        self._traces.append(trace)
        try:
            self._look()
            (said,) = self._handle(Submit(self._impatient(wanted)))
            if isinstance(said, Waiting):
                said = await self._granted(wanted.owner)
        finally:
            self._traces = [t for t in self._traces if t is not trace]
        if isinstance(said, Refuse):
            raise PlacementError(said.error)
        return {**as_dict(said), "log": _plain(trace)}

    async def release(self, owner: str) -> None:
        """All that was placed for `owner` is given back. Actors of it that are still there count as anybody's until they are gone."""
        self._release(owner)

    def _release(self, owner: str) -> None:
        self._callers.pop(owner, None)
        self._settle(self._handle(Release(owner)))

    async def withdraw(self, owner: str) -> None:
        """`owner` waits no more; its `place` raises PlacementError."""
        self._withdraw(owner)

    def _withdraw(self, owner: str) -> None:
        self._settle([Refuse(owner, f"the request of {owner!r} was withdrawn"), *self._handle(Withdraw(owner))])

    async def log(self) -> list[dict[str, Any]]:
        """All it heard and said: first {"snapshot": …}, then {"event": …, "instructions": […]}; `scheduling.replay` goes through it."""
        return _plain(self._log)

    async def state(self) -> dict[str, Any]:
        """For people: {"machines": […], "placed": […], "waiting": [owner, …]}."""
        return self._core.state()

    # -- the core ----------------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> list[Instruction]:
        said = self._core.handle(event)
        for log in (self._log, *self._traces):
            log.append((event, tuple(said)))
        self._logged += _items(event)
        if len(self._log) > LOG_ENTRIES or self._logged > LOG_ITEMS:
            self._log, self._logged = [self._core.snapshot()], 0
        return said

    def _settle(self, instructions: list[Instruction]) -> None:
        """Answer those who waited."""
        for said in instructions:
            answer = self._answers.get(said.owner)
            if answer is None or answer.done():
                continue
            if isinstance(said, Place):
                answer.set_result(said)
            elif isinstance(said, Refuse):
                answer.set_exception(PlacementError(said.error))

    async def _granted(self, owner: str) -> Place:
        """Its turn came. A caller that gives up waits no more."""
        answer: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._answers[owner] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            self._settle(self._handle(Withdraw(owner)))
            raise
        finally:
            del self._answers[owner]

    def _impatient(self, wanted: Request) -> Request:
        return replace(wanted, wait=False) if current.engine().context()["node_id"] == LOCAL_NODE else wanted

    # -- the cluster -------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looks = False
        self._settle(self._handle(Facts(tuple(map(machine_from, current.engine().machines())))))

    def _look_again(self) -> None:
        try:
            self._look()
        except SomaError as e:  # the cluster ends: those who wait must hear of it
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(e)

    def _listen(self) -> None:
        """Look again when an actor ended for which somebody may have waited, or one of those placed here began."""
        if self._listens:
            return
        self._listens = True
        loop = asyncio.get_running_loop()

        def on_event(event: Mapping[str, Any]) -> None:  # in another thread
            kind = event.get("kind")
            if loop.is_closed():
                return
            if kind == "ActorDied" and (died := f"{event['actor_id']}.{event.get('incarnation')}") in self._callers.values():
                loop.call_soon_threadsafe(self._caller_died, died)
            ours = self._core.holds(str(event.get("name")))
            if not self._looks and (kind == "ActorDied" and (ours or self._answers) or kind == "ActorStarted" and ours):
                self._looks = True
                loop.call_soon_threadsafe(self._look_again)

        current.engine().on_event(on_event)

    def _caller_died(self, peer: str) -> None:
        """What a process that died has made dies with it (but what is detached, which `Facts` will show)."""
        for owner in [owner for owner, caller in self._callers.items() if caller == peer]:
            self._withdraw(owner)
            self._release(owner)


def _plain(log: list[Entry]) -> list[dict[str, Any]]:
    return [{"snapshot": entry} if isinstance(entry, dict) else {"event": as_dict(entry[0]), "instructions": [*map(as_dict, entry[1])]}
            for entry in log]


def _items(event: Event) -> int:
    match event:
        case Facts(machines):
            return sum(len(m.reserved) for m in machines)
        case Submit(request):
            return len(request.tasks)
    return 0


def machine_from(told: Mapping[str, Any]) -> Machine:
    """What an engine tells of a machine, as the core takes it. Tasks that run hold nothing for long: they count as load."""
    able, lent = told["capabilities"], told["lent"].values()
    load = max(told["load"]["load_1m"], sum(held.get("CPU", 0.0) for held in lent))
    return Machine(told["node_id"], told["totals"], tuple(able["tags"]), max(1, int(able["cpu_cores"])), len(able["gpus"]), load,
                   told["reserved"], told["gpu_shares"])


def scheduler_of_cluster() -> ActorHandle[Scheduler]:
    """The scheduler of the running cluster, made when first asked for; the same from every process of it."""
    options = Options(name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0, max_concurrency=AT_ONCE)
    return ActorClass(Scheduler, options).remote()
