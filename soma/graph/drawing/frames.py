"""Where everything of a picture stands: boxes, the pictures inside loops and branches, groups, and wires.

Refuses, with GraphError: ids twice, inputs that are no box of the frame, cycles, unknown kinds and marks. Invariants: no two boxes
overlap; a wire touches no box but its two; nothing foreign is inside a group; the order of the boxes given decides all ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError

from soma.errors import GraphError
from soma.graph.drawing import letters
from soma.graph.drawing.columns import Key, Place, Point, Rect, Source, longest_paths
from soma.graph.drawing.groups import PAD, SMALL, TITLE, stand

SHOWN, WIRES = 300, 3_000
"""Boxes, with those inside them, and wires that a frame shows at most: those of its first columns."""
KINDS = ("trainable", "stateless", "opaque", "loop", "branch")
MARKS = ("", "memory", "disk", "shared", "failed", "skipped")

ID, LABEL = 13.0, 11.0
"""Sizes of letters."""
HEAD, FOOT, NOTE = 43.0, 21.0, 26.0
"""Heights: of id and label, of the line below them, and of the note about what is not shown."""
INDENT = PAD + 4
"""Where the texts of a box begin: its left side has a stripe."""
BADGE = 16.0
NARROWEST, WIDEST = 110.0, 250.0
"""Of a box without pictures inside."""
EMPTY = (92.0, 26.0)


@dataclass(frozen=True, slots=True)
class Box:
    """A node of the picture.

    Attributes:
        label: second line, what it is made of.
        kind: one of `KINDS`.
        inputs: ids of boxes in the same frame whose output it takes; none: it takes the frame's input.
        group: title of the dashed frame around all boxes that name it.
        time: how long it took, in words.
        mark: one of `MARKS`: which tier of the cache had its output, or what became of it.
        inner: titled pictures inside: the body of a loop, the arms of a branch.
    """

    id: str
    label: str
    kind: str
    inputs: tuple[str, ...] = ()
    group: str | None = None
    time: str = ""
    mark: str = ""
    inner: tuple[tuple[str, tuple[Box, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Pane:
    """A picture inside a box. Its own (0, 0) is at `origin`."""

    title: str
    rect: Rect
    origin: Point
    layout: Layout

    def moved(self, x: float, y: float) -> Pane:
        return replace(self, rect=self.rect.moved(x, y), origin=(self.origin[0] + x, self.origin[1] + y))


@dataclass(frozen=True, slots=True)
class Layout:
    """One frame.

    Attributes:
        wires: (whose output, who takes it) → points from the right side of the one to the left side of the other; level and
            sloping pieces take turns, and sloping ones lie where no box is.
        groups: title and frame.
        panes: the pictures inside a box.
        entry: where the frame's input comes in; None in a frame without boxes.
        hidden: how many boxes are not shown.
    """

    width: float
    height: float
    boxes: Mapping[str, Rect] = field(default_factory=dict)
    wires: Mapping[tuple[Source, str], tuple[Point, ...]] = field(default_factory=dict)
    groups: tuple[tuple[str, Rect], ...] = ()
    panes: Mapping[str, tuple[Pane, ...]] = field(default_factory=dict)
    entry: Rect | None = None
    hidden: int = 0


def layout(boxes: Sequence[Box]) -> Layout:
    """Where everything stands. GraphError says why boxes cannot be drawn."""
    columns = _checked(boxes)
    if not boxes:
        return Layout(*EMPTY)
    shown = {box.id: box for box in _first(sorted(boxes, key=lambda box: columns["box", box.id]))}
    panes = {id: _panes(box) for id, box in shown.items()}
    places = {id: _place(box, panes[id]) for id, box in shown.items()}
    flow = [(source, id) for id, box in shown.items() for source in dict.fromkeys(box.inputs or (None,))]
    standing = stand(places, {id: box.group for id, box in shown.items()}, flow)
    hidden = len(boxes) - len(shown)
    return Layout(
        width=max(standing.width, letters.width(more(hidden), SMALL) if hidden else 0.0),
        height=standing.height + (NOTE if hidden else 0.0),
        boxes=standing.boxes,
        wires=standing.wires,
        groups=standing.groups,
        panes={id: tuple(pane.moved(*standing.boxes[id][:2]) for pane in inside) for id, inside in panes.items() if inside},
        entry=standing.entry,
        hidden=hidden,
    )


def more(hidden: int) -> str:
    """The note about what is not shown."""
    return f"… and {hidden:,} more node{'s' * (hidden != 1)}"


def _checked(boxes: Sequence[Box]) -> dict[Key, int]:
    """The column of each box, if they can be drawn."""
    known: set[str] = set()
    for box in boxes:
        if box.id in known:
            raise GraphError(f"two boxes have the id {box.id!r}: give each its own")
        known.add(box.id)
        if box.kind not in KINDS:
            raise GraphError(f"box {box.id!r} is of the kind {box.kind!r}; there are {', '.join(KINDS)}")
        if box.mark not in MARKS:
            raise GraphError(f"box {box.id!r} has the mark {box.mark!r}; there are {', '.join(filter(None, MARKS))}, and none: ''")
    for box in boxes:
        for source in box.inputs:
            if source not in known:
                raise GraphError(f"box {box.id!r} takes the output of {source!r}, but its frame has no such box")
    try:
        return longest_paths([("box", box.id) for box in boxes],
                             [(("box", source), ("box", box.id)) for box in boxes for source in dict.fromkeys(box.inputs)])
    except CycleError as e:
        raise GraphError("boxes take each other's output in a circle: " + " -> ".join(repr(id) for _, id in e.args[1])) from None


def _first(boxes: Sequence[Box]) -> Sequence[Box]:
    """As many as a picture may show, but one at least."""
    seen = wires = 0
    for i, box in enumerate(boxes):
        seen, wires = seen + _count(box), wires + len(box.inputs)
        if i and (seen > SHOWN or wires > WIRES):
            return boxes[:i]
    return boxes


def _count(box: Box) -> int:
    return 1 + sum(_count(inner) for _, boxes in box.inner for inner in boxes)


def _panes(box: Box) -> tuple[Pane, ...]:
    """What is inside a box, from its upper left corner."""
    inside = [(title, layout(boxes)) for title, boxes in box.inner]
    width = max((max(part.width, min(letters.width(title, SMALL), WIDEST)) for title, part in inside), default=0.0) + 2 * PAD
    top, panes = HEAD + PAD / 2, []
    for title, part in inside:
        panes.append(Pane(title, Rect(PAD, top, width, TITLE + part.height + PAD), (2 * PAD, top + TITLE), part))
        top += panes[-1].rect.height + PAD / 2
    return tuple(panes)


def badge_width(mark: str) -> float:
    """What the badge of a mark takes away from the line of the id."""
    return letters.width(mark, SMALL) + 22 if mark else 0.0


def _place(box: Box, panes: tuple[Pane, ...]) -> Place:
    text = max(letters.width(box.id, ID) + badge_width(box.mark), letters.width(box.label, LABEL, fixed=True),
               letters.width(box.kind + box.time, SMALL) + 2 * PAD)
    width = max(NARROWEST, min(text + INDENT + PAD, WIDEST))
    if not panes:
        return Place(width, HEAD + FOOT, stretches=True)
    last = panes[-1].rect
    return Place(max(width, last.width + 2 * PAD), last.y + last.height + PAD / 2 + FOOT)
