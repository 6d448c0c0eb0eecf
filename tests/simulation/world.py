"""A cluster in one process and no time: a head, three nodes, two drivers, faults, and what must hold after every step.

`World(seed).run()` is a history: some ten seconds of faults, then everything heals, a minute passes, and everything must be in order.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from virtual_driver import VirtualDriver
from virtual_faults import DRIVERS, NODES, Faults
from virtual_head import HEAD, HeadCrashed, VirtualHead
from virtual_network import Clock, Message, Network
from virtual_node import Process, VirtualNode

from soma.daemon.coordination.decisions import Accept, Over
from soma.daemon.coordination.journal import Placed, Removed
from soma.daemon.coordination.nodestates import State

QUIET = 60.0
"""Seconds after everything healed, by which everything must be in order."""


class Violation(AssertionError):
    """Something that must always hold did not."""


class World:
    def __init__(self, seed: int, faults: bool = True, meddle: Callable[[str, str, Message], str | None] | None = None) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.rng)
        self.network.meddle = meddle
        self.journal: list[Any] = []
        self.head: VirtualHead | None = None
        self.nodes: dict[str, VirtualNode] = {}
        self.drivers = {name: VirtualDriver(name, self.network, self.rng) for name in DRIVERS}
        self.healing = False
        self.starts: dict[str, int] = {}
        """How often each process was started, on all nodes."""
        self.removed: set[str] = set()
        """Ends on disk."""
        self.over: set[str] = set()
        """Ends that this head has told."""
        self.placed: set[str] = set()
        self.highest: dict[str, int] = {}
        """Of each node, the incarnation last accepted."""
        self._lives = 0
        self._changed = True
        self.start_head()
        for name in NODES:
            self.start_node(name)
        for driver in self.drivers.values():
            driver.begin()
        if faults:
            Faults(self).plan()

    # -- lives ---------------------------------------------------------------------------------------------------------------

    def start_head(self) -> None:
        if self.head is not None:
            return
        self.network.note("head starts")
        head = self.head = VirtualHead(self.network, self.journal, self.rng.random() < 0.5, self._on_news)
        self.over = set()
        self.network.receivers[HEAD] = self._to_head
        self._guarded(head.begin)
        for peer in (*self.nodes.values(),):
            self.clock.after(0.3 * self.rng.random(), peer.link, True)

    def crash_head(self) -> None:
        head = self.head
        if head is None:
            return
        while head.unsynced and self.rng.random() < 0.7:  # some of what was written and not synced is on disk all the same
            entry = head.unsynced.pop(0)
            self.journal.append(entry)
            self._on_disk(entry)
        self.network.note("head crashes, and what was not on disk is lost", *head.unsynced)
        self.head = None
        self.network.receivers.pop(HEAD, None)
        self.network.asleep.pop(HEAD, None)
        for node in self.nodes.values():
            if self.rng.random() < 0.8:
                self.clock.after(0.05 * self.rng.random(), node.link, False)
        self.clock.after(8.0 * self.rng.random() ** 2, self.start_head)

    def start_node(self, name: str) -> None:
        if name in self.nodes and not self.nodes[name].stopped:
            return
        self._lives += 1
        clock_was_set = self.rng.random() < 0.2  # then it begins with a number lower than those it had, but not with one of them
        incarnation = self._lives if clock_was_set else 1_000_000 + int(self.clock.now * 1000)
        self.network.note(name, "starts as", incarnation)
        node = self.nodes[name] = VirtualNode(name, self.network, self.rng, incarnation)
        node.begin()

    def crash_node(self, name: str) -> None:
        node = self.nodes[name]
        if node.stopped:
            return
        self.network.note(name, "crashes")
        node.crash()
        self.network.asleep.pop(name, None)
        if self.rng.random() < 0.7:
            self.clock.after(0.01 + 0.1 * self.rng.random(), self.link_of_head, name, False)

    # -- events --------------------------------------------------------------------------------------------------------------

    def _guarded(self, do: Callable[..., None], *args: Any) -> None:
        try:
            do(*args)
        except HeadCrashed:
            self.crash_head()

    def _to_head(self, sender: str, message: tuple[Any, ...]) -> None:
        assert self.head is not None
        self._changed = True
        self._guarded(self.head.receive, sender, message)

    def link_of_head(self, member: str, up: bool) -> None:
        if self.head is not None:
            self.network.note("head sees the link of", member, "up" if up else "down")
            self._guarded(self.head.link, member, up)

    def _tick_head(self, head: VirtualHead, due: float) -> None:
        if head is not self.head:
            return
        if (until := self.network.asleep.get(HEAD, 0.0)) > self.clock.now:
            self.clock.at(until, self._tick_head, head, due)
            return
        self._changed = True
        self._guarded(head.tick, due)

    def _on_news(self, news: Any) -> None:
        match news:
            case ("timer", due):
                self.clock.at(due, self._tick_head, self.head, due)
            case Accept(node, incarnation):
                self._on_accept(node, incarnation)
            case Over(key):
                self._must(key not in self.over, f"the head told twice that {key} is over")
                self.over.add(key)
            case _:
                self._on_disk(news)

    def _on_disk(self, entry: Any) -> None:
        match entry:
            case Removed(key):
                self._must(key not in self.removed, f"the end of {key} is on disk twice")
                self.removed.add(key)
            case Placed(key):
                self._must(key not in self.placed, f"{key} was placed twice")
                self.placed.add(key)

    def _on_accept(self, name: str, incarnation: int) -> None:
        self._must(incarnation >= self.highest.get(name, 0), f"{name} was accepted as {incarnation} after {self.highest.get(name)}")
        self.highest[name] = incarnation
        older = [p.key for p in self.nodes[name].processes.values() if p.incarnation < incarnation]
        self._must(not older, f"{name} was accepted as {incarnation} while {older} of an earlier incarnation exist")

    # -- what must hold ------------------------------------------------------------------------------------------------------

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(what)

    def real(self) -> list[tuple[VirtualNode, Process]]:
        """Every process that exists."""
        return [(node, process) for node in self.nodes.values() for process in node.processes.values()]

    def check(self) -> None:
        """After every step."""
        for node in self.nodes.values():
            if node.dirty:
                self._changed, node.dirty = True, False
                for key in node.started:
                    self.starts[key] = self.starts.get(key, 0) + 1
                    self._must(self.starts[key] == 1, f"{key} was started {self.starts[key]} times")
                node.started.clear()
        if not self._changed or self.head is None:
            return
        self._changed = False
        core = self.head.core
        believed = [key.partition(".")[0] for key in core.placements]
        self._must(len(believed) == len(set(believed)), f"the head believes in two processes of one actor: {sorted(core.placements)}")
        living: dict[str, str] = {}
        for node, process in self.real():
            record = core.nodes.get(node.name)
            if record is None or record.gone or record.incarnation != process.incarnation:
                continue  # fenced: it exists, but nobody believes so
            actor = process.key.partition(".")[0]
            self._must(actor not in living, f"{process.key} and {living.get(actor)} exist, on nodes that the head believes in")
            living[actor] = process.key
        for actor in self.head.actors.values():
            self._must(actor.lives <= actor.restarts + 1, f"{actor} restarted more often than it may")

    def check_quiet(self) -> None:
        """When everything healed long ago."""
        head = self.head
        assert head is not None
        exists = sorted(process.key for _, process in self.real())
        believed = sorted(key for key, placement in head.core.placements.items() if placement.begun and not placement.doomed)
        self._must(believed == sorted(head.core.placements), f"orders that nobody answered: {head.core.placements}")
        self._must(exists == believed, f"the head believes in {believed}, but {exists} exist")
        wanted = sorted(actor.key for actor in head.actors.values() if not actor.finished)
        self._must(exists == wanted, f"{wanted} are wanted, but {exists} exist")
        for node, process in self.real():
            placement = head.core.placements[process.key]
            self._must((placement.node, placement.incarnation) == (node.name, process.incarnation), f"{process} is not {placement}")
        for node in self.nodes.values():
            self._must(not node.stopped and node.session.state is State.REGISTERED, f"{node.name} is {node.session.state.value}")
            self._must(set(node.session.processes) == set(node.processes), f"{node.name} still has to tell {node.session.processes}")
        for driver in self.drivers.values():
            if driver.stopped:
                self._must(not any(a.owner == driver.name and not a.finished for a in head.actors.values()), "actors of nobody")
                continue
            self._must(not driver.open, f"calls that were never settled: {driver.open}")
            for request in driver.requests.values():
                self._must(bool(request.outcome) or (request.node is not None and request.key in exists), f"never settled: {request}")

    def step(self, until: float) -> bool:
        ran = self.clock.step(until)
        self.check()
        return ran

    def pass_time(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.step(until):
            pass

    def heal(self) -> None:
        """Everything works from now on, and everybody is there."""
        self.healing = True
        self.network.heal()
        self.network.note("everything heals")
        if self.head is not None:
            self.head.budget = None
        self.start_head()
        for name in NODES:
            if self.nodes[name].session.draining and not self.nodes[name].stopped:
                self.nodes[name].leave()
            self.start_node(name)
            self.clock.after(10.0, self.start_node, name)  # those that were about to leave

    def run(self) -> None:
        self.pass_time(self.rng.uniform(8.0, 25.0))
        self.heal()
        self.pass_time(QUIET)
        self.check_quiet()


def explain(world: World, error: BaseException) -> str:
    """What went wrong, how to see it again, and the last things that happened."""
    lines = [f"seed {world.seed}: {type(error).__name__}: {error}",
             f"replay: SOMA_TEST_SEED={world.seed} pytest tests/simulation/test_seeds.py -k one_seed",
             "the last that happened (seconds):"]
    for time, *what in world.network.trace:
        lines.append(f"  {time:9.4f}  " + " ".join(w if isinstance(w, str) else repr(w) for w in what))
    return "\n".join(lines)


def play(seed: int) -> None:
    """One history; AssertionError with its explanation, if something did not hold."""
    world = World(seed)
    try:
        world.run()
    except Exception as error:
        raise AssertionError(explain(world, error)) from error
