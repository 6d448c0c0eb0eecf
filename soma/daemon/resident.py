"""One actor of the cluster, as its head keeps it, and as it writes it down."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import astuple, dataclass, field
from typing import Any

from soma.actors.lifecycle import Phase
from soma.actors.placing import amounts
from soma.actors.supervisor import Life
from soma.config import Settings
from soma.daemon.orders import Exit, Machine
from soma.daemon.reaping import death_cause
from soma.errors import DeathCause
from soma.ids import ActorId, incarnation_peer


@dataclass(slots=True, eq=False)
class Resident:
    """One actor of the cluster."""

    actor: ActorId
    creator: str
    class_name: str
    options: dict[str, Any]
    info: bytes
    life: Life
    is_worker: bool = False
    watchers: set[str] = field(default_factory=set)
    holder: str = ""
    """Under which name its resources are reserved; a task worker's is that of its present loan."""
    machine: Machine | None = None
    """Where its process is, or was last."""
    has_process: bool = False
    """From the order on, until its end is known."""
    address: str = ""
    """The full name of its present process, once that said it."""
    unsaid: list[bytes] = field(default_factory=list)
    """For its process, once it says where it is reached."""
    pid: int = 0
    cores: tuple[int, ...] = ()
    ending: DeathCause | None = None
    """Why we are ending it; wins over what the wait status says."""
    leaving: tuple[str, int] | None = None
    stopped: bool = False
    """By SIGSTOP: it answers nothing until SIGCONT."""
    init_error: tuple[str, list[bytes]] | None = None
    last: DeathCause | None = None
    last_begun: bytes = b""

    @property
    def peer(self) -> str:
        return incarnation_peer(self.actor, self.life.incarnation)

    @property
    def label(self) -> str:
        return self.options.get("name") or self.class_name

    @property
    def amounts(self) -> dict[str, float]:
        return {} if self.is_worker else amounts(self.options)

    @property
    def node(self) -> str:
        return self.machine.node if self.machine is not None else ""

    def cause_of(self, exit: Exit) -> DeathCause:
        """Why its process ended, by what is known of it here and what its machine saw."""
        pid, status, tail = exit.pid, exit.status, exit.tail
        if self.ending is None and exit.over is not None:
            self.ending = DeathCause("oom", rss=exit.over[0], limit=exit.over[1])
        if self.ending is not None:
            return death_cause(pid, status, reason=self.ending.reason, stderr_tail=tail, detail=self.ending.detail,
                               rss=self.ending.rss, limit=self.ending.limit)
        if self.init_error is not None:
            return DeathCause("init", pid=pid, stderr_tail="", detail=self.init_error[0])
        if self.leaving is not None and os.WIFEXITED(status):
            return DeathCause(self.leaving[0], exit_code=os.WEXITSTATUS(status), pid=pid, stderr_tail=tail)
        return death_cause(pid, status, memory_was_high=exit.memory_was_high, rss=exit.max_rss, stderr_tail=tail)


# -- on record ----------------------------------------------------------------------------------------------------------------


def told_actor(r: Resident) -> tuple[Any, ...]:
    """What never changes of an actor."""
    return r.creator, r.class_name, r.options, r.info, r.is_worker


def told_life(r: Resident) -> tuple[Any, ...]:
    """What became of it until now."""
    life = r.life
    return (life.phase.value, life.incarnation, life.restarts, tuple(map(astuple, life.history)), tuple(life._deaths),
            (r.holder, r.node, r.has_process, r.address, r.pid, r.cores, _told(r.ending), r.leaving, r.stopped, r.init_error, _told(r.last),
             r.last_begun))


def read_resident(actor: str, asked: tuple[Any, ...], life: tuple[Any, ...], settings: Settings) -> tuple[Resident, str]:
    """The actor, and on which node it is; it has no machine yet."""
    creator, class_name, options, info, is_worker = asked
    phase, incarnation, restarts, history, deaths, rest = life
    lived = Life(int(options.get("max_restarts", 0)), settings.restart_intensity, settings.restart_period, Phase(phase), incarnation,
                 restarts, tuple(DeathCause(*cause) for cause in history), deque(deaths))
    r = Resident(ActorId(actor), creator, class_name, options, info, lived, is_worker)
    r.holder, node, r.has_process, r.address, r.pid, r.cores, ending, r.leaving, r.stopped, init_error, last, r.last_begun = rest
    r.ending, r.last = _read(ending), _read(last)
    r.init_error = None if init_error is None else (init_error[0], list(init_error[1]))
    return r, node


def _told(cause: DeathCause | None) -> tuple[Any, ...] | None:
    return None if cause is None else astuple(cause)


def _read(told: tuple[Any, ...] | None) -> DeathCause | None:
    return None if told is None else DeathCause(*told)
