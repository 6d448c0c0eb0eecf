"""The actors of a machine: their records, and what is done to them. The thin shell around `supervisor.Life`.

Every change of an actor's phase goes through `Life`; this file carries out what it decides: reserve, fork, tell the watchers,
kill, restart after a pause.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soma.actors import blackbox
from soma.actors.lifecycle import Phase
from soma.actors.placing import amounts
from soma.actors.process import Start
from soma.actors.savepoint import path_of
from soma.actors.supervisor import Life
from soma.daemon.output import Output
from soma.daemon.reaping import death_cause
from soma.daemon.visible import visible_gpus
from soma.errors import DeathCause
from soma.ids import ActorId, incarnation_peer
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.node import Daemon


@dataclass(slots=True, eq=False)
class Resident:
    """One actor on this machine."""

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
    pid: int = 0
    box: int = -1
    output: Output | None = None
    ending: DeathCause | None = None
    """Why we are ending it; wins over what the wait status says."""
    leaving: tuple[str, int] | None = None
    stopped: bool = False
    """By SIGSTOP: it answers nothing until SIGCONT."""
    init_error: tuple[str, list[bytes]] | None = None
    rss: int = 0
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


class Residents:
    """All of them, by id, by name and by peer."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self.by_id: dict[ActorId, Resident] = {}
        self._by_peer: dict[str, Resident] = {}
        self._names: dict[tuple[str, str], Resident] = {}
        self._early_watchers: dict[ActorId, set[str]] = {}
        self._tombs: dict[ActorId, Resident] = {}
        self.on_gone: Callable[[Resident], None] = lambda r: None

    def of_peer(self, peer: str) -> Resident | None:
        return self._by_peer.get(peer)

    def find(self, namespace: str, name: str) -> Resident | None:
        return self._names.get((namespace, name))

    # -- making --------------------------------------------------------------------------------------------------------------

    def create(self, msg: m.CreateActor, *, is_worker: bool = False) -> Resident:
        """A record for a new actor; `start` or the admission queue does the rest."""
        s = self._d.settings
        life = Life(int(msg.options.get("max_restarts", 0)), s.restart_intensity, s.restart_period)
        r = Resident(ActorId(msg.actor), msg.creator, msg.class_name, msg.options, msg.info, life, is_worker)
        r.holder = "" if is_worker else r.actor
        r.watchers = self._early_watchers.pop(r.actor, set())
        self.by_id[r.actor] = r
        if r.options.get("name"):
            self._names[r.options["namespace"], r.options["name"]] = r
        return r

    def start(self, r: Resident) -> None:
        """Fork a process for the next incarnation; its resources are reserved."""
        d = self._d
        incarnation = r.life.admitted()
        r.ending = r.leaving = r.init_error = None
        r.stopped = False
        self._by_peer[peer := r.peer] = r
        try:
            self._launch(r, incarnation)
        except (OSError, ValueError) as e:  # no descriptors left, or a start that is too long to be told
            why = f"{type(e).__name__}: {e}"
            d.after(0.0, lambda: self.on_failed(peer, why, d.now()))
            return
        d.after(d.settings.init_timeout, lambda: self._init_timeout(r, incarnation))

    def _launch(self, r: Resident, incarnation: int) -> None:
        """Ask the forkserver for a process with its pipes and black box."""
        d = self._d
        r.box = blackbox.create()
        out_read, out_write = os.pipe()
        try:
            err_read, err_write = os.pipe()
        except OSError:
            os.close(out_read)
            os.close(out_write)
            raise
        r.output = Output(d, r, out_read, err_read)
        if not r.is_worker:  # a worker is lent for tasks of many sizes
            d.cores.take(r.actor, r.options["num_cpus"])
        env = {**r.options.get("env", {}), **visible_gpus(d.capabilities.gpus, d.settings.num_gpus, d.pool.gpus_of(r.holder))}
        start = Start(str(d.directory), r.actor, incarnation, r.class_name, r.creator, r.options.get("payload", b""), d.node,
                      r.options.get("namespace", ""), d.totals, d.settings.object_store_memory,
                      max(1, int(r.options.get("num_cpus", 1))), env, d.cores.of(r.actor), d.settings.tags)
        d.spawner.spawn(start, (out_write, err_write, os.dup(r.box)), r.options.get("heavy", ()), d.settings.start_method)

    def _init_timeout(self, r: Resident, incarnation: int) -> None:
        if r.life.phase is Phase.STARTING and r.life.incarnation == incarnation:
            detail = f"its constructor did not return within {self._d.settings.init_timeout:g} s"
            self.end(r, DeathCause("init", pid=r.pid, detail=detail))

    def refuse(self, r: Resident, why: str) -> None:
        """It cannot be made at all."""
        r.life.stop()
        self._buried(r, DeathCause("init", detail=why))

    def on_spawned(self, peer: str, pid: int) -> None:
        r = self._by_peer[peer]
        r.pid = pid
        self._event(r, "ActorStarted", pid=pid, restarts=r.life.restarts)
        if r.ending is not None:  # it was to end before it was there
            self.end(r, r.ending)
        self._d.memory.ensure()

    def on_stopped(self, peer: str, *, stopped: bool) -> None:
        """Its process was stopped by a signal, or goes on. Nothing is done about it: only a person knows what it is for."""
        r = self._by_peer.get(peer)
        if r is not None:
            r.stopped = stopped
            self._event(r, "ActorStopped" if stopped else "ActorContinued", pid=r.pid)

    def on_failed(self, peer: str, why: str, now: float) -> None:
        """The machine refused another process."""
        r = self._by_peer[peer]
        r.ending = DeathCause("init", detail=f"no process could be made: {why}")
        self.on_exited(peer, 0, 0, 0, now)

    def on_ready(self, msg: m.ActorReady, frames: list[bytes]) -> None:
        r = self.by_id.get(ActorId(msg.actor))
        if r is None or r.life.incarnation != msg.incarnation or r.life.phase not in (Phase.STARTING, Phase.STOPPING):
            return
        if msg.error:
            r.init_error = (msg.error, frames)
            self._d.send(r.peer, m.Stop("heard"))
        elif r.life.constructed():
            self._tell(r)

    # -- watching --------------------------------------------------------------------------------------------------------------

    def watch(self, actor: ActorId, peer: str) -> None:
        r = self.by_id.get(actor) or self._tombs.get(actor)
        if r is None:
            self._early_watchers.setdefault(actor, set()).add(peer)
            return
        r.watchers.add(peer)
        if r.life.phase in (Phase.READY, Phase.DEAD):
            self._d.send(peer, self._update(r), self._update_frames(r))

    def _update(self, r: Resident) -> m.ActorUpdate:
        cause = dataclasses.astuple(r.last) if r.last and r.life.phase is not Phase.READY else ()
        short = [dataclasses.astuple(dataclasses.replace(c, stderr_tail="", detail=c.detail[:500])) for c in r.life.history]
        return m.ActorUpdate(r.actor, max(0, r.life.incarnation), r.life.phase.value, cause, tuple(short))

    def _update_frames(self, r: Resident) -> list[bytes]:
        if r.life.phase is Phase.READY:
            return []
        return [r.last_begun, *(r.init_error[1] if r.init_error else [])]

    def _tell(self, r: Resident) -> None:
        update, frames = self._update(r), self._update_frames(r)
        for peer in r.watchers:
            self._d.send(peer, update, frames)

    def _event(self, r: Resident, kind: str, **more: Any) -> None:
        self._d.event({"kind": kind, "actor_id": r.actor, "class_name": r.class_name, "name": r.options.get("name"),
                       "incarnation": r.life.incarnation, **more})

    # -- ending ------------------------------------------------------------------------------------------------------------------

    def end(self, r: Resident, why: DeathCause) -> None:
        """Kill its process, if it has one. Whether it comes again is `Life`'s decision when the process is gone."""
        if r.ending is None:
            r.ending = why
        if r.pid:
            try:
                os.kill(r.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def stop(self, r: Resident, reason: str, *, graceful: bool) -> None:
        """End it for good; `graceful` lets it finish its queue."""
        if r.life.phase is Phase.DEAD:
            return
        self._free_name(r)  # at once: its name may be given again while it still ends
        had_process = r.life.stop()
        why = DeathCause(reason, pid=r.pid)
        if not had_process:
            self._buried(r, why)
        elif graceful:
            self._d.send(r.peer, m.Stop(reason))
            r.leaving = r.leaving or (reason, 0)
        else:
            self.end(r, why)

    def on_exited(self, peer: str, pid: int, status: int, max_rss: int, now: float) -> None:
        """A process is gone: explain it, tell everybody, restart or bury."""
        d = self._d
        r = self._by_peer.pop(peer)
        was_starting = r.life.phase is Phase.STARTING
        if r.box >= 0:
            r.last_begun = blackbox.begun(r.box)
            os.close(r.box)
        tail = r.output.finish() if r.output else ""
        r.output = None
        cause = self._cause(r, pid, status, max_rss, tail)
        if was_starting and cause.reason in ("exited", "signal", "oom", "oom?"):
            cause = dataclasses.replace(cause, in_constructor=True)
        r.pid, r.box = 0, -1
        cause, pause = r.life.died(cause, now)
        r.last = cause
        d.pool.resume(r.holder)
        d.peer_died(peer)
        self._event(r, "ActorDied", reason=cause.reason, signal=cause.signal, exit_code=cause.exit_code, pid=pid)
        if pause is None:
            self._buried(r, cause)
            return
        self._tell(r)
        self._event(r, "ActorRestarted", restarts=r.life.restarts)
        d.after(pause, lambda: self.start(r) if r.life.phase is Phase.RESTARTING else None)

    def _cause(self, r: Resident, pid: int, status: int, max_rss: int, tail: str) -> DeathCause:
        if r.ending is not None:
            return dataclasses.replace(death_cause(pid, status, reason=r.ending.reason, stderr_tail=tail, detail=r.ending.detail,
                                                   rss=r.ending.rss, limit=r.ending.limit))
        if r.init_error is not None:
            return DeathCause("init", pid=pid, stderr_tail="", detail=r.init_error[0])
        if r.leaving is not None and os.WIFEXITED(status):
            return DeathCause(r.leaving[0], exit_code=os.WEXITSTATUS(status), pid=pid, stderr_tail=tail)
        return death_cause(pid, status, memory_was_high=max_rss > self._d.ram / 2, rss=max_rss, stderr_tail=tail)

    def _buried(self, r: Resident, cause: DeathCause) -> None:
        r.last = cause
        del self.by_id[r.actor]
        self._free_name(r)
        path_of(self._d.directory, r.actor).unlink(missing_ok=True)
        self._tombs[r.actor] = r
        while len(self._tombs) > 10_000:
            self._tombs.pop(next(iter(self._tombs)))
        self._tell(r)
        r.watchers.clear()
        self.on_gone(r)

    def _free_name(self, r: Resident) -> None:
        name = (str(r.options.get("namespace")), str(r.options.get("name")))
        if r.options.get("name") and self._names.get(name) is r:
            del self._names[name]
