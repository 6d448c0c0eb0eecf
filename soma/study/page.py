"""The report of a study, or of any other run, as one file of HTML that needs nothing else: no network, no other file.

What could not be drawn (too few trials for importances, say) is named with the reason; so is a missing matplotlib.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from soma.errors import StudyError
from soma.runs import RunInfo
from soma.runs.manifest import manifest
from soma.study.board import Board
from soma.study.finding import Opened
from soma.study.html import card, e, facts, page, picture, sortable
from soma.study.lanes import busy, span
from soma.study.results import FinishedTrial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 5000
MOST_FAILURES = 200
COLOURS = {"completed": "#3b6ea5", "pruned": "#d9a441", "failed": "#8c1d40", "running": "#9ec3e6", "waiting": "#c0c0c0"}


def report(opened: Opened, run: RunInfo | None = None) -> str:
    """The page of a study.

    Args:
        opened: the study.
        run: the last run of it, for its versions and its commit.
    """
    board = opened.board
    return page(f"{board.name} · study", [
        f"<h1>{e(board.name)}</h1>", f'<p class="sub">{e(_when(board))}</p>', _cards(board), *_best(board),
        "<h2>The study</h2>",
        facts({**study_facts(opened), **(_of_manifest(run) if run else {})}),
        "<h2>Pictures</h2>", *_pictures(opened), "<h2>Trials</h2>", *_trials(board),
        *_failures(board), _made(run)])


def run_report(run: RunInfo) -> str:
    """The page of a run that is no study: what it was, its curves, its nodes, its last metrics."""
    told = run.manifest
    parts = [f"<h1>{e(run.id)}</h1>", f'<p class="sub">{e(told.get("what", "run"))}, {e(run.status)}</p>', facts(_run_facts(run))]
    if run.error:
        parts += ["<h2>Error</h2>", f"<pre>{e(run.error)}</pre>"]
    drawn, why = _attempt(run.plot)
    parts += ["<h2>Curves</h2>", picture(drawn, "curves of the run") if drawn is not None else f'<p class="note">{e(why)}</p>']
    if nodes := _nodes(run):
        parts += ["<h2>Nodes</h2>", sortable("nodes", ("node", "calls", "ms", "note"), nodes)]
    last = {(m["node"], m["name"]): m for m in run.metrics()}
    if last:
        rows = [("", (m["node"], m["name"], m["value"], m["step"])) for m in last.values()]
        parts += ["<h2>Metrics, at last</h2>", sortable("metrics", ("node", "name", "value", "step"), rows)]
    return page(f"{run.id} · run", [*parts, _made(run)])


# -- the head ------------------------------------------------------------------------------------------------------------------


def _when(board: Board) -> str:
    known = [at for t in board.trials for at in (t.started, t.ended) if at is not None]
    if not known:
        return "no trial has begun"
    first, last = (datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") for at in (min(known), max(known)))
    return f"from {first} to {last}"


def _cards(board: Board) -> str:
    worked = sum(end - begin for begin, end in busy(board.trials))
    ended = len(board.of("completed", "pruned", "failed"))
    cards = [card(n, state, COLOURS[state]) for state, n in board.counts().items()]
    if ended and worked > 0:
        cards += [card(span(worked), "of work"), card(f"{60 * ended / worked:,.3g}", "trials a minute")]
    return f'<div class="cards">{"".join(cards)}</div>'


def _best(board: Board) -> Iterator[str]:
    best = board.best()
    if not best:
        yield '<p class="note">No trial has completed within the constraints yet.</p>'
    elif len(board.objectives) == 1:
        trial = best[0]
        yield f"<h2>The best: trial {trial.number}</h2>"
        goal = board.objectives[0]
        yield facts({goal: f"{trial.values[goal]:.8g}", **{name: _plain(v) for name, v in trial.params.items()}})
    else:
        yield f"<h2>The Pareto front: {len(best)} trials</h2>"
        names = list(dict.fromkeys(name for t in best for name in t.params))
        yield '<div class="scroll">' + sortable("front", ("trial", *board.objectives, *names), [
            ("", (t.number, *(t.values[o] for o in board.objectives), *(t.params.get(n) for n in names))) for t in best]) + "</div>"


def study_facts(opened: Opened) -> dict[str, Any]:
    """What it was made to be, name by name."""
    board, told = opened.board, opened.named.description
    planned, seeds = told.get("n_trials"), told.get("seeds") or ()
    goals = ", ".join(f"{name} ({'minimize' if board.less_is_better(name) else 'maximize'})" for name in board.objectives)
    space = [spelled(one) for one in told.get("space") or ()] or [
        f"{d.name}: {' | '.join(d.choices) if d.kind == 'choice' else f'{d.low:g} to {d.high:g}'}{', log' if d.log else ''}"
        for d in board.dimensions]
    return {"objectives": goals, "space": "; ".join(space), "sampler": told.get("sampler"), "pruner": told.get("pruner"),
            "planned": f"{planned} × {len(seeds)} seeds" if planned and seeds else planned, "seed": told.get("seed"),
            "seeds": ", ".join(map(str, seeds)), "storage": opened.named.storage, "command": " ".join(map(str, told.get("argv") or ()))}


def spelled(told: Mapping[str, Any]) -> str:
    """A dimension as a study describes it, on one line."""
    if "choices" in told:
        what = " | ".join(map(str, told["choices"]))
    else:
        what = f"{told.get('low')} to {told.get('high')}" + (", log" if told.get("scale") == "log" else "") + \
               (f", step {told['step']}" if told.get("step") is not None else "")
    when = " and ".join(f"{other} is {' or '.join(map(str, of))}" for other, of in (told.get("when") or {}).items())
    return f"{told['name']}: {what}" + (f", frozen at {told['frozen']}" if "frozen" in told else "") + (f", when {when}" if when else "")


def _of_manifest(run: RunInfo) -> dict[str, Any]:
    git = run.manifest.get("git") or {}
    changed = " (changed since)" if git.get("dirty") else ""
    return {"last run": run.id, "commit": f"{git['commit'][:12]}{changed}" if git.get("commit") else "",
            "versions": ", ".join(f"{k} {v}" for k, v in (run.manifest.get("versions") or {}).items()),
            "system": f"Python {run.manifest.get('python')}, {run.manifest.get('system')}"}


def _run_facts(run: RunInfo) -> dict[str, Any]:
    told = run.manifest
    return {"started": told.get("started"), "seed": told.get("seed"), "command": " ".join(told.get("argv") or ()),
            **{f"params: {k}": v for k, v in (told.get("params") or {}).items()}, **_of_manifest(run), "last run": None}


def _made(run: RunInfo | None) -> str:
    now = manifest("", "", None, {})
    return f"<footer>Made by soma {e(now['versions'].get('soma', ''))} at {e(now['started'])}.</footer>"


# -- pictures ------------------------------------------------------------------------------------------------------------------


def _attempt(draw: Callable[[], Figure]) -> tuple[Figure | None, str]:
    try:
        return draw(), ""
    except (StudyError, ValueError) as error:  # too little was recorded
        return None, str(error)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("matplotlib"):
            raise
        return None, str(error)


def _pictures(opened: Opened) -> Iterator[str]:
    try:
        from soma.study import plots
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("matplotlib"):
            raise
        yield f'<p class="note">There are none: {e(error)}</p>'
        return
    board = opened.board
    draws: dict[str, Callable[[], Figure]] = {"history": lambda: plots.history(board)}
    if len(board.objectives) > 1:
        draws["Pareto front"] = lambda: plots.pareto(board)
    if (study := opened.study) is not None:
        draws["importances"] = lambda: plots.importances(study, board)
    draws |= {"slices": lambda: plots.slices(board),
              "parallel coordinates": lambda: plots.parallel(board), "learning curves": lambda: plots.metrics(board),
              "timeline": lambda: plots.timeline(board)}
    missing = []
    for name, draw in draws.items():
        figure, why = _attempt(draw)
        if figure is not None:
            yield picture(figure, f"{name} of study {board.name}")
        else:
            missing.append(f"{name}: {why}")
    if missing:
        yield f'<p class="note">Not drawn: {e("; ".join(missing))}</p>'


# -- tables --------------------------------------------------------------------------------------------------------------------


def _trials(board: Board) -> Iterator[str]:
    params = list(dict.fromkeys([*(d.name for d in board.dimensions), *(name for t in board.trials for name in t.params)]))
    notes = list(dict.fromkeys(name for t in board.trials for name in t.notes))
    best = {t.number for t in board.best()}
    columns = ["trial", "state", *board.objectives, *params, *notes, "seconds", "seed", "worker", "attempt", "error"]
    rows = [("best" if t.number in best else t.state, [
        t.number, t.state, *(t.values.get(o) for o in board.objectives), *(_plain(t.params.get(p)) for p in params),
        *(_plain(t.notes.get(n)) for n in notes), None if t.duration_s is None else round(t.duration_s, 3), t.seed or None,
        t.worker.get("worker"), t.attempt or None, _first_line(t)]) for t in board.trials[:MOST_ROWS]]
    used = [i for i in range(len(columns)) if i < 2 or any(values[i] is not None for _, values in rows)]
    if len(board.trials) > MOST_ROWS:
        yield f'<p class="note">The first {MOST_ROWS:,} of {len(board.trials):,}; `soma study export` writes all.</p>'
    yield '<input class="filter" data-of="trials" type="search" placeholder="show rows that contain …" aria-label="filter trials">'
    yield '<div class="scroll">' + sortable("trials", [columns[i] for i in used],
                                            [(kind, [values[i] for i in used]) for kind, values in rows]) + "</div>"


def _plain(value: Any) -> Any:
    """As a cell shows it."""
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _first_line(trial: FinishedTrial) -> str | None:
    if trial.state != "failed":
        return None
    return f"{trial.error_type}: {trial.error.splitlines()[0] if trial.error else ''}"[:300]


def _failures(board: Board) -> Iterator[str]:
    failed = board.of("failed")
    if not failed:
        return
    yield f"<h2>{len(failed)} that failed</h2>"
    again = {t.repeat_of: t.number for t in board.trials if t.repeat_of is not None}
    for trial in failed[:MOST_FAILURES]:
        later = f", run again as trial {again[trial.number]}" if trial.number in again else ""
        params = ", ".join(f"{k}={_plain(v)}" for k, v in trial.params.items())
        yield (f"<details><summary>trial {trial.number}: {e(_first_line(trial))}{e(later)}</summary>"
               f'<p class="note">{e(params)}</p><pre>{e(trial.error)}</pre></details>')
    if len(failed) > MOST_FAILURES:
        yield f'<p class="note">… and {len(failed) - MOST_FAILURES} more.</p>'


def _nodes(run: RunInfo) -> list[tuple[str, list[Any]]]:
    from soma.events import NodeCacheHit, NodeCompleted, NodeFailed

    rows: dict[str, list[Any]] = {}
    for event in run.events():
        match event:
            case NodeCompleted():
                row = rows.setdefault(event.node, [event.node, 0, 0.0, None])
                row[1], row[2] = row[1] + 1, row[2] + event.duration_ms
            case NodeFailed():
                rows.setdefault(event.node, [event.node, 0, 0.0, None])[3] = f"failed: {event.error_type}"
            case NodeCacheHit():
                rows.setdefault(event.node, [event.node, 0, 0.0, None])[3] = f"{event.what} from the cache ({event.tier})"
    return [("", row) for row in rows.values()]
