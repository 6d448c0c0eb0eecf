"""`soma start`, `soma join`, `soma stop`, `soma drain`: clusters of several machines, from the shell."""

from __future__ import annotations

import secrets
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import click

from soma.errors import SomaError

LOCAL = "tcp://127.0.0.1:6380"

DEATHS = 3
"""So often in a minute a head is started again by the command that stays."""


def _limits(command: Any) -> Any:
    """What a machine offers: options of `start` and `join`."""
    for option in reversed((
        click.option("--num-cpus", "--cpus", type=float, help="CPUs to offer; by default what the machine has."),
        click.option("--num-gpus", "--gpus", type=float, help="GPUs to offer; by default what is found."),
        click.option("--memory", type=int, help="Bytes that actors may reserve; by default 70 % of the machine's."),
        click.option("--object-store-memory", type=int, help="Bytes of large values one process may hold for others."),
        click.option("--resources", multiple=True, metavar="NAME=AMOUNT", help="Further amounts, e.g. license=2."),
        click.option("--tags", default="", help="Marks of this machine, with commas between: big,ssd."),
        click.option("--labels", multiple=True, metavar="KEY=VALUE", help="Labels that strategies ask for."),
        click.option("--host", help="The address by which the other machines reach this one; found out by default."),
        click.option("--name", help="What this machine is called; a random id by default."),
        click.option("--max-concurrent", type=click.IntRange(min=1),
                     help="At most so many actors and tasks with CPUs at a time; by default as many as there are CPUs for."),
        click.option("--stop-grace", type=click.FloatRange(min=0.0), default=10.0, show_default=True,
                     help="Seconds that work may take to end when a service manager stops this machine (SIGTERM)."),
        click.option("--preload", default="", help="Modules that the forkserver imports once, e.g. torch."),
        click.option("--patience", type=float, default=60.0, show_default=True,
                     help="Seconds to go on without the head before this machine ends what it runs."),
        click.option("--block", is_flag=True, help="Stay in the foreground, as a service does."),
    )):
        command = option(command)
    return command


@click.command()
@click.option("--head", is_flag=True, required=True, help="Begin a cluster; the other machines join it.")
@click.option("--bind", default=LOCAL, show_default=True, metavar="tcp://HOST:PORT",
              help="Where the head listens: one address of this machine; port 0 takes a free one.")
@click.option("--namespace", help="Where names of actors live that ask for none.")
@click.option("--heartbeat", type=float, default=1.0, envvar="SOMA_HEARTBEAT", show_default=True,
              help="Seconds between signs of life.")
@click.option("--grace", type=float, default=10.0, envvar="SOMA_GRACE", show_default=True,
              help="Seconds of silence after which a machine is lost.")
@click.option("--fresh", is_flag=True, help="Begin anew, also if a head died here whose cluster could go on.")
@click.option("--no-node", is_flag=True, help="Only the head: run no actors on this machine.")
@_limits
def start(head: bool, bind: str, namespace: str | None, heartbeat: float, grace: float, fresh: bool, no_node: bool, **offered: Any) -> None:
    """Begin a cluster of several machines on this one; or go on with one whose head died at this address."""
    from soma.daemon.starting import here, start_head, start_node

    try:
        lead = start_head(bind, namespace=namespace, heartbeat=heartbeat, grace=grace, fresh=fresh)
        told, nodes = lead.told, []
        there: list[tuple[str, int]] = []
        if told.get("continued"):
            click.echo("a head died here: its cluster goes on (--fresh begins another)")
            there = [(place.node, pid) for _, place, pid in here() if place.cluster == told["cluster"] and place.node]
        for node, pid in there:
            click.echo(f"node {node} of it still runs on this machine (pid {pid}); no other is started")
        if not no_node and not there:
            host = offered["host"] or bind.removeprefix("tcp://").rpartition(":")[0].strip("[]")
            nodes.append(start_node(told["address"], told["token"], **{**_offer(offered), "host": host}))
            _show(nodes[0].told)
    except (SomaError, ValueError) as e:
        raise click.ClickException(str(e)) from None
    click.echo(f"the head listens at {told['address']} (pid {told['pid']})")
    click.echo(f"other machines:  soma join {told['address']} --token {told['token']}")
    click.echo(f"drivers here:    soma.init({told['address']!r})")
    click.echo("the token is good for an hour; `soma token create` makes another")
    if offered["block"]:
        _stay(nodes, lead, lambda: start_head(told["address"], namespace=namespace, heartbeat=heartbeat, grace=grace))


@click.command()
@click.argument("address")
@click.option("--token", envvar="SOMA_TOKEN", help="As `soma start --head` or `soma token create` printed it.")
@_limits
def join(address: str, token: str | None, **offered: Any) -> None:
    """Let this machine take part in the cluster whose head is at ADDRESS (tcp://HOST:PORT)."""
    from soma.daemon.starting import start_node

    try:
        node = start_node(address, token, **_offer(offered))
    except (SomaError, ValueError) as e:
        raise click.ClickException(str(e)) from None
    _show(node.told)
    if offered["block"]:
        _stay([node])


