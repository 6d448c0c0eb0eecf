"""Places in columns, left to right, and the wires between them (Sugiyama, Tagawa and Toda 1981).

A place stands in the column of its longest path. A wire that passes columns has a place of its own in each, a *turn*, which all
wires of one source share. Barycenters and swaps order the columns. Heights are then found column by column: isotonic regression
brings each place as near to the median of its neighbours as the order allows, so chains are straight and forks symmetrical.

Invariants: places of one column do not overlap; a wire is level within a column and steps only between columns, where nothing
stands; so it touches no place but its two ends. Equal arguments give an equal result.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from math import fsum, inf
from statistics import median
from typing import NamedTuple

Key = tuple[str, str | None]
"""Names a place: what it is, and which."""
Source = str | None
"""Whose output a wire carries: that of a box, or the input of the picture (None)."""
Wire = tuple[Source, Key, Key]
"""Whose output, from which place, to which."""
Point = tuple[float, float]

GAP, NARROW_GAP = 24.0, 13.0
"""Between two places one above the other, and beside a wire."""
STEP, STEEPEST_STEP = 34.0, 104.0
"""Between two columns, for level wires and for the steepest."""
SWEEPS, EFFORT = 10, 40_000
"""How often places are ordered, at most; and how many in all those times, so that a picture full of long wires takes no longer."""
ROUNDS: tuple[tuple[int, ...], ...] = ((0,), (1,), *((0, 1),) * 4)
"""Which neighbours count, round by round, to and fro: those before (0), those behind (1)."""


class Rect(NamedTuple):
    """In pixels, from the upper left corner of whatever it is in."""

    x: float
    y: float
    width: float
    height: float

    def moved(self, x: float, y: float) -> Rect:
        return Rect(self.x + x, self.y + y, self.width, self.height)


@dataclass(slots=True, eq=False)
class Place:
    """Something with a size, or the turn of a wire, without. `arrange` fills in where its middle is."""

    width: float = 0.0
    height: float = 0.0
    stretches: bool = False
    """Becomes as wide as the widest such place of its column: tidier."""
    last: bool = False
    """Stands in the last column whatever its path is: a way out."""
    arrivals: dict[Source, float] = field(default_factory=dict)
    """How far below the middle the wire of a source ends; 0 if it is not here."""
    departures: dict[Source, float] = field(default_factory=dict)
    x: float = 0.0
    y: float = 0.0
    column: int = 0
    standing: float = 0.0
    """From 0, the top of its column, to 1."""
    near: tuple[list[_Link], list[_Link]] = field(default_factory=lambda: ([], []))
    """In the column before, and in the one behind."""

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def rect(self) -> Rect:
        return Rect(self.left, self.top, self.width, self.height)


_Link = tuple[Place, float, int]
"""A neighbour, how far below its middle mine is when the wire is level, and how much that matters."""
_Edges = list[tuple[float, float]]
"""Left and right side of each column."""


@dataclass(frozen=True, slots=True)
class Arranged:
    width: float
    height: float
    routes: Mapping[tuple[Source, Key], tuple[Point, ...]]
    """(source, end) → the points of the wire."""


def longest_paths(keys: Iterable[Key], arcs: Iterable[tuple[Key, Key]]) -> dict[Key, int]:
    """How many arcs the longest path to each has, in topological order. Raises graphlib.CycleError."""
    before: dict[Key, list[Key]] = {key: [] for key in keys}
    for start, end in arcs:
        before[end].append(start)
    lengths: dict[Key, int] = {}
    for key in TopologicalSorter(before).static_order():
        lengths[key] = max((lengths[other] + 1 for other in before[key]), default=0)
    return lengths


def arrange(places: Mapping[Key, Place], wires: Sequence[Wire]) -> Arranged:
    """Give every place its middle, with the upper left corner of the whole at (0, 0)."""
    columns = _columns(places, wires)
    routes = _routes(places, wires, columns)
    _order(columns)
    for i, sides in enumerate(ROUNDS):
        for column in reversed(columns) if i % 2 else columns:
            _level(column, sides)
    edges = _spread(columns)
    everything = [place for column in columns for place in column]
    top = min(place.top for place in everything)
    for place in everything:
        place.y -= top
    height = max(place.y + place.height / 2 for place in everything)
    return Arranged(edges[-1][1], height, {key: _points(route, key[0], edges) for key, route in routes.items()})


def _columns(places: Mapping[Key, Place], wires: Sequence[Wire]) -> list[list[Place]]:
    lengths = longest_paths(places, [(start, end) for _, start, end in wires])
    columns: list[list[Place]] = [[] for _ in range(max(lengths.values()) + 1)]
    for key, place in places.items():
        place.column = len(columns) - 1 if place.last else lengths[key]
        columns[place.column].append(place)
    return columns


def _routes(places: Mapping[Key, Place], wires: Sequence[Wire], columns: list[list[Place]]) -> dict[tuple[Source, Key], list[Place]]:
    """What each wire passes. Adds the turns to the columns, and links neighbours."""
    chains: dict[Source, list[Place]] = {}
    """By source: where it stands, and its turns behind that."""
    routes = {}
    for source, start, end in wires:
        chain, tail = chains.setdefault(source, [places[start]]), places[end]
        reach = tail.column - chain[0].column
        while len(chain) < reach:
            turn = Place(column=chain[-1].column + 1)
            columns[turn.column].append(turn)
            _link(chain[-1], turn, source)
            chain.append(turn)
        _link(chain[reach - 1], tail, source)
        routes[source, end] = [*chain[:reach], tail]
    return routes


def _link(a: Place, b: Place, source: Source) -> None:
    below = a.departures.get(source, 0.0) - b.arrivals.get(source, 0.0)
    weight = (2, 1, 4)[(a.width == 0) + (b.width == 0)]  # chains of boxes are straight, long wires go round and are straight there
    a.near[1].append((b, -below, weight))
    b.near[0].append((a, below, weight))


def _order(columns: list[list[Place]]) -> None:
    """Sweeps of barycenters to and fro, and of swaps; the order with the fewest crossings stands."""
    for column in columns:
        _count_off(column)
    fewest, best = inf, columns
    for sweep in range(max(2, min(SWEEPS, EFFORT // sum(map(len, columns))))):
        side = sweep % 2
        for column in reversed(columns) if side else columns:
            if sweep // 2 % 2:
                column.reverse()  # those with equal barycenters get another chance
            wish = {place: _barycenter(place, side) for place in column}
            column.sort(key=wish.__getitem__)
            _count_off(column)
            _swap(column)
        for column in columns:
            _swap(column)
        crossings = sum(map(_crossings, columns))
        if crossings < fewest:
            fewest, best = crossings, [list(column) for column in columns]
        if fewest == 0:
            break
    columns[:] = best


def _count_off(column: list[Place]) -> None:
    for i, place in enumerate(column):
        place.standing = (i + 0.5) / len(column)


def _barycenter(place: Place, side: int) -> float:
    near = place.near[side]
    return fsum([other.standing for other, _, _ in near]) / len(near) if near else place.standing  # the same on every Python


def _swap(column: list[Place]) -> None:
    """Swap neighbours whose wires then cross less."""
    for i in range(len(column) - 1):
        a, b = column[i], column[i + 1]
        if _gain(a, b, 0) + _gain(a, b, 1) > 0:
            column[i], column[i + 1] = b, a
            a.standing, b.standing = b.standing, a.standing


def _gain(a: Place, b: Place, side: int) -> int:
    """How many crossings fewer there are on a side when b stands above a."""
    return sum([(x.standing > y.standing) - (x.standing < y.standing) for x, _, _ in a.near[side] for y, _, _ in b.near[side]])


def _crossings(column: list[Place]) -> int:
    """Of the wires behind a column: pairs whose ends are the other way round than their starts."""
    seen: list[float] = []
    found = 0
    for place in column:
        for end in sorted([other.standing for other, _, _ in place.near[1]]):
            found += len(seen) - bisect_right(seen, end)
            insort(seen, end)
    return found


def _level(column: list[Place], sides: tuple[int, ...]) -> None:
    """Bring every place near its neighbours, by pooling adjacent violators (Barlow, Bartholomew, Bremner and Brunk 1972).

    Heights less the room that the places above need must not fall. Places that would are pooled to a block that moves as one, to
    the median of all wishes in it.
    """
    blocks: list[tuple[float, list[float], list[tuple[Place, float]]]] = []
    room, above = 0.0, None
    for place in column:
        if above is not None:
            room += (above.height + place.height) / 2 + (GAP if above.width and place.width else NARROW_GAP)
        above = place
        wishes = [other.y + below - room for side in sides for other, below, weight in place.near[side] for _ in range(weight)]
        if not wishes or (place.width == 0 and len(sides) == 2):  # a turn stays where it is if that is as good, or wires become waves
            wishes.append(place.y - room)
        block = wishes, [(place, room)]
        blocks.append((median(block[0]), *block))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            _, wishes, members = blocks.pop()
            block = blocks[-1][1] + wishes, blocks[-1][2] + members
            blocks[-1] = (median(block[0]), *block)
    for middle, _, members in blocks:
        for place, room in members:
            place.y = middle + room


def _spread(columns: list[list[Place]]) -> _Edges:
    """Give the columns their sides, with more room between them where wires are steep."""
    edges: _Edges = []
    for column in columns:
        steep = max((abs(other.y + below - place.y) for place in column for other, below, _ in place.near[0]), default=0.0)
        left = edges[-1][1] + min(STEP + steep / 5, STEEPEST_STEP) if edges else 0.0
        right = left + max((place.width for place in column), default=0.0)
        edges.append((left, right))
        widest = max((place.width for place in column if place.stretches), default=0.0)
        for place in column:
            place.x = (left + right) / 2
            place.width = widest if place.stretches else place.width
    return edges


def _points(route: list[Place], source: Source, edges: _Edges) -> tuple[Point, ...]:
    """Two for each place: where the wire comes to its column, or begins, and where it leaves it, or ends."""
    points = []
    for place in route:
        (left, right), y = edges[place.column], place.y
        if place is route[0]:
            left, y = place.left + place.width, y + place.departures.get(source, 0.0)
        elif place is route[-1]:
            right, y = place.left, y + place.arrivals.get(source, 0.0)
        points += [(left, y), (right, y)]
    return tuple(points)
