"""Pictures in which the dimensions of a space are axes: slices through it, and all of it at once in parallel coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from soma.errors import StudyError
from soma.study.board import Board, Dimension, Drawable, board_of
from soma.study.drawing import (
    BEST,
    GRID,
    WORST_TO_BEST,
    Axes,
    Figure,
    MaxNLocator,
    Normalize,
    dress,
    logarithmic,
    norm,
    scale,
    scattered,
    sheet,
    short,
    ticks,
    wrapped,
)
from soma.study.results import FinishedTrial

if TYPE_CHECKING:
    from collections.abc import Sequence

ABSENT = -0.14
"""Where a line passes an axis of a dimension that the trial did not have; axes go from 0 to 1."""
COLUMNS = 4


def slices(study: Drawable, objective: str | int | None = None, params: Sequence[str] | None = None) -> Figure:
    """An objective over each dimension, one panel each: what values of it go with good trials. The darker the later.

    Args:
        study: soma's, or optuna's.
        objective: name or number; by default the first.
        params: names of the dimensions; by default all.

    Raises:
        StudyError: no completed trial, or no dimension of that name.
    """
    board = board_of(study)
    goal = board.objective(objective)
    trials, dimensions = _drawable(board, goal, params)
    columns = min(COLUMNS, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure = sheet(max(4.8, 2.6 * columns + 1.0), 2.7 * rows + 0.5, f"{board.name}: {goal} over each parameter")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    best, last = {t.number for t in board.best()}, trials[-1].number
    order = Normalize(trials[0].number, max(last, trials[0].number + 1))
    for i, (axes, dimension) in enumerate(zip(grid.flat, dimensions, strict=False)):
        _slice(axes, dimension, goal, trials, order, best)
        if logarithmic([t.values[goal] for t in trials]):
            axes.set_yscale("log")
        if i % columns:
            axes.set_ylabel("")
    for axes in list(grid.flat)[len(dimensions):]:
        axes.set_visible(False)
    bar = figure.colorbar(_scale(order), ax=grid, aspect=30, pad=0.01)
    bar.set_label("trial", fontsize=9)
    bar.locator = MaxNLocator(6, integer=True)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8)
    return figure


def _slice(axes: Axes, dimension: Dimension, goal: str, trials: list[FinishedTrial], order: Any, best: set[int]) -> None:
    here = [t for t in trials if dimension.name in t.params]
    few = dimension.kind == "choice" or dimension.kind == "int" and dimension.high - dimension.low <= 10 and not dimension.log
    shifts = scattered(len(here), 0.4 if few else 0.0)
    x = [dimension.at(t.params[dimension.name]) + shift for t, shift in zip(here, shifts, strict=True)]
    y = [t.values[goal] for t in here]
    axes.scatter(x, y, c=[t.number for t in here], cmap=WORST_TO_BEST, norm=order, s=_size(len(here)), edgecolors="white", linewidths=0.4,
                 zorder=2)
    chosen = [i for i, t in enumerate(here) if t.number in best]
    axes.scatter([x[i] for i in chosen], [y[i] for i in chosen], s=110, marker="*", color=BEST, edgecolors="white", linewidths=0.6,
                 zorder=3)
    dress(axes, "", "", goal, grid="both")
    axes.set_xlabel(wrapped(dimension.name, 28), fontsize=9)
    scale(axes, "x", dimension)
    if len(here) < len(trials):
        axes.set_title(f"of {len(here)} of {len(trials)} trials", loc="right", fontsize=8, color="#666666")


def _size(n: int) -> float:
    """Of a mark, so that many do not hide each other."""
    return 28.0 if n <= 100 else 14.0 if n <= 1000 else 5.0


def _scale(order: Any) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm=order, cmap=WORST_TO_BEST)


def parallel(study: Drawable, objective: str | int | None = None, params: Sequence[str] | None = None) -> Figure:
    """Every completed trial as a line through all its parameters to its value; the darker the better, the best in red. A line passes
    below the axis of a parameter that its trial did not have.

    Args:
        study: soma's, or optuna's.
        objective: name or number; by default the first.
        params: names of the dimensions; by default all.

    Raises:
        StudyError: no completed trial, or no dimension of that name.
    """
    from matplotlib.collections import LineCollection

    board = board_of(study)
    goal = board.objective(objective)
    trials, dimensions = _drawable(board, goal, params)
    values = [t.values[goal] for t in trials]
    colours = norm(values)
    last = Dimension(goal, "float", min(values), max(values), logarithmic(values))
    axis_of = [*dimensions, last]
    cmap = WORST_TO_BEST if not board.less_is_better(goal) else WORST_TO_BEST.removesuffix("_r")
    figure = sheet(max(6.4, 1.35 * len(axis_of) + 1.2), 4.4, f"{board.name}: parameters and {goal} of {len(trials)} trials")
    axes = figure.subplots()
    lines = _lines(trials, dimensions, last, goal)
    less = board.less_is_better(goal)
    order = np.argsort([-v if less else v for v in values], kind="stable")  # the best on top
    axes.add_collection(LineCollection([lines[i] for i in order], array=[values[i] for i in order], cmap=cmap, norm=colours,
                                       linewidths=1.1, alpha=0.75 if len(trials) <= 200 else 0.35, zorder=2))
    best = {t.number for t in board.best()} if len(board.objectives) == 1 else {t.number for t in board.improvements(goal)[-1:]}
    for trial, line in zip(trials, lines, strict=True):
        if trial.number in best:
            axes.plot(*zip(*line, strict=True), color=BEST, linewidth=2.2, zorder=3, label=f"the best, trial {trial.number}")
    _axes(axes, axis_of, any(d.name not in t.params for d in dimensions for t in trials))
    bar = figure.colorbar(_mappable(colours, cmap), ax=axes, aspect=30, pad=0.01)
    bar.set_label(short(goal), fontsize=9)
    bar.ax.tick_params(which="both", labelsize=8)
    figure.legend(fontsize=8, frameon=False, loc="outside lower right") if best else None
    return figure


def _mappable(colours: Any, cmap: str) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm=colours, cmap=cmap)


def _lines(trials: list[FinishedTrial], dimensions: Sequence[Dimension], last: Dimension, goal: str) -> list[list[tuple[float, float]]]:
    columns = []
    for dimension in dimensions:
        shifts = scattered(len(trials), 0.05 if dimension.kind == "choice" else 0.0)
        columns.append([dimension.share(t.params[dimension.name]) + s if dimension.name in t.params else ABSENT
                        for t, s in zip(trials, shifts, strict=True)])
    columns.append([last.share(t.values[goal]) for t in trials])
    return [[(float(x), column[i]) for x, column in enumerate(columns)] for i in range(len(trials))]


def _axes(axes: Axes, dimensions: Sequence[Dimension], some_absent: bool) -> None:
    """A vertical axis for each, with its own labels."""
    for x, dimension in enumerate(dimensions):
        axes.plot([x, x], [0, 1], color="black", linewidth=0.9, zorder=4, solid_capstyle="butt")
        for y, said in ticks(dimension):
            axes.plot([x - 0.02, x + 0.02], [y, y], color="black", linewidth=0.9, zorder=4)
            axes.text(x + 0.04, y, short(said, 14), fontsize=7.5, va="center", zorder=5,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})
    if some_absent:
        axes.axhline(ABSENT, color=GRID, linewidth=0.9, zorder=1)
        axes.text(-0.08, ABSENT, "without", fontsize=7.5, va="center", ha="right", color="#666666")
    axes.set_xticks(range(len(dimensions)), [wrapped(d.name, 17) + ("\n(log)" if d.log else "") for d in dimensions])
    axes.tick_params(axis="x", labelsize=9, length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(dimensions) - 0.45)
    axes.set_ylim((ABSENT if some_absent else 0) - 0.06, 1.06)
    axes.spines[:].set_visible(False)


def _drawable(board: Board, goal: str, params: Sequence[str] | None) -> tuple[list[FinishedTrial], list[Dimension]]:
    names = [d.name for d in board.dimensions]
    if unknown := [p for p in params or () if p not in names]:
        raise StudyError(f"params: {', '.join(map(repr, unknown))} not in study {board.name!r}; there is {', '.join(map(repr, names))}")
    trials = board.valued(goal)
    dimensions = [d for d in board.dimensions if (d.name in params if params is not None else any(d.name in t.params for t in trials))]
    if not trials or not dimensions:
        raise StudyError(f"study {board.name!r}: no {'completed trial' if not trials else 'dimension'} that could be drawn")
    return trials, dimensions
