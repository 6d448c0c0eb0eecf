"""The `soma` command. Imports what a subcommand needs when it runs, and subcommands when they are asked for, so that all are quick.

Errors that a user can act on are one line and exit code 1; anything else keeps its traceback.
"""

from __future__ import annotations

import importlib
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soma import __version__
from soma.errors import SomaError

if TYPE_CHECKING:
    from rich.console import RenderableType


ELSEWHERE = {"cache": "cache", "drain": "machines", "job": "jobs", "join": "machines", "keygen": "keys", "keys": "keys",
             "report": "studies", "runs": "runs", "serve": "serve", "start": "machines", "stop": "machines", "study": "studies",
             "token": "keys"}
"""Subcommands that are in other modules of this package."""


class _Commands(click.Group):
    def list_commands(self, context: click.Context | None) -> list[str]:
        return sorted({*self.commands, *ELSEWHERE})

    def get_command(self, context: click.Context | None, name: str) -> click.Command | None:
        if name in ELSEWHERE and name not in self.commands:
            self.add_command(getattr(importlib.import_module(f"soma.cli.{ELSEWHERE[name]}"), name))
        return self.commands.get(name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SOMA"})
@click.version_option(__version__, prog_name="soma")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.toml",
              help="Options by command; by default soma/soma.toml in the user's configuration directory, if it is there.")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Actors in processes of their own, and graphs of filters that run on them.

    An option that is not given comes from the environment (SOMA_START_BIND is --bind of `soma start`), else from the configuration
    file (`bind = "tcp://…"` under `[start]`), else it has its default.
    """
    context.default_map = configured(config)


def configured(path: Path | None) -> dict[str, Any]:
    """What the configuration file says: a table of options for each command. Refuses what is no option of that command."""
    asked = path is not None
    path = path or Path(click.get_app_dir("soma")) / "soma.toml"
    if not asked and not path.exists():
        return {}
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise click.ClickException(f"the configuration file {path} cannot be read: {e}") from None
    for name, table in told.items():
        command = main.get_command(None, name)
        if command is None or not isinstance(table, dict):
            raise click.ClickException(f"{path}: [{name}] is no command; there are: {', '.join(main.list_commands(None))}")
        known = {str(p.name) for p in command.params}
        wrong = [key for key in table if key.replace("-", "_") not in known]
        if wrong and not isinstance(command, click.Group):
            raise click.ClickException(f"{path}: [{name}] has no option {wrong[0]!r}; there are: {', '.join(sorted(known))}")
    return {name: {key.replace("-", "_"): value for key, value in table.items()} for name, table in told.items()}


@main.command()
@click.option("--progress/--no-progress", default=None, help="A progress bar; by default where stderr is a terminal.")
def demo(progress: bool | None) -> None:
    """Classify handwritten digits with a graph of filters, each in a process of its own."""
    from soma import demo as show

    try:
        data = show.digits()
    except ModuleNotFoundError as e:
        if str(e) != show.MISSING:
            raise
        raise click.ClickException(show.MISSING) from None
    show.announce()
    show.show(show.run(data, progress))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Plain data, one list of clusters.")
@click.option("--address", metavar="tcp://HOST:PORT", help="Ask the head there instead of looking on this machine.")
def status(as_json: bool, address: str | None) -> None:
    """What runs on this machine: nodes, actors, memory and refs of your clusters."""
    from soma.daemon.inspect import clusters, head_status
    from soma.daemon.joining import known_head

    try:
        found = clusters() if address is None else [head_status(address, known_head(address), 10.0)]
    except SomaError as e:
        raise click.ClickException(str(e)) from None
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
    elif not found:
        click.echo("no cluster of yours is running on this machine; soma.init() in a program starts one")
    else:
        from rich.console import Console

        console = Console()
        for cluster in found:
            console.print(render_status(cluster))


@main.command()
@click.argument("actor")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until Ctrl-C.")
@click.option("-n", "--bytes", "size", type=int, default=64 * 1024, show_default=True, help="How much of the end to show first.")
def logs(actor: str, follow: bool, size: int) -> None:
    """What ACTOR (its name, or the beginning of its id) printed, on whichever machine it is."""
    from soma.daemon.inspect import read_log

    try:
        data, end = read_log(actor, -max(1, size))
        while True:
            click.echo(data, nl=False)
            if not follow and not data:
                return
            if not data:
                time.sleep(0.3)
            data, end = read_log(actor, end)
    except ValueError as e:
        raise click.ClickException(str(e)) from None
    except KeyboardInterrupt:
        return


def render_status(status: Mapping[str, Any]) -> RenderableType:
    """One cluster as a panel: its node, then its actors. Shows what is there and leaves out what is not."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    total, free = status.get("resources") or {}, status.get("available") or {}
    amounts = ", ".join(f"{_amount(key, free.get(key, 0))} of {_amount(key, most)} {key}" for key, most in sorted(total.items()))
    machine = status.get("capabilities") or {}
    gpus = ", ".join(str(g.get("name", "?")) for g in machine.get("gpus") or ()) or machine.get("gpu_reason")
    held = status.get("holdings") or {}
    drivers = ", ".join(_driver(d, held.get(d)) for d in status.get("drivers") or ())
    facts = [("node", status.get("node_id")), ("daemon", status.get("pid")), ("free", amounts), ("GPUs", gpus),
             ("tags", ", ".join(machine.get("tags") or ())), ("running", _running(status)),
             ("drivers", drivers), ("directory", status.get("directory")),
             ("refused messages", status.get("refused_messages")), ("at the control port", _refused(status.get("control") or {}))]
    for key, value in (status.get("driver") or {}).items():
        facts.append((f"driver's {key.replace('_', ' ')}", _amount(key, value)))
    lines: list[RenderableType] = [Text.assemble((f"{name:<20}", "dim"), str(value)) for name, value in facts if value]
    actors, nodes = status.get("actors") or (), status.get("nodes") or ()
    several = len(nodes) > 1
    columns = ["actor", "class", "state", "node", "pid", "memory", "shared", "refs", "reserved", "cores", "restarts"]
    table = _table(columns, [_actor_row(a, several) for a in actors])
    if several:
        headings = ["node", "host", "state", "free", "running", "GPUs", "tags", "load", "daemon"]
        lines += [Text(), _table(headings, [_node_row(n) for n in nodes])]
    name = str(status.get("directory") if not several else status.get("cluster") or "?").rpartition("/")[2]
    return Panel(Group(*lines, Text(), table if actors else Text("no actors", style="dim")),
                 title=Text.assemble("cluster ", (name, "bold")), title_align="left", expand=False)


