"""`soma cache`: what the cache on disk holds, and what may go of it.

Sizes are written like 500MB, 10GB or 2GiB, ages like 12h, 30d or 2w. An entry is named by the beginning of its key, as `stats` shows it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from soma.errors import CacheError

if TYPE_CHECKING:
    from soma.store.disk import Disk
    from soma.store.maintenance import Contents, Freed

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SHOWN = 20
"""Entries that `stats` shows, the ones used last."""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", value.lower())
    if found is None:
        raise click.BadParameter(f"{value!r} is no size: a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB, e.g. 10GB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A number of seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no age: a number with s, m, h, d or w, e.g. 30d")
    return float(found[1]) * _SECONDS[found[2]]


@click.group()
def cache() -> None:
    """What graph runs keep on disk: look at it, tidy it up, check it."""


def _with_path(command: Callable[..., None]) -> Callable[..., None]:
    said = "The cache's directory; by default $SOMA_CACHE, $XDG_CACHE_HOME/soma or ~/.cache/soma."
    return click.option("--path", type=click.Path(), help=said)(command)


def _opened(path: str | None) -> Disk:
    from soma.store import maintenance

    disk: Disk = _or_exit(lambda: maintenance.existing(path))
    return disk


def _or_exit(ask: Callable[[], Any]) -> Any:
    """What a user can act on is one line."""
    try:
        return ask()
    except CacheError as error:
        raise click.ClickException(str(error)) from None


@cache.command()
@_with_path
@click.option("--json", "as_json", is_flag=True, help="Plain data, with every entry.")
def stats(path: str | None, as_json: bool) -> None:
    """What there is: how much, of what, and what was used last."""
    from soma.store import maintenance

    disk = _opened(path)
    contents = _or_exit(lambda: maintenance.look(disk))
    if as_json:
        click.echo(json.dumps(_plain(disk, contents), indent=2))
    else:
        _show(disk, contents)


@cache.command()
@_with_path
@click.option("--max-size", callback=_size, help="Remove what was used longest ago until this much is left, e.g. 10GB.")
@click.option("--older-than", callback=_duration, help="Remove what was not used for so long, e.g. 30d.")
def gc(path: str | None, max_size: int | None, older_than: float | None) -> None:
    """Remove what is not used any more. Without options: only what nobody can find any more."""
    from soma.store import maintenance

    disk = _opened(path)
    _tell(_or_exit(lambda: maintenance.gc(disk, max_size, older_than)))


@cache.command()
@_with_path
@click.argument("key")
def pin(path: str | None, key: str) -> None:
    """Keep an entry whatever happens."""
    from soma.store import maintenance

    disk = _opened(path)
    click.echo(f"pinned {_or_exit(lambda: maintenance.pin(disk, key))}")


@cache.command()
@_with_path
@click.argument("key")
def unpin(path: str | None, key: str) -> None:
    """Let a pinned entry go when its time comes."""
    from soma.store import maintenance

    disk = _opened(path)
    click.echo(f"unpinned {_or_exit(lambda: maintenance.unpin(disk, key))}")


@cache.command()
@_with_path
@click.option("--repair/--no-repair", default=True, help="Remove what is damaged, so that it is made again; the default.")
def verify(path: str | None, repair: bool) -> None:
    """Read every byte. Exits with 1 if anything is damaged."""
    from soma.store import maintenance

    disk = _opened(path)
    found = _or_exit(lambda: maintenance.verify(disk, repair))
    click.echo(f"checked {found.values} values, {_bytes(found.nbytes)}")
    for digest in found.damaged:
        click.echo(f"damaged: value {digest}")
    for key in found.broken:
        click.echo(f"damaged: entry {key}")
    if not found.sound:
        click.echo("removed; these values will be made again" if repair else "nothing was removed")
        raise click.exceptions.Exit(1)


@cache.command()
@_with_path
@click.option("--all", "everything", is_flag=True, help="Pinned entries too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(path: str | None, everything: bool, yes: bool) -> None:
    """Remove all entries but the pinned ones."""
    from soma.store import maintenance

    disk = _opened(path)
    if not yes:
        click.confirm(f"Remove all {'' if everything else 'but the pinned '}entries of {disk.path}?", abort=True)
    _tell(_or_exit(lambda: maintenance.clear(disk, everything)))


def _tell(freed: Freed) -> None:
    more = f"; {freed.leftovers} files that killed processes left" if freed.leftovers else ""
    click.echo(f"removed {freed.entries} entries and {freed.values} values, {_bytes(freed.nbytes)}{more}")


def _plain(disk: Disk, contents: Contents) -> dict[str, Any]:
    entries = [{"key": e.key, "digest": e.digest, "bytes": e.nbytes, "title": e.title, "summary": e.summary, "used": e.used,
                "pinned": e.pinned} for e in _recent(contents)]
    return {"path": disk.path, "bytes": contents.nbytes, "values": len(contents.values), "broken": list(contents.broken),
            "unnamed": len(contents.values.keys() - {e.digest for e in contents.entries}), "entries": entries}


def _recent(contents: Contents) -> list[Any]:
    return sorted(contents.entries, key=lambda entry: (-entry.used, entry.key))


def _show(disk: Disk, contents: Contents) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    shown = _recent(contents)
    pinned = sum(entry.pinned for entry in shown)
    line = f"{disk.path}: {len(shown)} entries ({pinned} pinned), {len(contents.values)} values, {_bytes(contents.nbytes)}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    unnamed = len(contents.values.keys() - {entry.digest for entry in shown})
    if unnamed or contents.broken:
        console.print(f"{unnamed} values without an entry, {len(contents.broken)} entries without a value; `soma cache gc` removes them",
                      highlight=False, soft_wrap=True)
    if not shown:
        return
    table = Table(header_style="dim", box=None, padding=(0, 2, 0, 0))
    for name in ("key", "what", "value", "used", "size", ""):
        table.add_column(name, justify="right" if name in ("used", "size") else "left", overflow="fold")
    now = time.time()
    for entry in shown[:SHOWN]:
        table.add_row(entry.key[:12], escape(entry.title), escape(entry.summary), f"{_age(now - entry.used)} ago", _bytes(entry.nbytes),
                      "pinned" if entry.pinned else "")
    console.print(table)
    if len(shown) > SHOWN:
        console.print(f"and {len(shown) - SHOWN} more; --json shows all", style="dim", highlight=False)


def _age(seconds: float) -> str:
    for unit, most, size in (("s", 120, 1), ("min", 7200, 60), ("h", 172800, 3600)):
        if seconds < most:
            return f"{max(seconds, 0) / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
