"""Who waits for whom, and whether any of them can ever go on.

A wait is blocked on several producers, of kind "all" (`get`: every one must answer, so one that never can is enough) or "any"
(`wait`: one that can is enough). An actor that waits for nothing can go on. Everybody who cannot, however the others decide,
is stuck; a stuck waiter stands in, or leads into, a cycle, and that cycle is what the user is shown.

A waiter may have several waits at once, one per thread, each under its own epoch (a number that the waiter never repeats).
Such an actor is stuck only when all its waits are: another thread may still answer. An actor that serves several calls at once
can also answer while all its waits are stuck, so let only those block here whose waits really stop them.

What is known here is late: a producer may have answered already, and the waiter's word that it goes on is still under way. So a
cycle is a suspicion until each producer in it has said that the call in question is unanswered.

Pure: no clock, no process; the daemon feeds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["all", "any"]


@dataclass(frozen=True, slots=True)
class Wait:
    """One blocked `get` (kind "all") or `wait` (kind "any")."""

    on: frozenset[str]
    kind: Kind


class WaitGraph:
    """The waits of all actors of a cluster."""

    def __init__(self) -> None:
        self._waits: dict[str, dict[int, Wait]] = {}

    def block(self, waiter: str, on: frozenset[str], epoch: int, kind: Kind = "all") -> None:
        """`waiter` waits under `epoch` for what actors `on` produce; a known epoch is replaced. Nobody is no wait."""
        if on:
            self._waits.setdefault(waiter, {})[epoch] = Wait(on, kind)
        else:
            self.unblock(waiter, epoch)

    def unblock(self, waiter: str, epoch: int) -> None:
        """That wait is over. An epoch that is not known (late, or twice) changes nothing."""
        waits = self._waits.get(waiter)
        if waits is not None and waits.pop(epoch, None) is not None and not waits:
            del self._waits[waiter]

    def forget(self, actor: str) -> None:
        """The actor died and its calls with it: its waits are over, and those for it end with an error, so nobody waits for it.

        Not for an incarnation whose calls are tried again on the next one: those are still waited for.
        """
        self._waits.pop(actor, None)
        for waiter, waits in list(self._waits.items()):
            for epoch, wait in list(waits.items()):
                if actor in wait.on:
                    # "any": its error is the one answer that was wanted. "all": get raises it.
                    self.unblock(waiter, epoch)

    def blocked(self, waiter: str) -> bool:
        return waiter in self._waits

    def waits(self) -> Mapping[str, Mapping[int, Wait]]:
        """What is known, by waiter and epoch."""
        return {waiter: dict(waits) for waiter, waits in self._waits.items()}

    def stuck(self, start: str) -> set[str]:
        """Of those that `start` waits for, directly or not, and itself: who can never go on. Empty when `start` can."""
        reached = self._reachable(start)
        stuck = {actor for actor in reached if actor in self._waits}  # then take away those who can, until none is found
        waiters: dict[str, set[str]] = {}
        for actor in stuck:
            for wait in self._waits[actor].values():
                for producer in wait.on:
                    waiters.setdefault(producer, set()).add(actor)
        look_at = list(stuck)
        while look_at:
            actor = look_at.pop()
            if actor in stuck and any(_can_end(wait, stuck) for wait in self._waits[actor].values()):
                stuck.remove(actor)
                look_at.extend(waiters.get(actor, ()))
        return stuck if start in stuck else set()

    def cycle_through(self, waiter: str) -> tuple[str, ...] | None:
        """A cycle of actors that can never go on and that holds up `waiter`; each waits for the next, the last for the first.

        The shortest one with `waiter` in it, which then comes first; when it only leads into a cycle, that cycle.
        None when `waiter` can go on. Who closes a cycle last blocks last, so asking for each new wait finds every cycle.
        """
        stuck = self.stuck(waiter)
        if not stuck:
            return None
        return self._shortest_cycle(waiter, stuck) or self._first_cycle(waiter, stuck)

    def _reachable(self, start: str) -> set[str]:
        seen, frontier = {start}, [start]
        while frontier:
            for producer in self._producers(frontier.pop()):
                if producer not in seen:
                    seen.add(producer)
                    frontier.append(producer)
        return seen

    def _producers(self, actor: str) -> list[str]:
        """In a fixed order, so that the same graph names the same cycle."""
        return sorted({producer for wait in self._waits.get(actor, {}).values() for producer in wait.on})

    def _shortest_cycle(self, start: str, stuck: set[str]) -> tuple[str, ...] | None:
        """Breadth first from `start` back to it."""
        came_from: dict[str, str] = {}
        frontier = [start]
        while frontier:
            reached = []
            for actor in frontier:
                for producer in self._producers(actor):
                    if producer == start:
                        return _path(came_from, start, actor)
                    if producer in stuck and producer not in came_from:
                        came_from[producer] = actor
                        reached.append(producer)
            frontier = reached
        return None

    def _first_cycle(self, start: str, stuck: set[str]) -> tuple[str, ...]:
        """A stuck actor always waits for a stuck one, so going on from one to the next must return."""
        walked: dict[str, None] = {}
        actor = start
        while actor not in walked:
            walked[actor] = None
            actor = next(producer for producer in self._producers(actor) if producer in stuck)
        order = list(walked)
        return tuple(order[order.index(actor):])


def _can_end(wait: Wait, stuck: set[str]) -> bool:
    return wait.on.isdisjoint(stuck) if wait.kind == "all" else not wait.on <= stuck


def _path(came_from: dict[str, str], start: str, end: str) -> tuple[str, ...]:
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return tuple(reversed(path))


def explain(cycle: tuple[str, ...], names: Mapping[Any, str]) -> str:
    """"Parent waits for Child, which waits for Parent": what a DeadlockError says. `names` gives what people call an actor."""
    called = [names.get(actor, actor) for actor in cycle]
    if len(called) == 1:
        return f"{called[0]} waits for itself"
    return f"{called[0]} waits for " + ", which waits for ".join([*called[1:], called[0]])
