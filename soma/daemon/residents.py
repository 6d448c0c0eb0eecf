"""The actors of a cluster: their records, and what is done to them. The thin shell around `supervisor.Life`.

Every change of an actor's phase goes through `Life`; this file carries out what it decides: order a process from a machine, tell the
watchers, kill, restart after a pause. A process is known here by its peer without an address until it says where it is reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from soma.actors.calls import UNTOLD
from soma.actors.lifecycle import Phase
from soma.actors.placing import where_of
from soma.actors.supervisor import Life
from soma.daemon.orders import Exit, Machine, Order, Wanted
from soma.daemon.resident import Resident, told_actor
from soma.daemon.watching import Watching
from soma.errors import DeathCause
from soma.ids import ActorId
from soma.transport import messages as m
from soma.transport.frames import pack
from soma.transport.naming import local_name

if TYPE_CHECKING:
    from soma.daemon.head import Head


ENVIRONMENT_TIMEOUT = 600.0
"""Seconds more that a constructor may take whose process has to make an environment first."""


class Residents(Watching):
    """All of them, by id, by name and by peer."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._by_peer: dict[str, Resident] = {}
        self._names: dict[tuple[str, str], Resident] = {}
        self.on_gone: Callable[[Resident], None] = lambda r: None

    def of_peer(self, peer: str) -> Resident | None:
        return self._by_peer.get(local_name(peer))

    def find(self, namespace: str, name: str) -> Resident | None:
        return self._names.get((namespace, name))

    def called(self, text: str) -> Resident | None:
        """The one, alive or not long dead, of this name or with an id that begins so; None if there are none or several."""
        every = [*self.by_id.values(), *self.tombs.values()]
        named = [r for r in every if r.options.get("name") == text]
        found = named or [r for r in every if len(text) >= 4 and r.actor.startswith(text)]
        return found[0] if len(found) == 1 or named else None

    # -- making --------------------------------------------------------------------------------------------------------------

    def create(self, msg: m.CreateActor, *, is_worker: bool = False) -> Resident:
        """A record for a new actor; `start` or the admission queue does the rest."""
        s = self._d.settings
        life = Life(int(msg.options.get("max_restarts", 0)), s.restart_intensity, s.restart_period)
        r = Resident(ActorId(msg.actor), msg.creator, msg.class_name, msg.options, msg.info, life, is_worker)
        r.holder = "" if is_worker else r.actor
        r.watchers = self.early_watchers.pop(r.actor, set())
        self.by_id[r.actor] = r
        if r.options.get("name"):
            self._names[r.options["namespace"], r.options["name"]] = r
        if self._d.book.lasting:
            self._d.book.put("actor", r.actor, told_actor(r))
        self.note(r)
        return r

    def adopt(self, r: Resident) -> None:
        """One of an earlier head's."""
        if r.life.phase is Phase.DEAD:
            self.bury_again(r)
            return
        self.by_id[r.actor] = r
        if r.options.get("name") and r.life.phase is not Phase.STOPPING:
            self._names[str(r.options["namespace"]), r.options["name"]] = r
        if r.has_process:
            self._by_peer[r.peer] = r

    def place(self, r: Resident) -> None:
        """Have it started where there is room for it, as soon as there is."""
        d = self._d
        try:
            wanted = Wanted(r.amounts, where_of(r.options), True, d.node_of(r.creator))
            d.when_admitted(r.holder, wanted, lambda machine: self.start(r, machine))
        except ValueError as e:  # amounts that no honest driver sends
            self.refuse(r, str(e))

    def start(self, r: Resident, machine: Machine) -> None:
        """Have a process made for the next incarnation; its resources are reserved on this machine."""
        d = self._d
        incarnation = r.life.admitted()
        r.ending = r.leaving = r.init_error = None
        r.stopped, r.address, r.machine, r.has_process = False, "", machine, True
        r.unsaid.clear()
        self._by_peer[peer := r.peer] = r
        self.note(r)
        o = r.options
        order = Order(r.actor, incarnation, r.class_name, r.label, r.creator, o.get("payload", b""), o.get("namespace", ""),
                      float(o.get("num_cpus", 1)), int(o.get("memory") or 0), r.is_worker, d.pools.gpus_of(r.holder), o.get("env", {}),
                      tuple(o.get("heavy", ())), d.totals, o.get("environment", b""))
        try:
            machine.launch(order)
        except (OSError, ValueError) as e:  # no descriptors left, or a start that is too long to be told
            why = f"{type(e).__name__}: {e}"
            d.loop.after(0.0, lambda: self.on_failed(peer, why))
            return
        self.await_constructor(r)

    def await_constructor(self, r: Resident) -> None:
        incarnation = r.life.incarnation
        patience = self._d.settings.init_timeout + (ENVIRONMENT_TIMEOUT if r.options.get("environment") else 0.0)
        self._d.loop.after(patience, lambda: self._init_timeout(r, incarnation, patience))

    def _init_timeout(self, r: Resident, incarnation: int, patience: float) -> None:
        if r.life.phase is Phase.STARTING and r.life.incarnation == incarnation:
            detail = f"its constructor did not return within {patience:g} s"
            self.end(r, DeathCause("init", pid=r.pid, detail=detail))

    def refuse(self, r: Resident, why: str) -> None:
        """It cannot be made at all."""
        r.life.stop()
        self._buried(r, DeathCause("init", detail=why))

    def on_spawned(self, peer: str, pid: int, cores: tuple[int, ...]) -> None:
        r = self._by_peer[peer]
        if r.pid == pid:
            return  # an earlier head heard it
        r.pid, r.cores = pid, cores
        self.note(r)
        self._event(r, "ActorStarted", pid=pid, restarts=r.life.restarts)

    def on_stopped(self, peer: str, *, stopped: bool) -> None:
        """Its process was stopped by a signal, or goes on. Nothing is done about it: only a person knows what it is for."""
        r = self._by_peer.get(peer)
        if r is not None:
            r.stopped = stopped
            self.note(r)
            self._event(r, "ActorStopped" if stopped else "ActorContinued", pid=r.pid)

    def on_failed(self, peer: str, why: str) -> None:
        self._by_peer[peer].ending = DeathCause("init", detail=f"no process could be made: {why}")
        self.on_exited(peer, Exit(0, 0, 0, False))

    def on_lines(self, lines: m.LogLines) -> None:
        self._d.to_drivers(lines)

    def on_hello(self, peer: str) -> None:
        """A process says where it is reached."""
        r = self.of_peer(peer)
        if r is not None and r.peer == local_name(peer):
            if r.address and r.address != peer:  # it began anew in an environment of its own
                self._d.peer_died(r.address)
                self._d.peers[peer] = "actor"
            r.address = peer
            self.note(r)
            for message in r.unsaid:
                self._d.send_packed(peer, message)
            r.unsaid.clear()

    def say(self, r: Resident, message: Any) -> None:
        """Send something to its process, now or as soon as that is reached."""
        if r.address:
            self._d.send(r.address, message)
        else:
            r.unsaid.append(pack(message))

    def on_ready(self, msg: m.ActorReady, frames: list[bytes]) -> None:
        r = self.by_id.get(ActorId(msg.actor))
        if r is None or r.life.incarnation != msg.incarnation or r.life.phase not in (Phase.STARTING, Phase.STOPPING):
            return
        if msg.error:
            r.init_error = (msg.error, frames)
            self.say(r, m.Stop("heard"))
        elif r.life.constructed():
            self.tell(r)
        self.note(r)

    def _event(self, r: Resident, kind: str, **more: Any) -> None:
        self._d.event({"kind": kind, "actor_id": r.actor, "class_name": r.class_name, "name": r.options.get("name"),
                       "incarnation": r.life.incarnation, **more})

    # -- ending ------------------------------------------------------------------------------------------------------------------

    def end(self, r: Resident, why: DeathCause) -> None:
        """Kill its process, if it has one. Whether it comes again is `Life`'s decision when the process is gone."""
        if r.ending is None:
            r.ending = why
            self.note(r)
        if r.has_process and r.machine is not None:
            r.machine.kill(r.peer)

    def stop(self, r: Resident, reason: str, *, graceful: bool) -> None:
        """End it for good; `graceful` lets it finish its queue."""
        if r.life.phase is Phase.DEAD:
            return
        self._free_name(r)  # at once: its name may be given again while it still ends
        had_process = r.life.stop()
        self.note(r)
        why = DeathCause(reason, pid=r.pid)
        if not had_process:
            self._buried(r, why)
        elif graceful:
            self.say(r, m.Stop(reason))
            r.leaving = r.leaving or (reason, 0)
            self.note(r)
        else:
            self.end(r, why)

    def on_exited(self, peer: str, exit: Exit) -> None:
        """A process is gone: explain it, tell everybody, restart or bury."""
        r = self._by_peer.pop(peer)
        was_starting = r.life.phase is Phase.STARTING
        r.last_begun = exit.begun
        cause = r.cause_of(exit)
        if was_starting and cause.reason in ("exited", "signal", "oom", "oom?"):
            cause = dataclasses.replace(cause, in_constructor=True)
        self._ended(r, cause)

    def _ended(self, r: Resident, cause: DeathCause) -> None:
        d = self._d
        pid, address = r.pid, r.address
        r.pid, r.address, r.has_process = 0, "", False
        r.unsaid.clear()
        cause, pause = r.life.died(cause, d.loop.now())
        r.last = cause
        self.note(r)
        d.pools.resume(r.holder)
        d.note_seat(r.holder)
        d.peer_died(address or r.peer)
        self._event(r, "ActorDied", reason=cause.reason, signal=cause.signal, exit_code=cause.exit_code, pid=pid)
        if pause is None:
            self._buried(r, cause)
            return
        self.tell(r)
        self._event(r, "ActorRestarted", restarts=r.life.restarts)
        d.loop.after(pause, lambda: self.again(r))

    def again(self, r: Resident) -> None:
        if r.life.phase is not Phase.RESTARTING:
            return
        d = self._d
        if r.holder in d.pools and r.machine is not None and d.takes(r.machine):
            self.start(r, r.machine)
            return
        d.release(r.holder)  # its machine is leaving, not heard, or gone
        self.place(r)

    def on_node_lost(self, peer: str, why: str) -> None:
        """Its machine is gone: whatever becomes of its process there, it is of this cluster no more."""
        r = self._by_peer.pop(peer)
        r.last_begun = UNTOLD
        self._ended(r, r.ending or DeathCause("node", pid=r.pid, detail=why, in_constructor=r.life.phase is Phase.STARTING))

    def _buried(self, r: Resident, cause: DeathCause) -> None:
        r.last = cause
        del self.by_id[r.actor]
        self._free_name(r)
        if r.machine is not None:
            r.machine.forget(r.actor)
        self.tell(r)
        self.entomb(r)
        self.on_gone(r)

    def _free_name(self, r: Resident) -> None:
        name = (str(r.options.get("namespace")), str(r.options.get("name")))
        if r.options.get("name") and self._names.get(name) is r:
            del self._names[name]
