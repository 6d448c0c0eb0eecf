"""Names that say where a mailbox is: `<base>` on one machine, `<base>@<tag>,<host>,<port>,<side port>` in a cluster of several.

The side mailbox of a peer has the same name with `.s` behind it. `tag` is the 8 hex digits of a runtime directory: who has the same
one reaches the peer through that directory, everybody else by TCP. Pure; refuses what could lead anywhere else: a base that is no
file name, a host that is no address, a port that is none.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

SIDE = ".s"
"""Behind the name of a peer: its side mailbox."""

NAME_CHARS = 128
"""Of a whole name, with room for the side mailbox's suffix."""

_BASE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,37}"
_PLAIN = re.compile(_BASE)
_LOCATED = re.compile(rf"({_BASE})@([0-9a-f]{{8}}),([A-Za-z0-9.:-]+),([1-9][0-9]{{0,4}}),([1-9][0-9]{{0,4}})(\.s)?")
_DNS = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True, slots=True)
class Located:
    """A name taken apart. `port` is the one of the mailbox that is named, `side` says which of the two that is."""

    base: str
    tag: str
    host: str
    port: int
    side: bool

    @property
    def file(self) -> str:
        """What its socket is called in its runtime directory."""
        return self.base + SIDE if self.side else self.base

    @property
    def mailbox(self) -> str:
        """Which one it is, wherever it is: a base is never used twice."""
        return f"{self.base}@{self.tag}{SIDE if self.side else ''}"

    @property
    def address(self) -> str:
        """Where it is bound for other machines."""
        return tcp_address(self.host, self.port)


def tcp_address(host: str, port: int | str) -> str:
    """`tcp://…`; an IPv6 address stands in brackets there."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def located(base: str, tag: str, host: str, port: int, side_port: int) -> str:
    """The name of a peer that other machines can reach.

    Raises:
        ValueError: a part is not as it should be, or all together are longer than 126 characters.
    """
    name = f"{base}@{tag},{host},{port},{side_port}"
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of a peer")
    return name


def parse(name: str) -> Located | None:
    """Where a mailbox is; None for a name that is good on one machine only, or is none."""
    found = _LOCATED.fullmatch(name) if len(name) <= NAME_CHARS else None
    if found is None:
        return None
    base, tag, host, port, side_port, side = found.groups()
    if int(port) > 65_535 or int(side_port) > 65_535 or not is_host(host):
        return None
    return Located(base, tag, host, int(side_port if side else port), side is not None)


def is_host(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, or could be the name of a machine."""
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    return _DNS.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a peer may be called so: a file name with room for the side mailbox's suffix, alone or with its place behind it."""
    if _PLAIN.fullmatch(text) is not None:
        return True
    place = parse(text)
    return place is not None and not place.side and len(text) + len(SIDE) <= NAME_CHARS


def local_name(name: str) -> str:
    """What the socket of a mailbox is called in its runtime directory."""
    place = parse(name)
    return name if place is None else place.file
