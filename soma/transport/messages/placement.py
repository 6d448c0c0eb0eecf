"""Messages about placement groups, read by the daemon."""

from __future__ import annotations

from dataclasses import dataclass

from soma.transport.frames import Name, message


@message(80)
@dataclass(frozen=True, slots=True)
class CreateGroup:
    """Reserve bundles of resources, all or none; answered by Answer at once, with an error if no nodes could ever hold them."""

    request: bytes
    creator: Name
    group: Name
    name: str
    namespace: str
    bundles: tuple[dict[str, float], ...]
    strategy: str
    """PACK, SPREAD, STRICT_PACK or STRICT_SPREAD."""
    detached: bool


@message(81)
@dataclass(frozen=True, slots=True)
class RemoveGroup:
    """Give a placement group's bundles back; who runs inside is ended. Answered by Answer; a group that is gone is no error."""

    request: bytes
    peer: Name
    group: Name
