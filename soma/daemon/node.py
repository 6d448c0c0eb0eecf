"""The daemon's loop: one thread, one selector, and nothing that blocks.

It routes what arrives to those who own the matter: `residents` (actors), `loans` (task workers), `waits` (blocked actors), `memory`
(limits). It never unpickles anything.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soma.actors.admission import Pool, Queue
from soma.actors.placing import check_options
from soma.config import Settings
from soma.daemon.capabilities import Capabilities
from soma.daemon.cores import Cores, usable
from soma.daemon.loans import Loans
from soma.daemon.memory import MemoryWatch
from soma.daemon.output import Repeats
from soma.daemon.questions import Questions
from soma.daemon.reaping import kill_all
from soma.daemon.residents import Resident, Residents
from soma.daemon.spawner import Spawner
from soma.daemon.stalls import Stalls
from soma.errors import DeathCause, ProtocolError
from soma.ids import DAEMON, ActorId
from soma.transport import messages as m
from soma.transport.endpoint import ZmqWire
from soma.transport.frames import pack, read

log = logging.getLogger("soma.daemon")


class Daemon:
    """One machine's part of the cluster. `run` returns when the cluster is over."""

    def __init__(self, directory: Path, node: str, settings: Settings, capabilities: Capabilities, spawner: Spawner) -> None:
        self.directory, self.node, self.settings, self.spawner = directory, node, settings, spawner
        self.capabilities = capabilities
        self.ram = capabilities.ram_bytes
        self.totals = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, "memory": float(settings.memory), **settings.resources}
        self.totals = {k: v for k, v in self.totals.items() if v}
        self.pool = Pool(self.totals)
        self.cores = Cores(usable())
        self._wire = ZmqWire(directory)
        self._outlet = self._wire.outlet(DAEMON)
        self._mailbox = self._wire.mailbox(DAEMON)
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.peers: dict[str, str] = {}
        self.drivers: set[str] = set()
        self.listeners: set[str] = set()
        self._event_number = itertools.count()
        self._over = False
        self.repeats = Repeats(self)
        self._complained: set[bytes] = set()
        self.refused = 0
        self.residents = Residents(self)
        self.loans = Loans(self)
        self.stalls = Stalls(self)
        self.memory = MemoryWatch(self)
        self.residents.on_gone = self._on_gone
        self._queue = Queue()
        self._admitted: dict[str, Callable[[], None]] = {}
        self.questions = Questions(self)
        self._handlers: dict[type, Callable[[Any, list[bytes]], None]] = {
            m.Hello: self._on_hello, m.CreateActor: self._on_create, m.Watch: lambda x, _: self.residents.watch(ActorId(x.actor), x.peer),
            m.Kill: self._on_kill, m.FindActor: self._on_find, m.ActorReady: self.residents.on_ready, m.Leaving: self._on_leaving,
            m.Blocked: self._on_blocked, m.Unblocked: self._on_unblocked, m.LeaseWorker: lambda x, _: self.loans.ask(x),
            m.ReturnWorker: lambda x, _: self.loans.give_back(x), m.Ask: self.questions.on_ask, m.Answer: self.questions.on_answer,
            m.Event: lambda x, _: self.to_listeners(x),
        }
        self.watch_fd(spawner.fileno(), self._on_zygote)
        self._selector.register(self._mailbox.fileno(), selectors.EVENT_READ, None)

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._over:
            while self._mailbox.poll(0):
                self._on_message(self._mailbox.take())
            if self._over:
                break
            for key, _ in self._selector.select(self._until_next_timer()):
                if key.data is not None and self._selector.get_map().get(key.fd) is key:  # an earlier one may have closed it
                    key.data(key.fd)
            now = self.now()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """End every actor and let the zygote remove what is left."""
        self._mailbox.close()
        self.spawner.close()
        _, status = os.waitpid(self.spawner.pid, 0)
        if status:  # it did not come to cleaning up
            kill_all(self.directory.name, deadline=self.now() + 2.0)
        self._outlet.close(0.2)
        self._wire.close()

    def now(self) -> float:
        return time.monotonic()

    def after(self, seconds: float, fn: Callable[[], None]) -> None:
        """Call `fn` once, later."""
        heapq.heappush(self._timers, (self.now() + seconds, next(self._order), fn))

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - self.now()) if self._timers else None

    def watch_fd(self, fd: int, fn: Callable[[int], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, fn)

    def watches(self, fd: int) -> bool:
        return fd in self._selector.get_map()

    def unwatch_fd(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    # -- messages ------------------------------------------------------------------------------------------------------------

    def send(self, peer: str, msg: Any, frames: list[bytes] | None = None) -> None:
        self._outlet.send(peer, [pack(msg), *(frames or ())])

    def disconnect(self, peer: str) -> None:
        """Drop the connection to a peer that will not come back."""
        self._outlet.disconnect(peer)

    def answer(self, peer: str, request: bytes, fields: dict[str, Any] | None = None, *, error: str = "", text: str = "",
               body: bytes | None = None) -> None:
        self.send(peer, m.Answer(request, error, text, fields or {}), None if body is None else [body])

    def to_drivers(self, msg: Any) -> None:
        for driver in self.drivers:
            self.send(driver + ".s", msg)

    def event(self, fields: dict[str, Any]) -> None:
        if self.listeners:
            self.to_listeners(m.Event({**fields, "run_id": self.directory.name, "seq": next(self._event_number), "time": time.time(),
                                       "node_id": self.node}))

    def to_listeners(self, event: m.Event) -> None:
        """An event of ours, or one that a process published."""
        for peer in self.listeners:
            self.send(peer + ".s", event)

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            msg = read(frames, self._handlers, "the daemon")
            self._handlers[type(msg)](msg, frames[2:])
        except ProtocolError as e:
            self.refused += 1
            if frames[0] not in self._complained and len(self._complained) < 256:
                self._complained.add(frames[0])
                log.warning("refused a message from %r: %s (further ones from it are only counted)", frames[0][:32], e)

    def _on_hello(self, msg: m.Hello, frames: list[bytes]) -> None:
        self.peers[msg.peer] = msg.role
        if msg.role == "driver":
            self.drivers.add(msg.peer)
            self._outlet.connect(msg.peer + ".s")  # now: at the end there may be no time left for it

    def peer_died(self, peer: str) -> None:
        """A process is gone: tell all others, and end what it had created."""
        self.peers.pop(peer, None)
        self.listeners.discard(peer)
        for other in self.peers:
            self.send(other + ".s", m.PeerDied(peer))
        self._outlet.disconnect(peer)
        self._outlet.disconnect(peer + ".s")
        self.stalls.forget(peer)
        self.loans.peer_died(peer)
        for r in list(self.residents.by_id.values()):
            if r.creator == peer and not r.options.get("detached"):
                self.stop(r, "owner", graceful=False)

    # -- actors --------------------------------------------------------------------------------------------------------------

    def _on_create(self, msg: m.CreateActor, frames: list[bytes]) -> None:
        check_options(msg.options, actor=True)
        if ActorId(msg.actor) in self.residents.by_id:
            raise ProtocolError(f"actor {msg.actor} exists")
        name, namespace = msg.options.get("name"), msg.options.get("namespace")
        if name and self.residents.find(str(namespace), name) is not None:
            self.answer(msg.creator, msg.request, error="ValueError",
                        text=f"an actor named {name!r} exists in namespace {namespace!r}; use get_if_exists=True, or soma.get_actor")
            return
        r = self.residents.create(msg)
        if msg.request:
            self.answer(msg.creator, msg.request)
        try:
            self.when_admitted(r.holder, r.amounts, lambda: self.residents.start(r), lasting=True)
        except ValueError as e:  # amounts that no honest driver sends
            self.residents.refuse(r, str(e))

    def when_admitted(self, holder: str, amounts: dict[str, float], then: Callable[[], None], *, lasting: bool) -> None:
        """Reserve, then call `then`; at once if there is room."""
        self._queue.add(holder, amounts, lasting=lasting)
        self._admitted[holder] = then
        self.admit()

    def not_admitted(self, holder: str) -> None:
        """It waits no more."""
        self._queue.remove(holder)
        self._admitted.pop(holder, None)

    def admit(self) -> None:
        """Resources came free, or somebody new wants some."""
        for holder in self._queue.admit(self.pool):
            self._admitted.pop(holder)()

    def stop(self, r: Resident, reason: str, *, graceful: bool) -> None:
        self.residents.stop(r, reason, graceful=graceful)

    def _on_gone(self, r: Resident) -> None:
        self.not_admitted(r.holder)
        self.pool.release(r.holder)
        self.cores.release(r.actor)
        self.loans.on_gone(r)
        self.admit()

    def _on_kill(self, msg: m.Kill, frames: list[bytes]) -> None:
        r = self.residents.by_id.get(ActorId(msg.actor))
        if r is None:
            return
        if msg.no_restart:
            self.stop(r, msg.reason, graceful=msg.graceful)
        else:
            self.residents.end(r, DeathCause("cancelled" if msg.reason == "cancelled" else "signal", pid=r.pid))

    def _on_find(self, msg: m.FindActor, frames: list[bytes]) -> None:
        r = self.residents.find(msg.namespace, msg.name)
        if r is None:
            self.answer(msg.peer, msg.request, error="ValueError", text=f"no actor named {msg.name!r} in namespace {msg.namespace!r}")
        else:
            self.answer(msg.peer, msg.request, body=r.info)

    def _on_leaving(self, msg: m.Leaving, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            r.leaving = r.leaving or (msg.reason, msg.exit_code)
            self.send(msg.peer, m.Stop("heard"))

    def _on_blocked(self, msg: m.Blocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pool.suspend(r.holder)
            self.stalls.blocked(r, msg)
            self.admit()

    def _on_unblocked(self, msg: m.Unblocked, frames: list[bytes]) -> None:
        r = self.residents.of_peer(msg.peer)
        if r is not None:
            self.pool.resume(r.holder)
            self.stalls.unblocked(r, msg.epoch)

    def _on_zygote(self, fd: int) -> None:
        try:
            said = self.spawner.read()
        except EOFError:
            log.error("the forkserver is gone: ending the cluster")
            self._over = True
            return
        for message in said:
            if "spawned" in message:
                self.residents.on_spawned(message["spawned"], message["pid"])
            elif "exited" in message:
                while self._mailbox.poll(0):  # what it said before it went
                    self._on_message(self._mailbox.take())
                self.residents.on_exited(message["exited"], message["pid"], message["status"], message["rss"], self.now())
            elif "failed" in message:
                self.residents.on_failed(message["failed"], message["why"], self.now())
            else:
                stopped = "stopped" in message
                self.residents.on_stopped(message["stopped" if stopped else "continued"], stopped=stopped)

    def finish(self) -> None:
        """End the cluster: the driver said so, or is gone."""
        self._over = True
