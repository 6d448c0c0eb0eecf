"""What all pictures of a study are drawn on and with: a figure without pyplot, colours that colour-blind readers can tell apart, scales
of dimensions. Needs matplotlib and touches none of its global state, so it works in any thread and without a display.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence

try:
    from matplotlib.axes import Axes as Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.colors import Normalize as Normalize
    from matplotlib.figure import Figure as Figure
    from matplotlib.ticker import LogLocator
    from matplotlib.ticker import MaxNLocator as MaxNLocator
except ModuleNotFoundError as e:
    if not str(e.name).startswith("matplotlib"):
        raise
    raise ModuleNotFoundError('plots need matplotlib: pip install "soma[viz]"', name=e.name) from None

from soma.study.board import ENDLESS, Dimension, drawable
from soma.study.results import State

BEST, POINT, GRID = "#c8442b", "#3b6ea5", "#e6e6e6"
COLOURS: dict[State, str] = {"completed": "#3b6ea5", "pruned": "#d9a441", "failed": "#8c1d40", "running": "#9ec3e6", "waiting": "#e0e0e0"}
MARKS: dict[State, str] = {"completed": "o", "pruned": "v", "failed": "X", "running": ">", "waiting": "."}
WORST_TO_BEST = "cividis_r"
"""Light is bad and dark is good; also light is early and dark is late."""
LONG = 22
"""Characters of a label."""


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty figure; inches."""
    if "IPython" in sys.modules:
        import matplotlib.pyplot  # noqa: F401  lets a notebook show the figure
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(literal(title), fontsize=10)
    return figure


def literal(said: str) -> str:
    """Text as it is: a dollar begins no formula."""
    return said.replace("$", r"\$")


def short(said: str, length: int = LONG) -> str:
    return literal(said if len(said) <= length else said[:length - 1] + "…")


def wrapped(name: str, width: int) -> str:
    """A name on up to three lines, broken after a dot, dash or underscore where that is possible; what is left out is in its middle."""
    lines = [""]
    for part in re.findall(r"[^._\-\s]*[._\-\s]*", name):
        for piece in [part[i:i + width] for i in range(0, len(part), width)]:
            if len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return literal("\n".join(line.strip() for line in (lines if len(lines) <= 3 else [lines[0], "…", lines[-1]])))


def dress(axes: Axes, title: str, x: str, y: str, grid: str | None = "y") -> None:
    axes.set_title(literal(title), loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(literal(x), fontsize=9)
    axes.set_ylabel(literal(y), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8)


def below(figure: Figure) -> None:
    """What things mean, once for all panels and below them, where nothing is hidden; nothing if there is one thing only."""
    found = {said: handle for axes in figure.axes for handle, said in zip(*axes.get_legend_handles_labels(), strict=True)}
    if len(found) > 1:
        shown = figure.legend(found.values(), found.keys(), fontsize=8, frameon=False, loc="outside lower center", ncols=6)
        for handle in shown.legend_handles:
            if handle is not None:
                handle.set_alpha(1)


def logarithmic(values: Iterable[float]) -> bool:
    """Whether they are better seen on a logarithmic scale: all positive, over more than two powers of ten."""
    known = [v for v in values if drawable(v)]
    return bool(known) and min(known) > 1 / ENDLESS and max(known) > 100 * min(known)


def norm(values: Sequence[float]) -> Normalize:
    """A scale of colours. A single value is in the middle of it."""
    low, high = min(values), max(values)
    if logarithmic(values):
        return LogNorm(low, high)
    return Normalize(low, high) if high > low else Normalize(low - 1, high + 1)


def scale(axes: Axes, way: str, dimension: Dimension) -> None:
    """The x or y axis as that of a dimension."""
    axis = axes.xaxis if way == "x" else axes.yaxis
    limit = axes.set_xlim if way == "x" else axes.set_ylim
    low, high = dimension.low, dimension.high
    if dimension.kind == "choice":
        limit(low - 0.6, high + 0.6)
        room = len(dimension.choices) <= 4
        axis.set_ticks(range(len(dimension.choices)), [short(c, 14) for c in dimension.choices])
        axis.set_tick_params(rotation=0 if room and sum(map(len, dimension.choices)) < 24 else 40)
        return
    if dimension.log:
        (axes.set_xscale if way == "x" else axes.set_yscale)("log")
        edge = (high / low) ** 0.05 if high > low else 2.0
        limit(low / edge, high * edge)
        return
    edge = (high - low) * 0.05 or 1.0
    limit(low - edge, high + edge)
    axis.set_major_locator(MaxNLocator(4, integer=dimension.kind == "int"))


def ticks(dimension: Dimension) -> list[tuple[float, str]]:
    """Where labels stand on an axis from 0 to 1, and which."""
    if dimension.kind == "choice":
        return [(i / dimension.high if dimension.high else 0.5, c) for i, c in enumerate(dimension.choices)]
    low, high = dimension.low, dimension.high
    if high <= low:
        return [(0.5, f"{low:.4g}")]
    if dimension.log and high / low >= 10:
        between = [float(v) for v in LogLocator(numticks=7).tick_values(low, high) if low <= v <= high]
        if len(between) > 1:
            return [(dimension.share(v), f"{v:.4g}") for v in between]
    between = [float(v) for v in MaxNLocator(5, integer=dimension.kind == "int").tick_values(low, high) if low <= v <= high]
    digits = min(12, max(4, math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))) + 3))  # so that neighbours differ
    return [(dimension.share(v), f"{v:.{digits}g}") for v in between]


def scattered(n: int, width: float) -> list[float]:
    """Small shifts, always the same ones, that keep marks at one place apart."""
    golden = 0.6180339887498949
    return [width * (((i + 1) * golden) % 1 - 0.5) for i in range(n)]


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Inside, nothing that a library finds noteworthy reaches the user: a picture of few trials is no mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
