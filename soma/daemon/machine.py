"""This machine: forks processes, reads what they print, watches what they use, sees how they end. Decides nothing.

It owns the channel to the forkserver, the pipes and black boxes of every process here, and the cores they are kept on.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma.actors import blackbox
from soma.actors.load import load
from soma.actors.process import Start
from soma.actors.savepoint import path_of
from soma.config import Settings
from soma.daemon.capabilities import Capabilities
from soma.daemon.cores import Cores, usable
from soma.daemon.loop import Loop
from soma.daemon.memory import MemoryWatch, resident_bytes
from soma.daemon.orders import LOG_PIECE, Box, Exit, LogPiece, Order, Reports
from soma.daemon.output import Output, Repeats
from soma.daemon.reaping import kill_all
from soma.daemon.spawner import Spawner
from soma.daemon.visible import visible_gpus
from soma.ids import ActorId

log = logging.getLogger("soma.daemon")


@dataclass(slots=True, eq=False)
class Child:
    """One process here, from the order on."""

    order: Order
    box: int
    output: Output
    pid: int = 0
    killed: bool = False
    over: tuple[int, int] | None = None
    """It has (bytes) more than its limit (bytes): the reason of its end."""


class LocalMachine:
    """The `Machine` that this process runs on."""

    def __init__(self, loop: Loop, directory: Path, node: str, settings: Settings, capabilities: Capabilities, spawner: Spawner,
                 reports: Reports) -> None:
        self.loop, self.directory, self.node, self.settings = loop, directory, node, settings
        self.capabilities, self.tags = capabilities, capabilities.tags
        self.labels: dict[str, str] = {}
        self.max_concurrent: int | None = None
        self.reports = reports
        totals = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, "memory": float(settings.memory), **settings.resources}
        self.totals = {k: v for k, v in totals.items() if v}
        self.children: dict[str, Child] = {}
        self._spawner = spawner
        self._cores = Cores(usable())
        self.repeats = Repeats(self)
        self._memory = MemoryWatch(self)
        self.read_mail: Callable[[], None] = loop.read_all
        """Before a death is told: what the process said before it went."""
        loop.watch_fd(spawner.fileno(), self._on_zygote)

    # -- orders --------------------------------------------------------------------------------------------------------------

    def launch(self, order: Order) -> None:
        box = blackbox.create()
        out_read, out_write = os.pipe()
        try:
            err_read, err_write = os.pipe()
        except OSError:
            for fd in (box, out_read, out_write):
                os.close(fd)
            raise
        child = self.children[order.peer] = Child(order, box, Output(self, order, out_read, err_read))
        if not order.is_worker:  # a worker is lent for tasks of many sizes
            self._cores.take(order.actor, order.num_cpus)
        env = {**order.env, **visible_gpus(self.capabilities.gpus, self.settings.num_gpus, order.gpus)}
        start = Start(str(self.directory), order.actor, order.incarnation, order.class_name, order.creator, order.payload, self.node,
                      order.namespace, order.totals, self.settings.object_store_memory, max(1, int(order.num_cpus)), env,
                      self._cores.of(order.actor), self.tags, order.environment)
        try:
            self._spawner.spawn(start, (out_write, err_write, os.dup(box)), order.heavy, self.settings.start_method)
        except ValueError:
            self._gone(child)
            raise

    def kill(self, peer: str) -> None:
        child = self.children.get(peer)
        if child is None:
            return
        child.killed = True  # perhaps before it is there
        if child.pid:
            try:
                os.kill(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def forget(self, actor: ActorId) -> None:
        self._cores.release(actor)
        path_of(self.directory, actor).unlink(missing_ok=True)

    def kept(self) -> tuple[str, ...]:
        """Actors that something is kept for and that have no process now."""
        here = {child.order.actor for child in self.children.values()}
        return tuple(actor for actor in self._cores.holders() if actor not in here)

    def look(self, peer: str, then: Callable[[Box | None], None]) -> None:
        child = self.children.get(peer)
        then(None if child is None else (blackbox.begun(child.box), blackbox.running(child.box)))

    def read_log(self, peer: str, offset: int, then: Callable[[LogPiece | None], None]) -> None:
        path = next(iter(sorted((self.directory / "logs").glob(f"*-{peer}.log"))), None)
        if path is None:
            then(None)
            return
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            at = max(0, size + offset) if offset < 0 else min(offset, size)
            data = os.pread(f.fileno(), LOG_PIECE, at)
        then((data, at + len(data)))

    def rss(self, peer: str) -> int:
        child = self.children.get(peer)
        return resident_bytes(child.pid) if child is not None and child.pid else 0

    def flush(self) -> None:
        for child in self.children.values():
            child.output.flush()

    def facts(self) -> dict[str, Any]:
        return {"capabilities": self.capabilities.as_dict(), "load": load()}

    def about(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "forkserver_pid": self._spawner.pid, "directory": str(self.directory)}

    # -- what the forkserver says --------------------------------------------------------------------------------------------

    def _on_zygote(self, fd: int) -> None:
        try:
            said = self._spawner.read()
        except EOFError:
            log.error("the forkserver is gone: ending what runs here")
            self.loop.stop()
            return
        for message in said:
            if "spawned" in message:
                self._on_spawned(message["spawned"], message["pid"])
            elif "exited" in message:
                self.read_mail()
                self._on_exited(message["exited"], message["pid"], message["status"], message["rss"])
            elif "failed" in message:
                self._gone(self.children[message["failed"]])
                self.reports.on_failed(message["failed"], message["why"])
            else:
                stopped = "stopped" in message
                self.reports.on_stopped(message["stopped" if stopped else "continued"], stopped=stopped)

    def _on_spawned(self, peer: str, pid: int) -> None:
        child = self.children[peer]
        child.pid = pid
        self.reports.on_spawned(peer, pid, self._cores.of(child.order.actor))
        if child.killed:
            self.kill(peer)
        self._memory.ensure()

    def _on_exited(self, peer: str, pid: int, status: int, max_rss: int) -> None:
        child = self.children[peer]
        begun = blackbox.begun(child.box)
        tail = self._gone(child)
        high = max_rss > self.capabilities.ram_bytes / 2
        self.reports.on_exited(peer, Exit(pid, status, max_rss, high, tail, begun, child.over))

    def _gone(self, child: Child) -> str:
        """Let go of what it had; the last lines of its stderr."""
        tail = child.output.finish()
        del self.children[child.order.peer]
        os.close(child.box)
        return tail

    def close(self) -> None:
        """End every process here and let the forkserver remove what is left."""
        self._spawner.close()
        _, status = os.waitpid(self._spawner.pid, 0)
        if status:  # it did not come to cleaning up
            kill_all(self.directory.name, deadline=self.loop.now() + 2.0)
