"""Messages read from a process's side mailbox, by the side thread, at once, whatever the user's code does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.transport.frames import CallKey, Name, Natural, message


@message(20)
@dataclass(frozen=True, slots=True)
class Cancel:
    """Interrupt a call, or drop it from the queue."""

    call_id: CallKey


@message(21)
@dataclass(frozen=True, slots=True)
class Fetch:
    """Send me this value when it is settled; answered by ObjectValue."""

    object_id: bytes
    peer: Name


@message(22)
@dataclass(frozen=True, slots=True)
class Hold:
    """`holder` holds `delta` more (or fewer) references to a value that the receiver owns."""

    object_id: bytes
    holder: Name
    delta: int


@message(23)
@dataclass(frozen=True, slots=True)
class PeerDied:
    """A process is gone: its leases and references return."""

    peer: Name


@message(24)
@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines that an actor printed; `stream` is "stdout" or "stderr"."""

    label: str
    pid: Natural
    stream: str
    lines: tuple[str, ...]
    dropped: Natural


@message(25)
@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in the cluster; plain data."""

    fields: dict[str, Any]
