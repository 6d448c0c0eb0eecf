"""The curves of a run as a picture. Needs matplotlib; touches none of its global state, so it works in any thread and without a display."""

from __future__ import annotations

import sys
from collections.abc import Collection
from os import PathLike
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from soma.runs.curves import VALIDATION, Curves, Panel, Series

if TYPE_CHECKING:
    from soma.runs.folder import RunInfo

COLOURS = ("#c8442b", "#3b6ea5", "#5c9a6f", "#d9a441", "#7d6aa8", "#5a5a5a")
FAINT = "#b0b0b0"
CROWD = len(COLOURS)
"""Of more nodes (clients, members) than this, each is drawn faint."""
TOGETHER = ("best", "")
"""Nodes that stand for all."""


def plot(run: RunInfo, path: str | PathLike[str] | None, metrics: Collection[str] | None) -> Figure:
    if "IPython" in sys.modules:
        import matplotlib.pyplot  # noqa: F401  lets a notebook show the figure
    panels = Curves(run.events()).panels(metrics)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6.4, 5.2 * columns), 3.2 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        draw(axes, panel)
    for axes in list(figure.axes)[len(panels):]:
        axes.set_visible(False)
    figure.suptitle(f"{run.id} ({run.status})", fontsize=10)
    if path is not None:
        figure.savefig(path)
    return figure


def draw(axes: Axes, panel: Panel) -> None:
    nodes = list(dict.fromkeys(s.node for s in panel.series))
    crowd = len(nodes) > CROWD
    for series in panel.series:
        one_of_many = crowd and series.node not in TOGETHER
        colour = FAINT if one_of_many else COLOURS[(nodes.index(series.node) + series.name.startswith(VALIDATION)) % len(COLOURS)]
        noise = series.each and any(s.node == series.node and not s.each for s in panel.series)
        axes.plot(series.x, series.y, color=colour, label="" if one_of_many else label(series, panel), alpha=0.35 if noise else 1,
                  linewidth=1 if noise or one_of_many else 1.8, zorder=3 if series.node in TOGETHER else 2, markersize=3.5,
                  marker="o" if not series.each and len(series.x) <= 30 else None)
    if panel.exploited:
        axes.plot(*zip(*panel.exploited, strict=True), "v", color="black", markersize=4, zorder=4, label="took over a better one's weights")
    for i, step in enumerate(panel.restarts):
        axes.axvline(step, color="black", linestyle=":", linewidth=1, label="" if i else "restarted after a death")
    dress(axes, panel)


def dress(axes: Axes, panel: Panel) -> None:
    """Axes, their names, and a legend where there is more than one thing to tell apart."""
    known = [y for s in panel.series for y in s.y if 0 < y < float("inf")]
    positive = len(known) == sum(len(s.y) for s in panel.series)
    logarithmic = panel.title != "clients" and positive and max(known, default=1) > 100 * min(known, default=1)
    if logarithmic:
        axes.set_yscale("log")
    if panel.title == "clients":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(panel.axis, fontsize=9)
    axes.set_ylabel({"loss": "loss, mean per row", "clients": "number of clients"}.get(panel.title, panel.title)
                    + (" (logarithmic)" if logarithmic else ""), fontsize=9)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize=8, frameon=False)


def label(series: Series, panel: Panel) -> str:
    said = [(series.node or "all") if len({s.node for s in panel.series}) > 1 else ""]
    if any(s.name.startswith(VALIDATION) for s in panel.series):
        said.append("validation" if series.name.startswith(VALIDATION) else "training")
    if any(s.each for s in panel.series) and not series.name.startswith(VALIDATION):
        said.append("each step" if series.each else "mean of an epoch")
    return ", ".join(s for s in said if s) or series.name
