"""The picture of a graph as SVG text: complete in itself, without scripts, for light and for dark pages.

Every class begins with a prefix made from the content, so pictures on one page leave each other alone, and equal pictures are equal
text. Whatever comes from outside is escaped, and shortened where there is no room; tooltips have all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2s

from soma.graph.drawing.columns import Point, Rect, Source
from soma.graph.drawing.frames import BADGE, ID, INDENT, LABEL, Box, Layout, Pane, badge_width, layout, more
from soma.graph.drawing.groups import PAD, SMALL
from soma.graph.drawing.letters import escaped, fitted, width
from soma.graph.drawing.style import HOLLOW, SIGNS, sheet

MARGIN, HEADING, HEADING_SIZE = 10.0, 30.0, 14.0
"""Around the picture; the height of its title, and the size of the letters."""
RADIUS = 6.0


def svg(boxes: Sequence[Box], *, title: str = "") -> str:
    """Draw boxes, left to right in the order in which they take each other's outputs.

    Args:
        title: stands above the picture and is its name for screen readers.

    Raises:
        GraphError: what cannot be drawn, and why.
    """
    frame = layout(boxes)
    pen = _Pen("soma-" + blake2s(repr((title, tuple(boxes))).encode("utf-8", "backslashreplace"), digest_size=5).hexdigest())
    name = title or (f"graph of {len(boxes):,} node{'s' * (len(boxes) != 1)}" if boxes else "empty graph")
    down = MARGIN + HEADING * bool(title)
    wide, high = _n(max(frame.width, width(title, HEADING_SIZE)) + 2 * MARGIN), _n(frame.height + down + MARGIN)
    return "".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{pen.prefix}" role="img" width="{wide}" height="{high}" '
        f'viewBox="0 0 {wide} {high}"><title>{escaped(name)}</title><style>{sheet(pen.prefix)}</style>',
        pen.text("heading", MARGIN, MARGIN + HEADING_SIZE, title) if title else "",
        *pen.frame(frame, boxes, (MARGIN, down)), "</svg>",
    ))


class _Pen:
    """Writes elements whose classes begin with one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def frame(self, frame: Layout, boxes: Sequence[Box], origin: Point) -> Iterator[str]:
        yield f'<g transform="translate({_n(origin[0])} {_n(origin[1])})">'
        if frame.entry is None:
            yield self.text("beside", 0, frame.height / 2 + 3.5, "empty graph")
        else:
            yield from self._groups_and_wires(frame)
            yield self._rect("entry", frame.entry, frame.entry.height / 2)
            yield self.text("beside", frame.entry.x + frame.entry.width / 2, frame.entry.y + 13.5, "input", "middle")
        known = {box.id: box for box in boxes}
        for id, rect in frame.boxes.items():
            yield from self._box(known[id], rect, frame.panes.get(id, ()))
        if frame.hidden:
            yield self.text("beside", 0, frame.height - 4, more(frame.hidden))
        yield "</g>"

    def _groups_and_wires(self, frame: Layout) -> Iterator[str]:
        for title, rect in frame.groups:
            yield self._rect("group", rect, 10)
            yield self.text("beside", rect.x + PAD, rect.y + 16, title)
        for (source, taker), points in frame.wires.items():
            yield self._wire(source, taker, points)

    def _wire(self, source: Source, taker: str, points: Sequence[Point]) -> str:
        ends = f'data-to="{escaped(taker)}"' if source is None else f'data-from="{escaped(source)}" data-to="{escaped(taker)}"'
        return (f'<path class="{self.prefix}-wire" {ends} d="{_curve(points)}">'
                f"<title>{escaped('input' if source is None else source)} → {escaped(taker)}</title></path>")

    def _box(self, box: Box, rect: Rect, panes: Sequence[Pane]) -> Iterator[str]:
        state = f" {self.prefix}-{box.mark}" * (box.mark in ("failed", "skipped"))
        told = (box.id, box.label, " · ".join(filter(None, (box.kind, box.mark, box.time))))
        yield f'<g class="{self.prefix}-box{state}" data-id="{escaped(box.id)}"><title>{escaped(chr(10).join(filter(None, told)))}</title>'
        yield self._rect("face", rect, RADIUS)
        yield self._stripe(box.kind, rect)
        left, right, bottom = rect.x + INDENT, rect.x + rect.width - PAD, rect.y + rect.height
        badge = badge_width(box.mark)
        yield self.text("id", left, rect.y + 20, fitted(box.id, ID, right - left - badge))
        yield self.text("label", left, rect.y + 36, fitted(box.label, LABEL, right - left, fixed=True))
        if badge:
            yield self._badge(box.mark, Rect(rect.x + rect.width - badge, rect.y + 8, badge - 8, BADGE))
        for pane, (_, inner) in zip(panes, box.inner, strict=True):
            yield self._rect("pane", pane.rect, RADIUS)
            yield self.text("note", pane.rect.x + PAD, pane.rect.y + 16, fitted(pane.title, SMALL, pane.rect.width - 2 * PAD))
            yield from self.frame(pane.layout, inner, pane.origin)
        hollow = f" {self.prefix}-hollow" * (box.kind in HOLLOW)
        yield (f'<path class="{self.prefix}-{box.kind}{hollow}" transform="translate({_n(left)} {_n(bottom - 13)})" '
               f'd="{SIGNS[box.kind]}"/>')
        yield self.text("note", left + 14, bottom - 9.5, box.kind)
        if box.time:
            yield self.text("note", right, bottom - 9.5, box.time, "end")
        yield "</g>"

    def _stripe(self, kind: str, rect: Rect) -> str:
        """Along the left side of a box, with its round corners."""
        return (f'<path class="{self.prefix}-{kind}" d="M{_n(rect.x + RADIUS)} {_n(rect.y)}a6 6 0 0 0 -6 6'
                f'v{_n(rect.height - 2 * RADIUS)}a6 6 0 0 0 6 6z"/>')

    def _badge(self, mark: str, rect: Rect) -> str:
        middle = rect.x + rect.width / 2
        return (f'<g class="{self.prefix}-badge-{mark}">' + self._rect("badge", rect, rect.height / 2)
                + self.text("word", middle, rect.y + 11.5, mark, "middle") + "</g>")

    def _rect(self, name: str, rect: Rect, radius: float) -> str:
        return (f'<rect class="{self.prefix}-{name}" x="{_n(rect.x)}" y="{_n(rect.y)}" width="{_n(rect.width)}" '
                f'height="{_n(rect.height)}" rx="{_n(radius)}"/>')

    def text(self, name: str, x: float, y: float, text: str, anchor: str = "start") -> str:
        return f'<text class="{self.prefix}-{name}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escaped(text)}</text>'


def _curve(points: Sequence[Point]) -> str:
    """Level pieces, smooth steps between them, and the head of an arrow."""
    x, y = points[0]
    pieces = [f"M{_n(x)} {_n(y)}"]
    for to_x, to_y in points[1:]:
        if abs(to_y - y) > 0.05:
            middle = _n((x + to_x) / 2)
            pieces.append(f"C{middle} {_n(y)} {middle} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
        else:
            if pieces[-1].startswith("H"):
                pieces.pop()
            pieces.append(f"H{_n(to_x)}")
        x, y = to_x, to_y
    return "".join(pieces) + "m-6.5 -4l5.5 4l-5.5 4"


def _n(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
