"""What befalls a simulated world: drivers that want things, and faults of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from virtual_head import HEAD
from virtual_network import Weather
from virtual_node import VirtualNode

if TYPE_CHECKING:
    from world import World

NODES, DRIVERS = ("n1", "n2", "n3"), ("a", "b")


class Faults:
    def __init__(self, world: World) -> None:
        self.world = world

    def plan(self) -> None:
        """What befalls this world: the times are drawn now, the rest when they come."""
        for driver in self.world.drivers.values():
            for _ in range(self.world.rng.randint(1, 4)):
                self.world.clock.at(8.0 * self.world.rng.random(), self._unless_healing, driver.want, self.world.rng.choice((0, 1, 3, 10)))
            for _ in range(self.world.rng.randint(0, 10)):
                self.world.clock.at(20.0 * self.world.rng.random(), self._unless_healing, driver.call)
            for _ in range(self.world.rng.randint(0, 2)):
                self.world.clock.at(20.0 * self.world.rng.random(), self._unless_healing, driver.kill)
        faults = (self._weather, self._weather, self._partition, self._partition, self._kill_process, self._kill_process, self._kill_node,
                  self._kill_head, self._kill_head_amidst, self._stop_somebody, self._drain, self._leave, self._kill_driver, self._blink)
        allowed = self.world.rng.sample(faults, self.world.rng.randint(1, len(faults)))
        for _ in range(self.world.rng.randint(1, 14)):
            self.world.clock.at(0.5 + 20.0 * self.world.rng.random(), self._unless_healing, self.world.rng.choice(allowed))

    def _unless_healing(self, do: Callable[..., None], *args: Any) -> None:
        if not self.world.healing:
            self.world.network.note("fault:" if not args else "driver:", getattr(do, "__name__", "?"))
            do(*args)

    def _node(self) -> VirtualNode:
        return self.world.nodes[self.world.rng.choice(NODES)]

    def _weather(self) -> None:
        bad = self.world.rng.random() < 0.7
        lost, doubled, late = (self.world.rng.choice((0.0, 0.05, 0.3)) if bad else 0.0 for _ in range(3))
        self.world.network.weather = Weather(lost, doubled, late, self.world.rng.choice((0.1, 1.0, 6.0, 15.0)))

    def _partition(self) -> None:
        one = self.world.rng.choice((*NODES, *DRIVERS))
        other = HEAD if one in DRIVERS or self.world.rng.random() < 0.8 else self.world.rng.choice(DRIVERS)
        both = [(one, other), (other, one)]
        seconds = self.world.rng.choice((1.0, 5.0, 16.0)) * (0.4 + 0.6 * self.world.rng.random())
        self.world.network.partition(self.world.rng.choice((both, both[:1], both[1:])), seconds)

    def _kill_process(self) -> None:
        node = self._node()
        if node.processes:
            node.exited(self.world.rng.choice(list(node.processes)), "crashed")

    def _kill_node(self) -> None:
        name = self.world.rng.choice(NODES)
        self.world.crash_node(name)
        self.world.clock.after(15.0 * self.world.rng.random() ** 2, self.world.start_node, name)

    def _kill_head(self) -> None:
        self.world.crash_head()

    def _kill_head_amidst(self) -> None:
        if self.world.head is not None:
            self.world.head.budget = self.world.rng.randint(1, 12)

    def _stop_somebody(self) -> None:
        who = self.world.rng.choice((HEAD, *NODES, *DRIVERS))
        self.world.network.asleep[who] = self.world.clock.now + 14.0 * self.world.rng.random() ** 2

    def _drain(self) -> None:
        node = self._node()
        if not node.stopped:
            node.drain()
            self.world.clock.after(12.0 * self.world.rng.random(), self._hurry, node)

    def _hurry(self, node: VirtualNode) -> None:
        """Nobody moves actors away in this world, so a node that drains is told to leave after a while."""
        if not node.stopped:
            node.leave()

    def _leave(self) -> None:
        node = self._node()
        if not node.stopped:
            node.leave()

    def _kill_driver(self) -> None:
        self.world.drivers[self.world.rng.choice(DRIVERS)].crash()

    def _blink(self) -> None:
        """A connection closes, and perhaps comes back."""
        node = self._node()
        self.world.link_of_head(node.name, False)
        node.link(False)
        if self.world.rng.random() < 0.6:
            pause = 2.5 * self.world.rng.random()
            self.world.clock.after(pause, self.world.link_of_head, node.name, True)
            self.world.clock.after(pause, node.link, True)
