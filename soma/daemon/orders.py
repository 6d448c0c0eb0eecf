"""What the head tells a machine and hears from it: plain data, so that the machine may be this process or a node elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from soma.actors.admission import Where
from soma.ids import ActorId, incarnation_peer
from soma.transport.messages import LogLines


@dataclass(frozen=True, slots=True)
class Order:
    """A process to be made: one incarnation of an actor."""

    actor: ActorId
    incarnation: int
    class_name: str
    label: str
    """How people name it in what it prints."""
    creator: str
    payload: bytes
    """Object id of the constructor's call; empty for a task worker."""
    namespace: str
    num_cpus: float
    memory: int
    """Bytes it may have in use; 0: no limit."""
    is_worker: bool = False
    gpus: tuple[int, ...] = ()
    """Those it was given, numbered as in the machine's capabilities."""
    env: Mapping[str, str] = field(default_factory=dict)
    heavy: tuple[str, ...] = ()
    """Modules that the forkserver shall have imported."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """What the cluster has."""
    environment: bytes = b""
    """Object id of what its process has to make first (`runtime_env`); empty: nothing."""

    @property
    def peer(self) -> str:
        return incarnation_peer(self.actor, self.incarnation)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, as its machine saw it."""

    pid: int
    status: int
    """As `waitpid` tells it."""
    max_rss: int
    memory_was_high: bool
    """It had more than half of its machine's."""
    tail: str = ""
    """The last lines of its stderr."""
    begun: bytes = b""
    """Fingerprints of the calls it had begun, from its black box."""
    over: tuple[int, int] | None = None
    """It was ended because it had (bytes) more than its limit (bytes)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody waits for."""

    amounts: dict[str, float]
    where: Where
    lasting: bool
    """As long as an actor lives."""
    near: str | None
    """The machine of who asks."""


class Reports(Protocol):
    """Who hears from a machine. Processes are named by their peer without an address: actor and incarnation."""

    def on_spawned(self, peer: str, pid: int, cores: tuple[int, ...]) -> None: ...
    def on_stopped(self, peer: str, *, stopped: bool) -> None: ...
    def on_failed(self, peer: str, why: str) -> None:
        """The machine refused another process."""

    def on_exited(self, peer: str, exit: Exit) -> None: ...
    def on_lines(self, lines: LogLines) -> None:
        """A process printed something that drivers shall show."""


Box = tuple[bytes, bytes]
"""What a black box says: fingerprints of the calls begun, fingerprint of the one that runs."""


LogPiece = tuple[bytes, int]
"""What a process printed, and the offset behind it in its log."""
LOG_PIECE = 256 * 1024


class Machine(Protocol):
    """The hands of the cluster on one machine. Nothing here waits; what comes of it is said to its `Reports`."""

    node: str
    totals: dict[str, float]
    tags: tuple[str, ...]
    labels: dict[str, str]
    max_concurrent: int | None
    """So many processes with CPUs may run there at a time; None: as many as its resources allow."""

    def launch(self, order: Order) -> None:
        """OSError or ValueError if it cannot even be tried."""

    def kill(self, peer: str) -> None:
        """SIGKILL, if it has a process."""

    def forget(self, actor: ActorId) -> None:
        """It is gone for good: its cores and what it saved with it."""

    def look(self, peer: str, then: Callable[[Box | None], None]) -> None:
        """`then` gets what its black box says; None when it has no process."""

    def read_log(self, peer: str, offset: int, then: Callable[[LogPiece | None], None]) -> None:
        """`then` gets what it printed from byte `offset` on (negative: from the end), at most `LOG_PIECE` bytes; None: nothing."""

    def rss(self, peer: str) -> int:
        """Bytes it had in use when last looked at; 0 when nobody knows."""

    def flush(self) -> None:
        """Pass on what processes have printed until now."""

    def facts(self) -> dict[str, Any]:
        """`capabilities` and `load`, as in `Engine.machines`; cheap."""

    def about(self) -> dict[str, Any]:
        """What `soma status` shows of it besides: pid, forkserver_pid, directory."""


def told_exit(exit: Exit) -> dict[str, Any]:
    """As plain data for a message."""
    return {f.name: getattr(exit, f.name) for f in dataclasses.fields(exit)}


def read_exit(detail: dict[str, Any]) -> Exit:
    """What `told_exit` made."""
    over = detail.get("over")
    return Exit(int(detail["pid"]), int(detail["status"]), int(detail["max_rss"]), bool(detail["memory_was_high"]), str(detail["tail"]),
                bytes(detail["begun"]), None if over is None else (int(over[0]), int(over[1])))