@click.command()
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds after which what is left is killed.")
@click.option("--grace", type=click.FloatRange(min=0.0), default=0.0,
              help="Seconds that running work may take to end: the node gets nothing new, and ends when its work is done. By default none.")
@click.option("--reason", default="soma stop", help="What callers of its actors are told.")
def stop(timeout: float, grace: float, reason: str) -> None:
    """End the head and the node of this user on this machine, with all that they run."""
    from soma.daemon.starting import stop_here

    ended = stop_here(timeout, grace, reason)
    click.echo(f"ended {ended} daemon{'s' * (ended != 1)}" if ended
               else "nothing of yours that was started by `soma start` or `soma join` runs here")


@click.command()
@click.argument("node")
@click.option("--address", default="auto", show_default=True, help="tcp://HOST:PORT of the head; auto: of this machine's cluster.")
@click.option("--grace", type=float, default=3600.0, show_default=True, help="Seconds that running work may take to end.")
@click.option("--reason", default="drained", help="What its actors' callers are told.")
def drain(node: str, address: str, grace: float, reason: str) -> None:
    """Give NODE nothing new; it leaves when its work is done."""
    from soma.daemon.starting import ask_drain

    try:
        ask_drain(address, node, grace, reason)
    except SomaError as e:
        raise click.ClickException(str(e)) from None
    click.echo(f"node {node} gets nothing new, and leaves when its work is done")


def _offer(offered: dict[str, Any]) -> dict[str, Any]:
    return {"num_cpus": offered["num_cpus"], "num_gpus": offered["num_gpus"], "memory": offered["memory"],
            "object_store_memory": offered["object_store_memory"],
            "resources": {key: _number(key, value) for key, value in _pairs(offered["resources"])},
            "tags": [t for t in offered["tags"].split(",") if t], "labels": dict(_pairs(offered["labels"])), "host": offered["host"],
            "node": offered["name"] or secrets.token_hex(8), "preload": [p for p in offered["preload"].split(",") if p],
            "patience": offered["patience"], "max_concurrent": offered["max_concurrent"], "stop_grace": offered["stop_grace"]}


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    for text in texts:
        if "=" not in text:
            raise ValueError(f"{text!r}: NAME=VALUE")
    return [(text.partition("=")[0], text.partition("=")[2]) for text in texts]


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key}={value!r}: a number") from None


def _show(told: dict[str, Any]) -> None:
    known = told["capabilities"]
    gpus = ", ".join(g["name"] for g in known["gpus"]) or f"none ({known['gpu_reason']})"
    click.echo(f"node {told['node']} joined as {told['host']} (pid {told['pid']}): {known['cpu_cores']:g} CPUs, "
               f"{known['ram_bytes'] / 2**30:.1f} GiB, GPUs: {gpus}; offers "
               + ", ".join(f"{k} {v / 2**30:.1f} GiB" if k == "memory" else f"{k} {v:g}" for k, v in told["totals"].items())
               + (f"; tags: {', '.join(known['tags'])}" if known["tags"] else ""))


def _stay(nodes: list[Any], head: Any = None, again: Callable[[], Any] | None = None) -> None:
    """Until one of them ends, or this process is told to: nodes first, which may let their work end, then the head; told twice, at once.

    A head that was killed is started again by `again`, and the nodes go on with it; but not when it dies a fourth time in a minute.
    """
    told: list[int] = []

    def end(number: int, frame: Any) -> None:
        told.append(number)
        for one in nodes:
            one.process.send_signal(number)
        if len(told) > 1 and head is not None:
            head.process.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    codes: list[int] = []
    deaths: deque[float] = deque(maxlen=DEATHS)
    while not codes:
        time.sleep(0.1)
        codes = [one.process.returncode for one in nodes if one.process.poll() is not None]
        if head is None or head.process.poll() is None or codes:
            if told and not nodes:
                break
            continue
        few = len(deaths) < DEATHS or time.monotonic() - deaths[0] > 60.0
        if again is None or told or head.process.returncode >= 0 or not few:
            codes = [head.process.returncode]
            break
        deaths.append(time.monotonic())
        click.echo(f"the head was ended by signal {-head.process.returncode}; it is started again")
        try:
            head = again()
        except SomaError as e:
            click.echo(f"it cannot be: {e}")
            codes = [head.process.returncode]
    if not told:
        end(signal.SIGTERM, None)
    for one in nodes:
        one.process.wait()
    if head is not None:
        head.process.terminate()
        codes.append(head.process.wait())
    raise SystemExit(max(map(abs, codes)))
