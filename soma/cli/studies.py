"""`soma study` and `soma report`: the studies under `.soma/runs/studies`, any other that optuna keeps, and a page of what came of one."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soma.cli.study_tables import COLOURS, as_csv, flat, in_short, plain, show_study
from soma.errors import StudyError

if TYPE_CHECKING:
    from soma.runs import RunInfo
    from soma.study.finding import Opened
    from soma.study.place import Place

_HERE = click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=None,
                     help="Where runs are recorded; by default $SOMA_RUNS, else .soma/runs.")
_WHICH = click.option("--study", "which", metavar="NAME", help="Which one, where a storage holds several.")
INTERACTIVE = ("", "-", "-c", "-m")
SHELLS = ("ipykernel_launcher.py", "ipython", "ipython3", "jupyter", "colab_kernel_launcher.py")


@click.group()
def study() -> None:
    """Studies: which there are, what came of one, and having it stopped or gone on with.

    STUDY is the name of a study, its directory, the id of one of its runs, or a file or URL in which optuna keeps it.
    """


@study.command("list")
@_HERE
@click.option("--json", "as_json", is_flag=True, help="Plain data, one list.")
def list_(directory: Path | None, as_json: bool) -> None:
    """All studies that have a directory, by name."""
    from soma.study.finding import find, names

    with _one_line():
        rows = [in_short(find(name, directory)) for name in names(directory)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("there is no study here; soma.Study(…).run(…) makes one")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("study", "trials", "best", "last change", "driver"):
        table.add_column(column, overflow="fold")
    for row in rows:
        best = ", ".join(f"{k} {v:.6g}" for k, v in row["best"].items()) if len(row["front"]) < 2 else f"{len(row['front'])} on the front"
        counts = ", ".join(f"[{COLOURS[state]}]{n} {state}[/]" for state, n in row["trials"].items()) or "none"
        of = f" of {row['planned']}" if row["planned"] else ""
        table.add_row(escape(row["name"]), f"[red]{escape(row['error'])}[/]" if row["error"] else counts + of, escape(best),
                      "" if row["changed"] is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed"])),
                      ", ".join(row["drivers"]))
    Console().print(table)


@study.command()
@click.argument("study")
@_HERE
@_WHICH
@click.option("-n", "--trials", "most", type=click.IntRange(0), default=10, show_default=True, help="How many of the best are shown.")
@click.option("--json", "as_json", is_flag=True, help="Everything as plain data, all trials included.")
def show(study: str, directory: Path | None, which: str | None, most: int, as_json: bool) -> None:
    """One study: how far it is, the best, its failures."""
    with _reading(study, directory, which) as opened:
        if as_json:
            told = {**in_short(opened.named, opened), "description": dict(opened.named.description), "all": flat(opened.board)}
            click.echo(json.dumps(plain(told), indent=2))
        else:
            show_study(opened, most)


@study.command()
@click.argument("study")
@_HERE
@_WHICH
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="A .csv or .json file; by default CSV is printed.")
def export(study: str, directory: Path | None, which: str | None, output: Path | None) -> None:
    """Every trial as a row: state, parameters, values, seed, times, error."""
    kind = output.suffix if output is not None else ".csv"
    if kind not in (".csv", ".json"):
        raise click.ClickException(f"{output}: .csv or .json")
    with _reading(study, directory, which) as opened:
        rows = flat(opened.board)
    text = as_csv(rows) if kind == ".csv" else json.dumps(plain(rows), indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    with _one_line():
        output.write_text(text, encoding="utf-8")
    click.echo(f"{len(rows)} trials in {output}")


@study.command()
@click.argument("study")
@_HERE
def stop(study: str, directory: Path | None) -> None:
    """Have a study's drivers take no further trial; what runs ends by itself."""
    place = _place(study, directory)
    place.stop()
    drivers = place.drivers()
    if drivers:
        click.echo(f"{place.name}: {', '.join(drivers)} will take no further trial")
    else:
        click.echo(f"{place.name}: no driver of it runs on this machine; one elsewhere that shares {place.path} will stop")


@study.command()
@click.argument("study")
@_HERE
def resume(study: str, directory: Path | None) -> None:
    """Start the program again that made a study, in its directory; it goes on where the study is."""
    place = _place(study, directory)
    with _one_line():
        argv, cwd = command_of(place.description() or {})
    drivers = place.drivers()
    said = f" beside {', '.join(drivers)}" if drivers else ""
    click.echo(f"{place.name}: in {cwd}{said}: {' '.join(argv)}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    runs = place.path.resolve().parent.parent
    os.chdir(cwd)
    os.execve(argv[0], argv, {**os.environ, "SOMA_RUNS": str(runs)})


def command_of(told: Mapping[str, Any]) -> tuple[list[str], Path]:
    """The command that made a study, for this interpreter, and where it ran.

    Raises:
        StudyError: it was no program, or it is not there any more.
    """
    argv, cwd = [str(a) for a in told.get("argv") or ()], Path(str(told.get("cwd", "")))
    if not argv or argv[0] in INTERACTIVE or Path(argv[0]).name in SHELLS:
        raise StudyError("it was made interactively (no script), so there is no command to start again; "
                         "make the same Study there and run it: it goes on where it is")
    if not cwd.is_dir():
        raise StudyError(f"it was made in {cwd}, which is not there any more")
    script = cwd / argv[0]
    if not script.exists():
        raise StudyError(f"it was made by {script}, which is not there any more")
    if script.suffix == ".py" or not os.access(script, os.X_OK):
        return [sys.executable, *argv], cwd
    return [str(script), *argv[1:]], cwd


@click.command()
@click.argument("run")
@_HERE
@_WHICH
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Where it goes; by default report.html in the directory of the study or run.")
def report(run: str, directory: Path | None, which: str | None, output: Path | None) -> None:
    """One file of HTML about a run or a study, for offline reading. RUN is the id of a run or what `soma study` takes."""
    from soma.study.finding import find, last_run, opened
    from soma.study.page import report as study_report
    from soma.study.page import run_report

    with _one_line():
        try:
            named = find(run, directory)
        except StudyError:
            if (info := _other_run(run, directory)) is None:
                raise
            text, where = run_report(info), info.path
        else:
            with opened(named, which) as it:
                text = study_report(it, last_run(it.board.name, directory))
            where = Path() if named.place is None else named.place.path
        path = output or where / "report.html"
        path.write_text(text, encoding="utf-8")
    click.echo(path)


def _other_run(id: str, directory: Path | None) -> RunInfo | None:
    """The run of that id, if it is one that was no study."""
    from soma.runs import load_run

    try:
        info = load_run(id, directory)
    except ValueError:
        return None
    return None if info.manifest.get("what") == "study" else info


# -- reading -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Inside, what a user can act on is said in one line."""
    try:
        yield
    except (StudyError, ModuleNotFoundError, OSError) as e:
        raise click.ClickException(str(e)) from None


@contextlib.contextmanager
def _reading(study: str, directory: Path | None, which: str | None) -> Iterator[Opened]:
    from soma.study.finding import find, opened

    with _one_line(), opened(find(study, directory), which) as it:
        yield it


def _place(study: str, directory: Path | None) -> Place:
    """The directory of a study of soma's."""
    from soma.study.finding import find

    with _one_line():
        named = find(study, directory)
        if named.place is None:
            raise StudyError(f"{study}: only a study with a directory can be stopped or gone on with")
        return named.place
