"""Which tasks share a process: those that must, and, where there are too few processes for all, neighbours in sequence.

A unit is what runs in one process, one task at a time, so it needs the most that any of its tasks needs, not the sum. Sharing never
makes a plan wait for itself: calls are sent in the order of the tasks, and each process runs its own in that order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from soma.actors.admission import PARTS, Parts, parts_of
from soma.actors.scheduling.events import Request
from soma.actors.scheduling.rooms import Shape, shape_of


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Tasks of one process, by their positions in the request, in order."""

    tasks: tuple[int, ...]
    parts: Parts
    tags: frozenset[str]
    weight: int
    shape: Shape

    @staticmethod
    def of(tasks: tuple[int, ...], parts: Parts, tags: frozenset[str], weight: int) -> Unit:
        shape = shape_of(tags, parts)
        return Unit(tasks, dict(shape[1]), tags, weight, shape)

    def with_(self, other: Unit) -> Unit:
        """Both in one process."""
        return Unit.of(tuple(sorted((*self.tasks, *other.tasks))), most(self.parts, other.parts), self.tags | other.tags,
                       self.weight + other.weight)


def most(a: Parts, b: Parts) -> Parts:
    """Elementwise."""
    return {**a, **{name: max(n, a.get(name, 0)) for name, n in b.items()}}


def units_of(request: Request) -> list[Unit]:
    """Each task by itself, but those with one `together` key as one; in the order of their first tasks."""
    groups: dict[object, list[int]] = {}
    for i, task in enumerate(request.tasks):
        groups.setdefault(i if task.together is None else task.together, []).append(i)
    units = []
    for positions in groups.values():
        parts: Parts = {}
        tags: frozenset[str] = frozenset()
        for i in positions:
            parts = most(parts, parts_of(request.tasks[i].needs))
            tags |= frozenset(request.tasks[i].tags)
        weight = sum(round(request.tasks[i].weight * PARTS) for i in positions)
        units.append(Unit.of(tuple(positions), parts, tags, weight))
    return units


@dataclass(frozen=True, slots=True)
class Edge:
    """Unit `b` goes on with what unit `a` made."""

    a: int
    b: int
    branches: bool
    """`a` feeds others too, or `b` takes from others."""


def sequences(request: Request, units: Sequence[Unit]) -> list[Edge]:
    """Edges of which none share an end on the same side, so they form paths: what is on a path cannot run in parallel anyway."""
    unit_of = {i: u for u, unit in enumerate(units) for i in unit.tasks}
    position = {task.id: i for i, task in enumerate(request.tasks)}
    inputs: list[dict[int, int]] = [{} for _ in units]
    feeds = [0] * len(units)
    for i, task in enumerate(request.tasks):
        b = unit_of[i]
        for name, size in task.inputs:
            a = unit_of.get(position.get(name, -1), b)
            if a < b:  # a unit may also take from one behind it: then they alternate
                if a not in inputs[b]:
                    feeds[a] += 1
                inputs[b][a] = inputs[b].get(a, 0) + max(size, 1)
    continued: set[int] = set()
    edges = []
    for b, sizes in enumerate(inputs):
        free = [(-size, a) for a, size in sizes.items() if a not in continued]
        if free:
            _, largest = min(free)
            continued.add(largest)
            edges.append(Edge(largest, b, feeds[largest] > 1 or len(sizes) > 1))
    return edges


class Condensing:
    """Joins units along edges until there are few enough and enough is left of everything."""

    def __init__(self, units: Sequence[Unit], possible: Callable[[Shape], bool]) -> None:
        self._units: list[Unit | None] = list(units)
        self._root = list(range(len(units)))
        self._possible = possible
        self.count = len(units)
        self.asked: Parts = {}
        """By all units together."""
        for unit in units:
            for name, n in unit.parts.items():
                self.asked[name] = self.asked.get(name, 0) + n

    def units(self) -> list[Unit]:
        return sorted((u for u in self._units if u is not None), key=lambda u: u.tasks[0])

    def fits(self, limit: int, free: Mapping[str, int]) -> bool:
        """Whether as many processes are allowed, and all machines together have as much. (None of them may have room for one.)"""
        return self.count <= limit and not self._short(free)

    def _short(self, free: Mapping[str, int]) -> list[str]:
        return [name for name, n in self.asked.items() if n > free.get(name, 0)]

    def join(self, edges: Sequence[Edge], limit: int, free: Mapping[str, int]) -> None:
        """Join along edges, those without branches first, the lightest first, as far as it helps."""
        heap = [(e.branches, self._weight(e), i) for i, e in enumerate(edges)]
        heapq.heapify(heap)
        while heap and not self.fits(limit, free):
            branches, weight, i = heapq.heappop(heap)
            if self._find(edges[i].a) == self._find(edges[i].b):
                continue  # joined before
            if self._weight(edges[i]) != weight:  # its ends have grown since
                heapq.heappush(heap, (branches, self._weight(edges[i]), i))
                continue
            a, b = self._unit(edges[i].a), self._unit(edges[i].b)
            if self.count > limit or any(name in a.parts and name in b.parts for name in self._short(free)):
                self._join(self._find(edges[i].a), self._find(edges[i].b), a, b)

    def _join(self, into: int, gone: int, a: Unit, b: Unit) -> None:
        joined = a.with_(b)
        if not self._possible(joined.shape):
            return
        for name in b.parts:
            self.asked[name] -= min(a.parts.get(name, 0), b.parts[name])
        self._units[into], self._units[gone] = joined, None
        self._root[gone] = into
        self.count -= 1

    def _weight(self, edge: Edge) -> int:
        return self._unit(edge.a).weight + self._unit(edge.b).weight

    def _unit(self, i: int) -> Unit:
        unit = self._units[self._find(i)]
        assert unit is not None
        return unit

    def _find(self, i: int) -> int:
        while self._root[i] != i:
            self._root[i] = i = self._root[self._root[i]]
        return i
