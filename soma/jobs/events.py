"""What a job's runner tells its keeper, in order. Frozen values; states and phases by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Began:
    """A machine has room for it."""

    node: str


@dataclass(frozen=True, slots=True)
class PhaseBegan:
    name: str


@dataclass(frozen=True, slots=True)
class Said:
    """Output of the program, or what is said about it."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reported:
    """The program said how far it is. None: not said."""

    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Left:
    """The program is gone."""

    exit_code: int | None
    signal: str | None


@dataclass(frozen=True, slots=True)
class Output:
    """A part of a file that it left; those of one file follow each other. The last one has the hash of the whole."""

    path: str
    data: bytes
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event: SUCCEEDED, FAILED or CANCELLED, and why."""

    state: str
    message: str = ""


JobEvent = Began | PhaseBegan | Said | Reported | Left | Output | Ended
