"""`soma keygen`, `soma token`, `soma keys`: who may come to a cluster of several machines.

Everything here is files of this user (`transport.keys`, `daemon.gate`); a running head sees the change at its next decision. A secret
is printed once, and only where printing it is the purpose: a new join token. It is never taken from the command line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soma.errors import SecurityError

if TYPE_CHECKING:
    from soma.daemon.access import Key, Token

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_DAYS = 365

_STATE = click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=None,
                      help="The head's state directory; by default $SOMA_STATE, $XDG_STATE_HOME/soma or ~/.local/state/soma.")


def _lifetime(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """A number of seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST_DAYS * 86400:
        raise click.BadParameter(f"{value!r}: a number with s, m, h or d, e.g. 1h, and at most {LONGEST_DAYS}d")
    return seconds


def _or_exit(act: Callable[[], Any]) -> Any:
    """What a user can act on is one line."""
    try:
        return act()
    except (SecurityError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.option("--role", type=click.Choice(["driver", "node", "reader", "head"]), default="driver", show_default=True,
              help="What the key is for: programs, machines, those who only look, or the head.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="The file; by default ROLE.json in $SOMA_KEYS, $XDG_CONFIG_HOME/soma/keys or ~/.config/soma/keys.")
def keygen(role: Any, out: Path | None) -> None:
    """Make a key pair. The public key is printed; the secret one stays in the file."""
    from soma.daemon.gate import make_key

    path, public = _or_exit(lambda: make_key(role, out))
    click.echo(f"wrote {path}")
    click.echo(f"public key: {public}")


@click.group()
def token() -> None:
    """Join tokens: let a machine or a program into the cluster whose head runs as you, on this machine."""


@token.command()
@click.option("--role", type=click.Choice(["node", "driver"]), default="node", show_default=True, help="What its holder may join as.")
@click.option("--expires", default="1h", show_default=True, callback=_lifetime, help="How long it is good, e.g. 30m, 12h, 7d.")
@click.option("--uses", type=click.IntRange(1, 10_000), default=None, help="How many keys it admits; by default any number.")
@_STATE
def create(role: Any, expires: float, uses: int | None, state: Path | None) -> None:
    """Print a new token. Whoever has it can join: hand it over like a password."""
    from soma.daemon.gate import create_token, head_key, state_dir

    made = _or_exit(lambda: create_token(state or state_dir(), head_key(), role, time.time() + expires, uses))
    click.echo(made.text())


@token.command("list")
@_STATE
def list_tokens(state: Path | None) -> None:
    """The tokens that the head knows; what makes them work is not kept."""
    from soma.daemon.gate import BookFile, state_dir

    found: list[Token] = list(_or_exit(lambda: BookFile(state or state_dir()).load().tokens.values()))
    if not found:
        click.echo("no tokens; `soma token create` makes one")
    now = time.time()
    for one in sorted(found, key=lambda t: t.expires):
        left = "any number of uses" if one.uses is None else f"{one.uses} uses left"
        click.echo(f"{one.id[:12]}  {one.grants:<6}  until {_moment(one.expires)}  {one.over(now) or left}")


@token.command("revoke")
@click.argument("id")
@_STATE
def revoke_token(id: str, state: Path | None) -> None:
    """Make a token useless. Whom it admitted before stays in; see `soma keys revoke`."""
    _revoke(id, state)


@click.group()
def keys() -> None:
    """The keys that may connect to the head that runs as you, on this machine."""


@keys.command("list")
@_STATE
def list_keys(state: Path | None) -> None:
    """Who may connect, as what, and since when."""
    from soma.daemon.gate import BookFile, state_dir

    found: list[Key] = list(_or_exit(lambda: BookFile(state or state_dir()).load().keys.values()))
    if not found:
        click.echo("no keys; `soma token create` lets others join, `soma keys allow` adds a key")
    for one in sorted(found, key=lambda k: k.added):
        click.echo("  ".join(filter(None, (one.id[:12], f"{one.role:<6}", f"since {_moment(one.added)}", ", ".join(one.names), one.note))))


@keys.command()
@click.argument("public_key")
@click.option("--role", type=click.Choice(["driver", "node", "reader"]), default="driver", show_default=True)
@click.option("--note", default="", help="Whose it is, for `soma keys list`.")
@_STATE
def allow(public_key: str, role: Any, note: str, state: Path | None) -> None:
    """Let a key connect whose public half somebody told you (`soma keygen` prints it)."""
    from soma.daemon.gate import allow_key, state_dir

    key: Key = _or_exit(lambda: allow_key(state or state_dir(), public_key, role, note))
    click.echo(f"{key.id[:12]} may connect as {role}")


@keys.command("revoke")
@click.argument("id")
@_STATE
def revoke_key(id: str, state: Path | None) -> None:
    """Let a key connect no more. A member that has the cluster's data key keeps it until the head is started with a new one."""
    _revoke(id, state)


def _revoke(beginning: str, state: Path | None) -> None:
    from soma.daemon.gate import revoke, state_dir

    click.echo(f"revoked {_or_exit(lambda: revoke(state or state_dir(), beginning)).id[:12]}")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
