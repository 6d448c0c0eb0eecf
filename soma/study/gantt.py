"""The timeline of a study: who worked on what, and when."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from soma.errors import StudyError
from soma.study.board import Drawable, board_of
from soma.study.drawing import COLOURS, Axes, Figure, below, dress, sheet, short
from soma.study.lanes import Clock, busy, lanes_of, span
from soma.study.results import State

MOST_LANES = 40


def timeline(study: Drawable, now: float | None = None) -> Figure:
    """What each worker process did when, coloured by how the trial ended. Long pauses between two runs of the study are cut short.

    Args:
        study: soma's, or optuna's.
        now: until when running trials are drawn, in seconds since 1970; by default until the last thing that is known.

    Raises:
        StudyError: no trial has begun.
    """
    board = board_of(study)
    lanes = lanes_of(board.trials, now)
    if not lanes:
        raise StudyError(f"study {board.name!r}: no trial has begun, so there is nothing to draw")
    left_out, lanes = max(0, len(lanes) - MOST_LANES), lanes[:MOST_LANES]
    clock = Clock(busy(board.trials))
    begun = datetime.datetime.fromtimestamp(min(lane.stays[0][1] for lane in lanes))
    figure = sheet(9.0, 0.36 * len(lanes) + 1.5, f"{board.name}: {board.summary()}")
    axes = figure.subplots()
    end = max(clock.at(stop) for lane in lanes for _, _, stop in lane.stays)
    unit, seconds = next((u for u in (("hours", 3600.0), ("minutes", 60.0)) if end >= 3 * u[1]), ("seconds", 1.0))
    bars = [(y, t.number, t.state, clock.at(a) / seconds, clock.at(b) / seconds) for y, lane in enumerate(lanes) for t, a, b in lane.stays]
    for state in COLOURS:
        some = [bar for bar in bars if bar[2] == state]
        if some:
            widths = [max(b - a, end / seconds / 500) for *_, a, b in some]
            axes.barh([y for y, *_ in some], widths, left=[a for *_, a, _ in some], height=0.66, color=COLOURS[state],
                      edgecolor="white", linewidth=0.6 if len(bars) <= 200 else 0, label=state, zorder=2,
                      hatch="////" if state == "failed" else None)
    _numbers(axes, bars, end / seconds)
    for at, long in clock.pauses:
        axes.axvspan(at / seconds, (at + clock.notch) / seconds, color="#f2f2f2", zorder=1)
        axes.text((at + clock.notch / 2) / seconds, len(lanes) - 0.45, f"{span(long)} of pause", fontsize=7.5, ha="center", va="top",
                  color="#666666")
    more = f"; {left_out} more workers are not drawn" if left_out else ""
    dress(axes, "", f"{unit} of work since {begun:%Y-%m-%d %H:%M:%S}{more}", "", "x")
    axes.set_yticks(range(len(lanes)), [short(lane.label, 40) for lane in lanes])
    axes.set_ylim(len(lanes) - 0.1 if clock.pauses else len(lanes) - 0.5, -0.5)
    axes.set_xlim(0, end / seconds * 1.005 or 1)
    below(figure)
    return figure


def _numbers(axes: Axes, bars: Sequence[tuple[int, int, State, float, float]], end: float) -> None:
    """The trial's number in every bar that has room for it."""
    for y, number, state, a, b in bars:
        if (b - a) > 0.007 * (1 + len(str(number))) * end:
            axes.text((a + b) / 2, y, str(number), fontsize=7, ha="center", va="center", zorder=3,
                      color="white" if state in ("completed", "failed") else "black",
                      bbox={"facecolor": COLOURS[state], "edgecolor": "none", "pad": 0.8})
