"""`soma job`: submit Python programs to a running cluster, and ask how they are.

Exit codes: 0, also of `submit --follow` for a job that succeeded; 1 for one that did not, and for what a user can mend (said in one
line); 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from soma.jobs import JobResult, JobStatus

_COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}
_AT = click.option("--address", default="auto", show_default=True, envvar="SOMA_ADDRESS",
                   help="The cluster; auto is the one that runs on this machine.")


@click.group()
def job() -> None:
    """Python programs on a cluster: submit, follow, cancel."""


@job.command()
@_AT
@click.option("--entry", required=True, help="The program: a path inside of --working-dir, or of one file.")
@click.option("--working-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A directory whose files it works on.")
@click.option("-r", "--requirements", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A requirements.txt: an environment is made for it, or found.")
@click.option("--python", help="The version of that environment, e.g. 3.12.")
@click.option("--env", "env_vars", multiple=True, metavar="NAME=VALUE", help="An environment variable; may be given several times.")
@click.option("--param", "params", multiple=True, metavar="NAME=JSON", help="What soma.jobs.params() has; what is no JSON is text.")
@click.option("--output", "outputs", multiple=True, metavar="PATTERN", help="Files to keep, e.g. '*.json'; may be given several times.")
@click.option("--num-cpus", type=float, default=1.0, show_default=True, help="Reserved while it runs.")
@click.option("--num-gpus", type=float, default=0.0, show_default=True)
@click.option("--memory", type=int, help="Bytes, enforced.")
@click.option("--timeout", type=float, help="Seconds it may take.")
@click.option("--disk-quota", type=int, help="Bytes its directory may hold.")
@click.option("--job-id", help="A name for it; by default one is made up.")
@click.option("--follow/--no-wait", default=True, show_default=True, help="Print what it prints until it is over, or only its id.")
@click.argument("args", nargs=-1)
def submit(address: str, follow: bool, **asked: Any) -> None:
    """Run a program: soma job submit --entry train.py -- --epochs 3. What follows the two dashes are its arguments."""
    from soma import jobs

    asked["env_vars"] = dict(_pair("--env", text) for text in asked["env_vars"])
    asked["params"] = {name: _value(text) for name, text in (_pair("--param", text) for text in asked["params"])}
    with _cluster(address):
        name = jobs.submit(**asked)
        if not follow:
            click.echo(name)
            return
        click.echo(f"job {name}", err=True)
        _follow(name)
        _leave(jobs.result(name))


@job.command("list")
@_AT
@click.option("--json", "as_json", is_flag=True, help="Plain data, one list.")
def list_(address: str, as_json: bool) -> None:
    """All jobs, in the order in which they were submitted."""
    from soma import jobs

    with _cluster(address):
        found = jobs.list_jobs()
    if as_json:
        click.echo(json.dumps([_plain(s) for s in found], indent=2))
    elif not found:
        click.echo("no jobs; `soma job submit --entry train.py` submits one")
    else:
        from rich.console import Console

        Console().print(_table(found))


@job.command()
@_AT
@click.argument("name", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Plain data.")
def status(address: str, name: str, as_json: bool) -> None:
    """How a job is: its state, its phase, what it reported."""
    from soma import jobs

    with _cluster(address):
        found = jobs.status(name)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2))
        return
    for key, value in _facts(found):
        click.echo(f"{key:<10}{value}")


@job.command()
@_AT
@click.argument("name", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on until it is over.")
@click.option("-n", "--last", type=click.IntRange(1), help="Only so many lines.")
def logs(address: str, name: str, follow: bool, last: int | None) -> None:
    """What a job printed."""
    from soma import jobs

    with _cluster(address):
        if follow:
            _follow(name)
        else:
            click.echo(jobs.logs(name, last), nl=False)


@job.command()
@_AT
@click.argument("name", metavar="JOB")
def cancel(address: str, name: str) -> None:
    """End a job and all its processes."""
    from soma import jobs

    with _cluster(address):
        click.echo("cancelled" if jobs.cancel(name) else f"it was over already: {jobs.status(name).state.value}")


@job.command()
@_AT
@click.argument("name", metavar="JOB")
@click.option("--download", type=click.Path(file_okay=False, path_type=Path), help="Write its outputs below this directory.")
@click.option("--json", "as_json", is_flag=True, help="Plain data.")
def result(address: str, name: str, download: Path | None, as_json: bool) -> None:
    """How a job ended; waits until it is over. Exit code 1 if it did not succeed."""
    from soma import jobs

    with _cluster(address):
        found = jobs.result(name)
        if download is not None and found.success:
            jobs.download(name, download)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "state": found.state.value}, indent=2))
    _leave(found, quiet=as_json)


@job.command()
@_AT
@click.argument("name", metavar="JOB")
def delete(address: str, name: str) -> None:
    """Forget a job, its log and its outputs; one that runs is cancelled first."""
    from soma import jobs

    with _cluster(address):
        jobs.delete(name)


# -- how it is said -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Connected; what a user can mend is one line."""
    from soma.cluster import init, is_initialized
    from soma.errors import SomaError

    try:
        if is_initialized():
            yield
            return
        with init(address=address, log_to_driver=False):
            yield
    except (SomaError, ValueError, TypeError, OSError) as e:
        raise click.ClickException(str(e)) from None


def _follow(name: str) -> None:
    from soma import jobs

    for text in jobs.follow(name):
        sys.stdout.write(text)
        sys.stdout.flush()


def _leave(found: JobResult, *, quiet: bool = False) -> None:
    """Say how it ended, on stderr; ends the command with 1 if it did not succeed."""
    if not quiet:
        lines = [f"{found.state.value} after {found.duration_ms / 1e3:.1f} s" + (f": {found.message}" if found.message else "")]
        lines += [f"  {key} = {value:.6g}" for key, value in found.metrics.items()]
        lines += [f"  {path} ({file.bytes} bytes)" for path, file in found.outputs.items()]
        click.echo("\n".join(lines), err=True)
    if not found.success:
        raise click.exceptions.Exit(1)


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"{option} {text!r}: NAME=VALUE")
    return name, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(found: JobStatus) -> dict[str, Any]:
    phase = found.progress.phase
    told = dataclasses.asdict(found)
    return {**told, "state": found.state.value, "progress": {**told["progress"], "phase": phase.value if phase else None}}


def _table(found: list[JobStatus]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("job", "entry", "state", "phase", "progress", "submitted", "message"):
        table.add_column(column, overflow="fold")
    for s in found:
        state = f"[{_COLOURS.get(s.state.value, 'white')}]{s.state.value}[/]"
        first = s.message.splitlines()[0][:80] if s.message else ""
        table.add_row(s.id, escape(s.entry), state, s.progress.phase.value if s.progress.phase else "", _steps(s), _when(s.submitted),
                      escape(first))
    return table


def _facts(s: JobStatus) -> Iterator[tuple[str, str]]:
    told = {"job": s.id, "entry": s.entry, "state": s.state.value, "phase": s.progress.phase.value if s.progress.phase else "",
            "progress": _steps(s), "metrics": ", ".join(f"{k} = {v:.6g}" for k, v in s.progress.metrics.items()), "node": s.node or "",
            "submitted": _when(s.submitted), "started": _when(s.started), "ended": _when(s.ended), "message": s.message}
    return ((key, value) for key, value in told.items() if value)


def _steps(s: JobStatus) -> str:
    if s.progress.step is None:
        return ""
    return str(s.progress.step) if s.progress.total is None else f"{s.progress.step} of {s.progress.total}"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