REFUSALS = {"auth_rejected": "handshakes refused", "refused": "messages refused", "limited": "messages too many", "cut": "connections cut",
            "dropped": "messages dropped", "undelivered": "answers undelivered", "too_many_connections": "connections too many"}
"""Counters of a control port, in words."""


def _refused(counters: Mapping[str, Any]) -> str:
    """What a head's control port refused; "" if nothing."""
    return ", ".join(f"{counters[key]} {words}" for key, words in REFUSALS.items() if counters.get(key))


def _driver(name: str, held: Mapping[str, Any] | None) -> str:
    return name if not held else f"{name} ({held['refs']} refs, {_bytes(held['arena_used'])} shared)"


def _node_row(node: Mapping[str, Any]) -> list[str]:
    machine, total, free = node.get("capabilities") or {}, node.get("resources") or {}, node.get("available") or {}
    amounts = ", ".join(f"{_amount(key, free.get(key, 0))} of {_amount(key, most)} {key}" for key, most in sorted(total.items()))
    load = (node.get("load") or {}).get("load_1m")
    return [str(node.get("node_id", "?")), str(node.get("host") or ""), _node_state(node), amounts, _running(node),
            ", ".join(str(g.get("name", "?")) for g in machine.get("gpus") or ()), ", ".join(machine.get("tags") or ()),
            "" if load is None else f"{load:.2f}", str(node.get("pid") or "")]


def _node_state(node: Mapping[str, Any]) -> str:
    state = str(node.get("state") or "")
    return "" if state == "open" else state


def _running(node: Mapping[str, Any]) -> str:
    """How many run there of those that may; "" without a limit."""
    most = node.get("max_concurrent")
    return "" if most is None else f"{node.get('running', 0)} of {most}"


def _actor_row(actor: Mapping[str, Any], several: bool) -> list[str]:
    reserved = ", ".join(f"{_amount(key, n)} {key}" for key, n in (actor.get("resources") or {}).items() if n)
    memory, held = actor.get("memory_bytes"), actor.get("holdings") or {}
    kind = "task worker" if actor.get("task_worker") else actor.get("class_name")
    shared = held.get("arena_used")
    return [str(actor.get("name") or actor.get("actor_id", "?")), str(kind or ""), str(actor.get("state", "")),
            str(actor.get("node_id") or "") if several else "",
            str(actor.get("pid") or ""), _bytes(memory) if memory else "", _bytes(shared) if shared else "",
            str(held.get("refs") or ""), reserved, ",".join(map(str, actor.get("cores") or ())), str(actor.get("restarts") or "")]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of the columns that say something in at least one row."""
    from rich.markup import escape
    from rich.table import Table

    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    table = Table(header_style="dim", box=None, padding=(0, 2, 0, 0))
    numbers = ("pid", "memory", "shared", "refs", "restarts")
    for i in used:
        table.add_column(columns[i], justify="right" if columns[i] in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in used))
    return table


def _amount(key: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    return _bytes(value) if any(word in key for word in ("memory", "bytes", "arena")) else f"{value:g}"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
