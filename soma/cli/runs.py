"""`soma runs`: the recorded runs under `.soma/runs`, and what one of them did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from soma.runs import RunInfo

_HERE = click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=None,
                     help="Where runs are recorded; by default $SOMA_RUNS, else .soma/runs.")
_COLOURS = {"completed": "green", "failed": "red", "crashed": "red", "running": "yellow"}


@click.group()
def runs() -> None:
    """Recorded runs: which there are, and what one of them did."""


@runs.command("list")
@_HERE
@click.option("--json", "as_json", is_flag=True, help="Plain data, one list.")
def list_(directory: Path | None, as_json: bool) -> None:
    """All runs, the oldest first."""
    from soma.runs import list_runs

    found = list_runs(directory)
    if as_json:
        click.echo(json.dumps([_plain(run) for run in found], indent=2))
        return
    if not found:
        click.echo("no run was recorded here; graph.fit(…) records itself")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("run", "what", "status", "started", "commit", "error"):
        table.add_column(column, overflow="fold")
    for run in found:
        commit = (run.manifest.get("git") or {}).get("commit") or ""
        colour = _COLOURS.get(run.status, "white")
        error = run.error.splitlines()[0][:60] if run.error else ""
        table.add_row(run.id, str(run.manifest.get("what", "")), f"[{colour}]{run.status}[/]", str(run.manifest.get("started", "")),
                      commit[:8], escape(error))
    Console().print(table)


@runs.command()
@click.argument("run")
@_HERE
@click.option("--json", "as_json", is_flag=True, help="Manifest, status, events and metrics as plain data.")
def show(run: str, directory: Path | None, as_json: bool) -> None:
    """One run: how it ended, its nodes, its metrics. RUN is an id, or its beginning."""
    from soma.runs import load_run

    try:
        info = load_run(run, directory)
    except ValueError as e:
        raise click.ClickException(str(e)) from None
    if as_json:
        click.echo(json.dumps({**_plain(info), "events": [e.as_dict() for e in info.events()], "metrics": info.metrics()}, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    told = info.manifest
    console.print(f"[bold]{info.id}[/]  [{_COLOURS.get(info.status, 'white')}]{info.status}[/]")
    git = told.get("git") or {}
    facts = {"what": told.get("what"), "started": told.get("started"), "seed": told.get("seed"), "command": " ".join(told.get("argv", ())),
             "commit": f"{git.get('commit', '')[:12]}{' (changed since)' if git.get('dirty') else ''}" if git else "",
             "versions": ", ".join(f"{k} {v}" for k, v in (told.get("versions") or {}).items()), "error": info.error}
    for name, value in facts.items():
        if value not in (None, ""):
            console.print(f"  [dim]{name:<9}[/] {escape(str(value))}", soft_wrap=True)
    _nodes(console, info)
    _metrics(console, info)


@runs.command()
@click.argument("run")
@_HERE
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Where to save it (.png, .svg, .pdf); by default curves.png in the run's directory.")
@click.option("-m", "--metric", "metrics", multiple=True, help="Only this one; may be given several times.")
def plot(run: str, directory: Path | None, output: Path | None, metrics: tuple[str, ...]) -> None:
    """Draw a run's curves: losses, metrics, rounds, a population's fitness. RUN is an id, or its beginning."""
    from soma.runs import load_run

    try:
        info = load_run(run, directory)
        path = output or info.path / "curves.png"
        info.plot(path, metrics or None)
    except (ValueError, ModuleNotFoundError, OSError) as e:
        raise click.ClickException(str(e)) from None
    click.echo(path)


def _nodes(console: Any, info: RunInfo) -> None:
    """What became of each node: attempts, time, where its result came from."""
    from rich.markup import escape
    from rich.table import Table

    from soma.events import NodeCacheHit, NodeCompleted, NodeFailed

    rows: dict[str, dict[str, Any]] = {}
    for event in info.events():
        node = getattr(event, "node", "")
        if not node:
            continue
        row = rows.setdefault(node, {"ms": 0.0, "calls": 0, "said": ""})
        match event:
            case NodeCompleted():
                row["ms"] += event.duration_ms
                row["calls"] += 1
            case NodeFailed():
                row["said"] = f"failed: {event.error_type}"
            case NodeCacheHit():
                row["said"] = f"{event.what} from the cache ({event.tier})"
    if not rows:
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("node", "calls", "ms", ""):
        table.add_column(column, justify="right" if column in ("calls", "ms") else "left")
    for node, row in rows.items():
        table.add_row(escape(node), str(row["calls"] or ""), f"{row['ms']:.1f}" if row["calls"] else "", escape(row["said"]))
    console.print()
    console.print(table)


def _metrics(console: Any, info: RunInfo) -> None:
    """The last value of each metric."""
    from rich.markup import escape

    last: dict[tuple[str, str], Mapping[str, Any]] = {(m["node"], m["name"]): m for m in info.metrics()}
    for (node, name), metric in last.items():
        step = "" if metric["step"] is None else f" at step {metric['step']}"
        console.print(f"  [dim]{escape(node)}[/] {escape(name)} = {metric['value']:.6g}{step}")


def _plain(run: RunInfo) -> dict[str, Any]:
    return {"id": run.id, "status": run.status, "error": run.error, "manifest": dict(run.manifest)}
