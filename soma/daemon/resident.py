"""One actor of the cluster, as its head keeps it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from soma.actors.placing import amounts
from soma.actors.supervisor import Life
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
