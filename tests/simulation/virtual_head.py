"""A head in the simulated world: soma's coordinator and membership, wired as a real head wires them, and a small book of actors.

The book is the least that a head must know of actors: who wants them, how often they may restart. What it decides is written to
the same journal, before it is acted on. A crash can come between any two instructions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from virtual_network import Message, Network

from soma.daemon.coordination import coordinator as c
from soma.daemon.coordination import membership as m
from soma.daemon.coordination.decisions import Accept, Began, Confirm, Kill, Launch, Over, Record
from soma.daemon.coordination.journal import Removed

HEAD = "head"


class HeadCrashed(Exception):
    """In the middle of its work."""


@dataclass(frozen=True, slots=True)
class Wanted:
    actor: str
    owner: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The actor will not run again."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DriverHere:
    driver: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class DriverGone:
    driver: str


OWN = (Wanted, Finished, DriverHere, DriverGone)


@dataclass(slots=True)
class Actor:
    name: str
    owner: str
    restarts: int
    lives: int = 0
    """Processes that are over."""
    running: bool = False
    finished: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}.{self.lives}"


class VirtualHead:
    def __init__(self, network: Network, journal: list[Any], eager: bool, on_news: Callable[[Any], None]) -> None:
        self.network, self.journal, self.on_news = network, journal, on_news
        self.eager = eager
        """What news leads to is done before the rest of what came with it."""
        self.unsynced: list[Any] = []
        self.budget: int | None = None
        """Instructions until it crashes."""
        self.membership = m.Membership()
        self.actors: dict[str, Actor] = {}
        self.drivers: dict[str, int] = {}
        self.versions = 0
        self._waiting: dict[str, Actor] = {}
        self._timer: float | None = None
        self.core = c.Coordinator.restore(e for e in journal if not isinstance(e, OWN))

    @property
    def now(self) -> float:
        return self.network.clock.now

    # -- its life ------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        for entry in self.journal:
            self._replay(entry)
        for name, incarnation in self.drivers.items():
            self.membership.expected(name, incarnation, self.now, m.Kind.DRIVER)
        for node in self.core.nodes.values():
            if not node.gone:
                self.membership.expected(node.name, node.incarnation, self.now)
        self._do(self.core.begin())
        for actor in list(self.actors.values()):
            if not actor.finished and actor.owner not in self.drivers:
                self._finish(actor, "its driver is gone")
            elif not actor.finished and actor.key not in self.core.placements:
                self._next_life(actor)
        for key in list(self.core.placements):
            actor = self.actors[key.partition(".")[0]]
            if actor.finished:
                self._do(self.core.kill(key, self.now))
        self._watch()

    def _replay(self, entry: Any) -> None:
        match entry:
            case Wanted(name, owner, restarts):
                self.actors[name] = Actor(name, owner, restarts)
            case Finished(name, reason):
                self.actors[name].finished = reason
            case Removed(key):
                self.actors[key.partition(".")[0]].lives += 1
            case DriverHere(driver, incarnation):
                self.drivers[driver] = incarnation
            case DriverGone(driver):
                del self.drivers[driver]

    def sync(self) -> None:
        self.journal += self.unsynced
        for entry in self.unsynced:
            self.on_news(entry)
        self.unsynced.clear()

    def _send(self, to: str, *message: Any) -> None:
        """The first effect of what was recorded."""
        if self.unsynced:
            self.sync()
        self.network.send(HEAD, to, message)

    def _spend(self) -> None:
        if self.budget is not None:
            self.budget -= 1
            if self.budget <= 0:
                raise HeadCrashed

    # -- instructions --------------------------------------------------------------------------------------------------------

    def _do(self, instructions: Iterable[Any]) -> None:
        queue = deque(instructions)
        while queue:
            said = queue.popleft()
            self._spend()
            match said:
                case Record(entry):
                    self.unsynced.append(entry)
                    self.network.note("head records", entry)
                case Accept(node, incarnation, registration, epoch, number):
                    changes = self.membership.registered(node, incarnation, self.now)
                    assert changes == [], changes
                    self.on_news(said)
                    self._send(node, "registered", incarnation, registration, epoch, number)
                case Launch(node, incarnation, number, key):
                    self._send(node, "launch", key, incarnation, number)
                case Kill(node, incarnation, number, key):
                    self._send(node, "kill", key, incarnation, number)
                case Confirm(node, incarnation, number, key):
                    self._send(node, "confirmed", key, incarnation, number)
                case m.Fence(member, incarnation, seen):
                    self._send(member, "fenced", incarnation, seen)
                case Began(key):
                    self.actors[key.partition(".")[0]].running = True
                case Over(key):
                    self.on_news(said)
                    more = self._on_over(key)
                    queue = deque([*more, *queue]) if self.eager else deque([*queue, *more])
                case m.Lost(member, incarnation):
                    self.network.note("head loses", said)
                    more = self._on_driver_gone(member) if member in self.drivers else self.core.lost(member, incarnation)
                    queue.extend(more)
                case m.Unknown(member):
                    self._send(member, "beat_echo", 0)
                case m.Suspected() | m.Recovered():
                    self.network.note("head sees", said)
                case _:
                    raise AssertionError(said)

    # -- actors --------------------------------------------------------------------------------------------------------------

    def _record(self, entry: Any) -> None:
        self._do([Record(entry)])

    def _on_over(self, key: str) -> list[Any]:
        actor = self.actors[key.partition(".")[0]]
        assert actor.key == key, f"{key} is over, but {actor} is what the head believes in"
        actor.lives, actor.running = actor.lives + 1, False
        return [] if actor.finished else self._life(actor)

    def _life(self, actor: Actor) -> list[Any]:
        if actor.lives > actor.restarts:
            actor.finished = f"died {actor.lives} times"
            return [Record(Finished(actor.name, actor.finished))]
        nodes = sorted(self.membership.alive(), key=lambda node: (len(self.core.nodes[node.name].placements), node.name))
        if not nodes:
            self._waiting[actor.name] = actor
            return []
        self._waiting.pop(actor.name, None)
        return self.core.launch(nodes[0].name, actor.key, self.now)

    def _next_life(self, actor: Actor) -> None:
        self._do(self._life(actor))

    def _finish(self, actor: Actor, reason: str) -> None:
        if not actor.finished:
            actor.finished = reason
            self._waiting.pop(actor.name, None)
            self._record(Finished(actor.name, reason))
        self._do(self.core.kill(actor.key, self.now))

    def _on_driver_gone(self, driver: str) -> list[Any]:
        del self.drivers[driver]
        said: list[Any] = [Record(DriverGone(driver))]
        for actor in self.actors.values():
            if actor.owner == driver and not actor.finished:
                actor.finished = "its driver is gone"
                self._waiting.pop(actor.name, None)
                said += [Record(Finished(actor.name, actor.finished)), *self.core.kill(actor.key, self.now)]
        return said

    # -- events --------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        getattr(self, "_on_" + message[0])(sender, *message[1:])
        self._watch()

    def link(self, member: str, up: bool) -> None:
        self._do((self.membership.link_up if up else self.membership.link_down)(member, self.now))
        self._watch()

    def _on_join(self, node: str) -> None:
        self._send(node, "welcome")

    def _on_register(self, node: str, incarnation: int, registration: int, alive: frozenset[str]) -> None:
        self._do(self.core.registered(node, incarnation, registration, alive, self.now))

    def _on_heartbeat(self, node: str, incarnation: int, draining: bool) -> None:
        changes = self.membership.beat(node, incarnation, self.now)
        self._do(changes)
        if any(isinstance(change, (m.Fence, m.Unknown)) for change in changes):
            return
        if draining:
            self.membership.drain(node)
        self._send(node, "beat_echo", self.core.epoch)
        self._do(self.core.beaten(node, self.now))
        for actor in list(self._waiting.values()):
            self._next_life(actor)

    def _on_started(self, node: str, key: str, incarnation: int) -> None:
        self._do(self.core.started(node, incarnation, key, self.now))

    def _on_exited(self, node: str, key: str, incarnation: int, detail: object) -> None:
        self._do(self.core.exited(node, incarnation, key, self.now, detail))

    def _on_leave(self, node: str, incarnation: int) -> None:
        record = self.core.nodes.get(node)
        if record is not None and record.incarnation == incarnation:
            self.membership.left(node)
            self._do(self.core.left(node, incarnation))

    def _on_hello(self, driver: str, incarnation: int) -> None:
        changes = self.membership.registered(driver, incarnation, self.now, m.Kind.DRIVER)
        if not changes and self.drivers.get(driver) != incarnation:
            if driver in self.drivers:
                self._do(self._on_driver_gone(driver))
            self.drivers[driver] = incarnation
            self._record(DriverHere(driver, incarnation))
        self._do(changes)

    def _on_driver_beat(self, driver: str, incarnation: int) -> None:
        changes = self.membership.beat(driver, incarnation, self.now)
        self._do(changes)
        if not any(isinstance(change, (m.Fence, m.Unknown)) for change in changes):
            self._send(driver, "beat_echo", self.core.epoch)

    def _on_want(self, driver: str, incarnation: int, name: str, restarts: int) -> None:
        if self.drivers.get(driver) != incarnation:
            return
        if name not in self.actors:
            actor = self.actors[name] = Actor(name, driver, restarts)
            self._record(Wanted(name, driver, restarts))
            self._next_life(actor)
        actor = self.actors[name]
        self.versions += 1
        placement = self.core.placements.get(actor.key)
        where = placement.node if placement is not None and actor.running and not actor.finished else None
        self._send(driver, "actor_is", incarnation, name, actor.key, where, actor.finished, (self.core.epoch, self.versions))

    def _on_unwant(self, driver: str, incarnation: int, name: str) -> None:
        if self.drivers.get(driver) == incarnation and name in self.actors and not self.actors[name].finished:
            self._finish(self.actors[name], "killed")

    # -- time ----------------------------------------------------------------------------------------------------------------

    def tick(self, due: float) -> None:
        if due != self._timer:
            return  # another was set since
        self._timer = None
        self._do(self.membership.tick(self.now))
        self._watch()

    def _watch(self) -> None:
        due = self.membership.next_deadline()
        if due is not None and (self._timer is None or due < self._timer):
            self._timer = due
            self.on_news(("timer", due))
