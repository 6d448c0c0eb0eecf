"""What a page is made of: escaped text, tables, pictures inside the page, and the little script that sorts a table.

A page needs nothing but itself: its policy forbids every request, and every script but its own, so that a parameter called `<script>`
could do nothing even if it were not escaped. It is, always: text gets into a page through `e` only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 140
"""An inch of a picture."""
COLOURS = 200
"""Of a picture; fewer make it smaller."""

SCRIPT, STYLE = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))


def e(value: Any) -> str:
    """Text of a page."""
    return html.escape(str(value), quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """The whole of it."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = "; ".join(("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
                        "base-uri 'none'", "form-action 'none'"))
    return "\n".join((
        '<!doctype html>', '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{e(title)}</title>", f"<style>{STYLE}</style></head>", "<body>", *parts,
        f"<script>{SCRIPT}</script>", "</body></html>", ""))


def facts(told: Mapping[str, Any]) -> str:
    """A table of names and texts; what is None or empty is left out."""
    rows = [f"<tr><th>{e(name)}</th><td>{e(value)}</td></tr>" for name, value in told.items() if value not in (None, "", ())]
    return f'<table class="facts">{"".join(rows)}</table>' if rows else ""


def card(number: Any, label: str, colour: str = "") -> str:
    style = f' style="--of: {e(colour)}"' if colour else ""
    return f'<div class="card"{style}><b>{e(number)}</b><span>{e(label)}</span></div>'


def sortable(id: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> str:
    """A table that is sorted by a click on a column's name.

    Args:
        id: in the page.
        columns: their names.
        rows: class of the row, and its values; None is an empty cell, which stands last in either order.
    """
    heads = "".join(f'<th scope="col"><button type="button">{e(name)}</button></th>' for name in columns)
    body = "".join(f'<tr class="{e(kind)}">{"".join(map(_cell, values))}</tr>' for kind, values in rows)
    return f'<table class="sortable" id="{e(id)}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: Any) -> str:
    if value is None:
        return '<td data-v=""></td>'
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f'<td data-v="{e(value)}" title="{e(value)}">{e(value)}</td>'
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    sorts = str(value) if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "")
    return f'<td class="n" data-v="{sorts}">{shown}</td>'


def picture(figure: Figure, said: str) -> str:
    """A figure inside the page; `said` is for who cannot see it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DOTS)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    data = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").quantize(COLOURS).save(data, "png")
    source = base64.b64encode(data.getvalue()).decode()
    return f'<figure><img alt="{e(said)}" width="{round(figure.get_figwidth() * 100)}" src="data:image/png;base64,{source}"></figure>'
