"""What a desk is told to keep to, and what it tells to do. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Why = Literal["canceled", "timeout"]
End = Literal["succeed", "fail", "cancel"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a server.

    Attributes:
        slots: predictions at once, at most.
        min_slots: so many have a process even if there is nothing to do; None: all. Another one is made when predictions wait for
            `scale_after` seconds, one at a time; one that was idle for `idle` seconds is ended.
        max_queue: predictions that may wait for a slot; with 0, one more than there are slots is refused.
        timeout: seconds that a prediction may run; None: no limit.
        grace: seconds between asking a prediction to end and killing its process.
        setup_timeout: seconds that a setup may take; None: no limit.
        deaths, period: more deaths than so many within so many seconds, and the server gives up.
        ahead: the next prediction is sent to the slot while it is busy, and waits there: so it begins at once. Only where there is one
            slot: another one, free before, could not have it any more.
    """

    slots: int = 1
    max_queue: int = 256
    timeout: float | None = None
    grace: float = 5.0
    setup_timeout: float | None = None
    deaths: int = 5
    period: float = 60.0
    min_slots: int | None = None
    scale_after: float = 0.5
    idle: float = 30.0
    ahead: bool = False

    def __post_init__(self) -> None:
        if self.ahead and self.slots != 1:
            raise ValueError(f"ahead=True with {self.slots} slots; there is to be one")


@dataclass(frozen=True, slots=True)
class Make:
    """Start the slot's process, and set it up; after `delay` seconds."""

    slot: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send the prediction to the slot, where it waits for the end of what runs there."""

    id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Begin:
    """The prediction runs in the slot; send it there, if it was not sent before."""

    id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Cancel what was sent to the slot and waits there."""

    slot: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask what runs in the slot to end."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the slot's process."""

    slot: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The prediction has ended, in a way that the slot did not tell."""

    id: str
    how: End
    error: str = ""


@dataclass(frozen=True, slots=True)
class Requeue:
    """The prediction never began; it waits again."""

    id: str


Step = Make | Send | Begin | Recall | Ask | Kill | Finish | Requeue


class QueueFull(Exception):
    """No room for another prediction. `waits` says whether there is a queue at all."""

    def __init__(self, waits: bool) -> None:
        super().__init__(waits)
        self.waits = waits
