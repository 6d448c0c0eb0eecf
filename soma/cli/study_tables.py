"""A study as `soma study` shows it: in short, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soma.errors import StudyError

if TYPE_CHECKING:
    from soma.study.board import Board
    from soma.study.finding import Named, Opened
    from soma.study.results import FinishedTrial

COLOURS = {"completed": "green", "failed": "red", "pruned": "yellow", "running": "cyan", "waiting": "dim"}


def in_short(named: Named, it: Opened | None = None) -> dict[str, Any]:
    """One study in short. What cannot be read has an `error`."""
    from soma.study.finding import opened

    if it is None:
        try:
            with opened(named) as fresh:
                return in_short(named, fresh)
        except (StudyError, OSError) as e:
            return {**_known(named), "trials": {}, "best": {}, "front": [], "changed": None, "error": str(e)}
    board = it.board
    best = board.best()
    times = [at for t in board.trials for at in (t.started, t.ended) if at is not None]
    return {**_known(named), "name": board.name, "trials": board.counts(), "best": dict(best[0].values) if len(best) == 1 else {},
            "front": [t.number for t in best], "changed": max(times, default=None), "error": ""}


def _known(named: Named) -> dict[str, Any]:
    place, told = named.place, named.description
    planned = told.get("n_trials")
    return {"name": named.name or "", "directory": None if place is None else str(place.path), "storage": named.storage,
            "planned": planned * max(1, len(told.get("seeds") or ())) if planned else None,
            "drivers": [] if place is None else place.drivers()}


# -- showing -------------------------------------------------------------------------------------------------------------------


def show_study(it: Opened, most: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from soma.study.page import study_facts

    console = Console(highlight=False)
    board, row = it.board, in_short(it.named, it)
    counts = ", ".join(f"[{COLOURS[state]}]{n} {state}[/]" for state, n in board.counts().items()) or "no trials"
    console.print(f"[bold]{escape(board.name)}[/]  {counts}")
    facts = {**study_facts(it), "directory": row["directory"], "drivers": ", ".join(row["drivers"])}
    for name, value in facts.items():
        if value not in (None, "", ()):
            console.print(f"  [dim]{name:<10}[/] {escape(str(value))}", soft_wrap=True)
    best = board.best()
    if len(board.objectives) == 1 and best:
        console.print(f"  [dim]{'best':<10}[/] trial {best[0].number}: " + escape(", ".join(
            [f"{k} {v:.6g}" for k, v in best[0].values.items()] + [f"{k}={v}" for k, v in best[0].params.items()])), soft_wrap=True)
    goal = board.objectives[0]
    sign = 1 if board.less_is_better(goal) else -1
    ranked = best if len(board.objectives) > 1 else sorted(
        board.of("completed"), key=lambda t: (not t.feasible, sign * t.values[goal], t.number))
    _table(console, board, ranked[:most])
    for trial in board.of("failed")[:most]:
        said = trial.error.splitlines()[0][:160] if trial.error else ""
        console.print(f"  [red]trial {trial.number}[/] {escape(f'{trial.error_type}: {said}')}", soft_wrap=True)


def _table(console: Any, board: Board, trials: list[FinishedTrial]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from soma.study.board import text

    if not trials:
        return
    params = list(dict.fromkeys(name for t in trials for name in t.params))
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("trial", *board.objectives, *params, "seconds"):
        table.add_column(escape(column), overflow="fold", justify="left" if column in params else "right")
    for t in trials:
        cells = [str(t.number), *(f"{t.values[o]:.6g}" for o in board.objectives),
                 *(text(t.params[p]) if p in t.params else "" for p in params), "" if t.duration_s is None else f"{t.duration_s:.2f}"]
        table.add_row(*map(escape, cells))
    console.print()
    console.print(table)


def flat(board: Board) -> list[dict[str, Any]]:
    """Each as a flat dict, all with the same keys."""
    from soma.study.results import rows

    more = ({"ended": t.ended, "error_type": t.error_type, "repeat_of": t.repeat_of, "attempt": t.attempt,
             "worker": t.worker.get("worker"), "pid": t.worker.get("pid"), "node": t.worker.get("node")} for t in board.trials)
    return [{**row, **other} for row, other in zip(rows(board.trials), more, strict=True)]


def as_csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["number", "state"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def plain(value: Any) -> Any:
    """As JSON can hold it: what is infinite or no number becomes a text."""
    match value:
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
    return value if value is None or isinstance(value, str | int) else str(value)
