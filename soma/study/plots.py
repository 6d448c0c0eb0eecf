"""Pictures of a study, each a matplotlib figure: what became of the objective, of the metrics, of the workers' time; what mattered.

They are drawn from the trials that a storage holds, so any study of optuna's will do. optuna's own pictures go by pyplot, whose global
state would be left behind, and know neither workers nor seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soma.errors import StudyError
from soma.study.board import Board, Drawable, board_of, drawable
from soma.study.drawing import (
    BEST,
    COLOURS,
    MARKS,
    POINT,
    Axes,
    Figure,
    MaxNLocator,
    below,
    dress,
    logarithmic,
    sheet,
    short,
    unwarned,
    wrapped,
)
from soma.study.gantt import timeline as timeline
from soma.study.landscape import parallel as parallel
from soma.study.landscape import slices as slices
from soma.study.reading import Studied
from soma.study.results import FinishedTrial, State

if TYPE_CHECKING:
    from optuna import Study

MOST_PANELS = 6


def history(study: Drawable) -> Figure:
    """Each objective trial by trial, with the best so far; below it which trials were pruned and failed. Where a set of parameters was
    tried with several seeds, a line marks the mean.

    Raises:
        StudyError: no trial has ended yet.
    """
    board = board_of(study)
    if not board.of("completed", "pruned", "failed"):
        raise StudyError(f"study {board.name!r}: no trial has ended yet, so there is nothing to draw")
    strips: list[State] = [state for state in ("pruned", "failed") if board.of(state)]
    rows = len(board.objectives)
    figure = sheet(7.6, 2.9 * rows + 1.0, f"{board.name}: {board.summary()}")
    heights = [10.0] * rows + ([1.1 * len(strips)] if strips else [])
    grid = list(figure.subplots(len(heights), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}).flat)
    for axes, goal in zip(grid, board.objectives, strict=False):
        _history(axes, board, goal)
    if strips:
        strip = grid[-1]
        for y, state in enumerate(reversed(strips)):
            strip.scatter([t.number for t in board.of(state)], [y] * len(board.of(state)), marker=MARKS[state], s=20, color=COLOURS[state])
        dress(strip, "", "", "", grid=None)
        strip.set_yticks(range(len(strips)), list(reversed(strips)))
        strip.set_ylim(-0.7, len(strips) - 0.3)
        strip.spines["left"].set_visible(False)
        strip.tick_params(axis="y", length=0)
    grid[-1].set_xlabel("trial", fontsize=9)
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    below(figure)
    return figure


def _history(axes: Axes, board: Board, goal: str) -> None:
    trials = board.valued(goal)
    dress(axes, goal, "", goal + (" (less is better)" if board.less_is_better(goal) else " (more is better)"))
    crowd = 26.0 if len(trials) <= 200 else 8.0
    for fine in (True, False):
        some = [t for t in trials if t.feasible is fine]
        if some:
            axes.scatter([t.number for t in some], [t.values[goal] for t in some], s=crowd, zorder=2, linewidths=0.8,
                         facecolors=POINT if fine else "none", edgecolors=POINT if fine else "#808080",
                         label="trial" if fine else "breaks a constraint")
    sets: dict[int, list[FinishedTrial]] = {}
    for trial in trials:
        sets.setdefault(trial.config, []).append(trial)
    several = [found for found in sets.values() if len(found) > 1]
    for i, found in enumerate(several):
        mean = sum(t.values[goal] for t in found) / len(found)
        least = max(0.3, len(board.trials) / 300)
        axes.hlines(mean, found[0].number - least, found[-1].number + least, color="black", linewidth=1.3, zorder=3,
                    label="" if i else "mean over seeds")
    if better := [t for t in board.improvements(goal) if drawable(t.values[goal])]:
        end = board.trials[-1].number
        axes.step([*(t.number for t in better), end], [*(t.values[goal] for t in better), better[-1].values[goal]], where="post",
                  color=BEST, linewidth=1.8, zorder=4, label="best so far")
    if logarithmic([t.values[goal] for t in trials]):
        axes.set_yscale("log")


def importances(study: Study | Studied, board: Board | None = None) -> Figure:
    """How much each parameter decides whether a trial is among the best, one panel for each objective; by optuna's PED-ANOVA.

    Args:
        study: soma's, or optuna's.
        board: of that study, if there is one already.

    Raises:
        StudyError: too few trials completed, or they all had the same value.
    """
    board = board_of(study) if board is None else board
    source = study.optuna if isinstance(study, Studied) else study
    shares = [weights(source, i) for i in range(len(board.objectives))]
    width = max(4.6, min(10.0, 4.8 * len(shares)))
    figure = sheet(width, 0.34 * len(board.dimensions) + 1.4, f"{board.name}: what decides whether a trial is good")
    grid = figure.subplots(1, len(shares), squeeze=False).flat
    for axes, goal, share in zip(grid, board.objectives, shares, strict=True):
        names = list(reversed(share))
        bars = axes.barh(range(len(names)), [share[n] for n in names], color=POINT, height=0.62)
        axes.bar_label(bars, [f"{share[n]:.0%}" for n in names], padding=3, fontsize=8)
        dress(axes, goal if len(shares) > 1 else "", "importance", "", grid="x")
        axes.set_yticks(range(len(names)), [wrapped(n, 28) for n in names])
        axes.set_xlim(0, max(share.values()) * 1.15 or 1)
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def weights(study: Study, objective: int = 0) -> dict[str, float]:
    """Importance of each parameter for an objective, the largest first; together they are 1.

    Raises:
        StudyError: too few trials completed, or they all had the same value.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    values = {t.values[objective] for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE" and t.values is not None}
    if len(values) < 2:
        raise StudyError(f"study {study.study_name!r}: importances need completed trials of different values")
    try:
        with unwarned():
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=lambda t: t.values[objective])
    except (ValueError, RuntimeError) as e:
        raise StudyError(f"study {study.study_name!r}: no importances: {e}") from e
    if not found:
        raise StudyError(f"study {study.study_name!r}: its trials have no parameter in common")
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def pareto(study: Drawable) -> Figure:
    """Each pair of objectives against each other; trials that no other beats in everything are red.

    Raises:
        StudyError: there is one objective, more than four, or no completed trial.
    """
    board = board_of(study)
    if not 2 <= len(board.objectives) <= 4:
        raise StudyError(f"study {board.name!r} has {len(board.objectives)} objective(s); a front is drawn of two to four")
    trials = [t for t in board.of("completed") if all(map(drawable, t.values.values()))]
    if not trials:
        raise StudyError(f"study {board.name!r}: no completed trial that could be drawn")
    front = {t.number for t in board.best()}
    pairs = list(itertools.combinations(board.objectives, 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = sheet(5.8 if len(pairs) == 1 else 3.8 * columns, (4.4 if len(pairs) == 1 else 3.6 * rows) + 0.2,
                   f"{board.name}: {len(front)} of {len(trials)} trials are on the Pareto front")
    for axes, (x, y) in zip(figure.subplots(rows, columns, squeeze=False).flat, pairs, strict=True):
        _front(axes, board, trials, front, (x, y))
    below(figure)
    return figure


def _front(axes: Axes, board: Board, trials: Sequence[FinishedTrial], front: set[int], pair: tuple[str, str]) -> None:
    x, y = pair
    kinds = {"breaks a constraint": [t for t in trials if not t.feasible],
             "beaten": [t for t in trials if t.feasible and t.number not in front],
             "on the front": sorted((t for t in trials if t.number in front), key=lambda t: t.values[x])}
    for name, some in kinds.items():
        if not some:
            continue
        colour = {"breaks a constraint": "#808080", "beaten": POINT, "on the front": BEST}[name]
        axes.scatter([t.values[x] for t in some], [t.values[y] for t in some], s=34 if name == "on the front" else 20, label=name,
                     facecolors="none" if name == "breaks a constraint" else colour, edgecolors=colour if name[0] == "b" else "white",
                     linewidths=0.7, zorder=3 if name == "on the front" else 2, alpha=1 if name != "beaten" else 0.7)
    if len(board.objectives) == 2:  # of more, a projection of the front is no line
        found = kinds["on the front"]
        axes.step([t.values[x] for t in found], [t.values[y] for t in found], color=BEST, linewidth=1.2, zorder=2,
                  where="post" if board.less_is_better(x) else "pre")
    said = [f"{name} ({'less' if board.less_is_better(name) else 'more'} is better)" for name in pair]
    dress(axes, "", said[0], said[1], grid="both")
    for name, turn in ((x, axes.set_xscale), (y, axes.set_yscale)):
        if logarithmic([t.values[name] for t in trials]):
            turn("log")


def metrics(study: Drawable, names: Sequence[str] | None = None) -> Figure:
    """What trials reported, step by step: a panel for each metric, a line for each trial. Where a line of a pruned trial ends is marked.

    Args:
        study: soma's, or optuna's.
        names: of the metrics; by default the first six that there are.

    Raises:
        StudyError: nothing was reported, or nothing of such a name.
    """
    board = board_of(study)
    there = board.learned()
    if unknown := [n for n in names or () if n not in there]:
        raise StudyError(f"metrics: nothing of {', '.join(unknown)} was reported; there is {', '.join(there) or 'nothing'}")
    chosen = list(names or there)[:MOST_PANELS if names is None else None]
    if not chosen:
        raise StudyError(f"study {board.name!r}: no trial reported anything with a step, so there is nothing to draw")
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = sheet(max(6.4, 5.2 * columns), 3.2 * rows + 0.7, f"{board.name}: {board.summary()}")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    best = {t.number for t in board.best()}
    for axes, name in zip(grid, chosen, strict=False):
        _curves(axes, board, name, best)
    for axes in grid[len(chosen):]:
        axes.set_visible(False)
    below(figure)
    return figure


def _curves(axes: Axes, board: Board, name: str, best: set[int]) -> None:
    told: set[str] = set()
    dense = len(board.trials)
    for trial in board.trials:
        curve = trial.metrics.get(name)
        if not curve:
            continue
        x, y = list(curve), [v if drawable(v) else math.nan for v in curve.values()]
        chosen = trial.number in best
        said = ("the best" if len(board.objectives) == 1 else "on the front") if chosen else trial.state
        axes.plot(x, y, color=BEST if chosen else COLOURS[trial.state], linewidth=2.0 if chosen else 0.8, zorder=4 if chosen else 2,
                  alpha=1 if chosen else min(0.7, max(0.08, 25 / dense)), label="" if said in told else said,
                  marker="." if len(x) == 1 else None, linestyle=":" if trial.state == "failed" else "-")
        if trial.state in ("pruned", "failed"):
            axes.plot(x[-1], y[-1], MARKS[trial.state], color=COLOURS[trial.state], markersize=5 if dense <= 100 else 2.5,
                      zorder=3)
        told.add(said)
    dress(axes, short(name), "step", short(name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if logarithmic([v for t in board.trials for v in t.metrics.get(name, {}).values()]):
        axes.set_yscale("log")
