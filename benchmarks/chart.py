"""The figures as bars on logarithmic scales, one panel each. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, Subject
from benchmarks.report import cell

COLOURS = {"soma": "#c8442b", "raw": "#8c8c8c", "multiprocessing": "#b9b9b9", "plain": "#b9b9b9",
           "ray": "#3b6ea5", "dask": "#d9a441", "xoscar": "#5c9a6f", "sklearn": "#5c9a6f", "joblib": "#7d6aa8",
           "gloo": "#3b6ea5", "torch": "#d9a441", "numpy": "#8c8c8c", "flower": "#5c9a6f", "optuna": "#8c8c8c", "loky": "#7d6aa8",
           "coglet": "#8c8c8c", "litserve": "#5c9a6f"}
COLUMNS = 4


def _panel(axes: Axes, subject: Subject, figure: Figure, systems: Mapping[str, Any]) -> None:
    names = list(systems)[::-1]
    values = [systems[n]["figures"].get(figure.key, {}).get("median") for n in names]
    known = [v for v in values if v]
    better = "shorter" if figure.lower_is_better else "longer"
    axes.set_title(f"{figure.title}\n{figure.unit}, {better} is better", fontsize=8.5, loc="left")
    axes.set_yticks(range(len(names)), [subject.labels.get(n, n) for n in names], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7)
    if not known:
        axes.set_xticks([])
        return
    low = min(known) / 3
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(low, max(known) * 6)
    axes.set_ylim(-0.6, len(names) - 0.4)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        if value:
            axes.barh(row, value - low, left=low, color=COLOURS[name], height=0.7)
        axes.text(value * 1.12 if value else low * 1.1, row, cell(subject, systems[name], figure.key), va="center", fontsize=8)


def draw(subject: Subject, found: Mapping[str, Any], path: Path) -> None:
    systems = {name: s for name, s in found["systems"].items() if s["status"] == "measured"}
    charted = [f for f in subject.figures if f.charted]
    rows = -(-len(charted) // COLUMNS)
    picture = Picture(figsize=(4.1 * COLUMNS, (0.75 + 0.24 * len(systems)) * rows + 0.6), layout="constrained")
    FigureCanvasAgg(picture)
    grid = picture.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, figure in zip(grid, charted, strict=False):
        _panel(axes, subject, figure, systems)
    for axes in list(picture.axes)[len(charted):]:
        axes.set_visible(False)
    m = found["machine"]
    picture.suptitle(f"{subject.title}: {m['cores']} cores of {m['cpu']}, Python {m['python']}, {found['date']}; "
                     f"medians of {found['rounds']} round(s), logarithmic scales", fontsize=10)
    picture.savefig(path, dpi=110)
