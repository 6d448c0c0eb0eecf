"""Boxes and their groups in one frame: who stands where, and the wires from box to box.

A group is arranged by itself and then stands among the others as one big place, with a door in its side for each wire that passes.
So nothing foreign is ever inside it. A group that something foreign is between, from it and to it again, stands in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError

from soma.graph.drawing import letters
from soma.graph.drawing.columns import Arranged, Key, Place, Point, Rect, Source, Wire, arrange, longest_paths

PAD, TITLE, SMALL = 13.0, 25.0, 10.0
"""Between a side and what it surrounds; the height of a title, and the size of its letters."""
ENTRY = (46.0, 20.0)
"""Size of the mark where a frame's input comes in."""

Flow = tuple[Source, str]
"""Whose output, and who takes it."""
_INPUT: Key = ("in", None)


@dataclass(frozen=True, slots=True)
class Standing:
    """All that stands in one frame; a wire is its points, from side to side."""

    width: float
    height: float
    boxes: Mapping[str, Rect]
    wires: Mapping[Flow, tuple[Point, ...]]
    groups: tuple[tuple[str, Rect], ...]
    entry: Rect


def stand(places: Mapping[str, Place], titles: Mapping[str, str | None], flow: Sequence[Flow]) -> Standing:
    """Arrange boxes, given by id in topological order, with the titles of their groups."""
    homes = _homes(titles, flow)
    outer, inner = _split(homes, flow)
    whole: dict[Key, Place] = {_INPUT: Place(*ENTRY)}
    parts: dict[Key, Arranged] = {}
    for id, home in homes.items():
        if home not in inner:
            whole[home] = places[id]
        elif home not in whole:
            members: dict[Key, Place] = {("box", other): places[other] for other in homes if homes[other] == home}
            whole[home], parts[home] = _group(str(home[1]), members, inner[home])
    frame = arrange(whole, outer)
    origins = {home: (whole[home].left, whole[home].top + TITLE) for home in parts}
    boxes = {id: places[id].rect if home not in parts else places[id].rect.moved(*origins[home]) for id, home in homes.items()}

    def points(source: Source, taker: str) -> tuple[Point, ...]:
        start, end = _home(homes, source), homes[taker]
        found: list[Point] = []
        if start in parts and start != end:
            found += _moved(parts[start].routes[source, ("out", source)], origins[start])
        if start != end:
            found += frame.routes[source, end]
        if end in parts:
            found += _moved(parts[end].routes[source, ("box", taker)], origins[end])
        return tuple(found)

    return Standing(frame.width, frame.height, boxes, {(source, taker): points(source, taker) for source, taker in flow},
                    tuple((str(home[1]), whole[home].rect) for home in parts), whole[_INPUT].rect)


def _moved(points: Iterable[Point], by: Point) -> Iterable[Point]:
    return ((x + by[0], y + by[1]) for x, y in points)


def _home(homes: Mapping[str, Key], source: Source) -> Key:
    return _INPUT if source is None else homes[source]


def _homes(titles: Mapping[str, str | None], flow: Sequence[Flow]) -> dict[str, Key]:
    """The place that each box is in: its own or its group's."""
    homes: dict[str, Key] = {id: ("box", id) if title is None else ("group", title) for id, title in titles.items()}
    arcs = [(source, taker) for source, taker in flow if source is not None and homes[source] != homes[taker]]
    try:
        longest_paths(dict.fromkeys(homes.values()), [(homes[source], homes[taker]) for source, taker in arcs])
    except CycleError:
        return _in_parts(homes, flow)
    return homes


def _in_parts(homes: Mapping[str, Key], flow: Sequence[Flow]) -> dict[str, Key]:
    """Homes whose wires go in no circle. A box belongs to the part of its group that is as many changes of home away from the
    input; every wire from one part to another leads to more changes, so none leads back."""
    before: dict[str, list[str]] = {id: [] for id in homes}
    for source, taker in flow:
        if source is not None:
            before[taker].append(source)
    changes: dict[str, int] = {}
    for id in homes:
        changes[id] = max((changes[other] + (homes[other] != homes[id]) for other in before[id]), default=0)
    return {id: (what if what == "box" else f"group {changes[id]}", which) for id, (what, which) in homes.items()}


def _split(homes: Mapping[str, Key], flow: Sequence[Flow]) -> tuple[list[Wire], dict[Key, list[Wire]]]:
    """The wires of the frame from home to home, and those inside each group, from door to door."""
    outer: dict[Wire, None] = {}
    inner: dict[Key, dict[Wire, None]] = {home: {} for home in homes.values() if home[0] != "box"}
    for source, taker in flow:
        start, end = _home(homes, source), homes[taker]
        if start == end:
            inner[end][source, ("box", source), ("box", taker)] = None
            continue
        outer[source, start, end] = None
        if start in inner:
            inner[start][source, ("box", source), ("out", source)] = None
        if end in inner:
            inner[end][source, ("in", source), ("box", taker)] = None
    return list(outer), {home: list(wires) for home, wires in inner.items()}


def _group(title: str, members: dict[Key, Place], wires: Sequence[Wire]) -> tuple[Place, Arranged]:
    """A group as one place, and what is in it, from below its title on. Adds doors to the members."""
    for _, start, end in wires:
        if start[0] == "in":
            members.setdefault(start, Place())
        if end[0] == "out":
            members.setdefault(end, Place(last=True))
    arranged = arrange(members, wires)
    ways_out = any(place.last for place in members.values())
    width = max(arranged.width + (0 if ways_out else PAD), letters.width(title, SMALL) + 2 * PAD)
    place = Place(width, TITLE + arranged.height + PAD)
    for (what, source), door in members.items():
        below = door.y + TITLE - place.height / 2
        if what == "in":
            place.arrivals[source] = below
        elif what == "out":
            place.departures[source] = below
    return place, arranged
