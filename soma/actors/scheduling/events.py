"""What the scheduler hears and says: frozen, checked when made, and plain JSON both ways (`as_dict`, `event_of`, `instruction_of`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soma.actors.admission import GPU, parts_of

Amounts = Mapping[str, float]
DRIVER = ""
"""Stands among a task's inputs for data that the driver gives."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: what it has and what is taken of it."""

    id: str
    totals: Amounts
    tags: tuple[str, ...] = ()
    cores: int = 1
    gpus: int = 0
    """Stands for `totals["GPU"]` where that is missing."""
    load: float = 0.0
    """Cores' worth of work that goes on there."""
    reserved: Mapping[str, Amounts] = field(default_factory=dict)
    """What each actor there holds, by name; nothing ({}) counts as being there."""
    gpu_shares: Mapping[str, Amounts] = field(default_factory=dict)
    """Holder → GPU → share of it, as far as that is known."""

    def __post_init__(self) -> None:
        if not (self.id and self.cores >= 1 and math.isfinite(self.load) and self.load >= 0):
            raise ValueError(f"machine {self.id!r}: a name, at least one core and a load from 0; got cores={self.cores}, load={self.load}")

    def offers(self) -> dict[str, float]:
        """`totals`, with its GPUs."""
        return dict(self.totals) if GPU in self.totals or not self.gpus else {**self.totals, GPU: float(self.gpus)}


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work that needs a process for as long as its plan lives."""

    id: str
    needs: Amounts = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    inputs: tuple[tuple[str, int], ...] = ()
    """(task whose output it takes, or "" for the driver's data; bytes, 0 if unknown)."""
    together: str | None = None
    """Tasks with the same key share a process."""
    weight: float = 1.0
    """How much work it is beside the others, where it reserves no CPU."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a task needs an id")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"task {self.id!r}: weight={self.weight!r}: a number of at least 0")
        if any(size < 0 for _, size in self.inputs):
            raise ValueError(f"task {self.id!r}: an input of less than 0 bytes")
        try:
            parts_of(self.needs)
        except ValueError as e:
            raise ValueError(f"task {self.id!r}: {e}") from None


@dataclass(frozen=True, slots=True)
class Request:
    """Tasks to be placed, all or none of them, in an order in which each comes after its inputs."""

    owner: str
    tasks: tuple[Task, ...]
    wait: bool = False
    """What fits, but not now, waits until it does; else it is refused."""
    max_processes: int | None = None
    """None: 64, or 16 for each core there is, whichever is more."""
    data_on: Mapping[str, str] = field(default_factory=dict)
    """Input that no task here makes (also "") → the machine where it lies."""

    def __post_init__(self) -> None:
        if not self.owner or not self.tasks:
            raise ValueError(f"a request needs an owner and tasks, got owner={self.owner!r} and {len(self.tasks)} tasks")
        if self.max_processes is not None and self.max_processes < 1:
            raise ValueError(f"max_processes={self.max_processes!r}: at least 1")
        position = {task.id: i for i, task in enumerate(self.tasks)}
        if len(position) < len(self.tasks):
            raise ValueError(f"task {next(t.id for i, t in enumerate(self.tasks) if position[t.id] != i)!r} is there twice")
        for i, task in enumerate(self.tasks):
            late = [name for name, _ in task.inputs if position.get(name, -1) >= i]
            if late:
                raise ValueError(f"task {task.id!r} comes before its input {late[0]!r}: tasks go in topological order")


# -- events ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """The machines as they are now, all of them."""

    machines: tuple[Machine, ...]

    def __post_init__(self) -> None:
        if len({m.id for m in self.machines}) < len(self.machines):
            raise ValueError(f"two machines have one id: {sorted(m.id for m in self.machines)}")


@dataclass(frozen=True, slots=True)
class Submit:
    request: Request


@dataclass(frozen=True, slots=True)
class Release:
    """All that was placed for an owner is given back."""

    owner: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """An owner waits no more."""

    owner: str


Event = Facts | Submit | Release | Withdraw

# -- instructions ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """A process to be made, under this very name, and what runs in it, one task at a time."""

    name: str
    tasks: tuple[str, ...]
    machine: str
    needs: Amounts
    reasons: Mapping[str, str]
    """Task → why it is there, for people."""


@dataclass(frozen=True, slots=True)
class Place:
    """Make these processes, in this order."""

    owner: str
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    owner: str
    error: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """It will be placed, by the answer to a later event."""

    owner: str
    why: str


Instruction = Place | Refuse | Waiting

# -- plain data --------------------------------------------------------------------------------------------------------------


def as_dict(what: Any) -> dict[str, Any]:
    """An event or instruction as JSON has it: {"kind": "Submit", …}."""
    return {"kind": type(what).__name__, **_plain_fields(what)}


def _plain_fields(what: Any) -> dict[str, Any]:
    return {f: _plain(getattr(what, f)) for f in _FIELDS[type(what)]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _plain_fields(value) if type(value) in _FIELDS else value


def event_of(fields: Mapping[str, Any]) -> Event:
    """The event that `as_dict` made `fields` of; ValueError if none did."""
    match _kind(fields, Facts, Submit, Release, Withdraw):
        case "Facts":
            return Facts(tuple(machine_of(m) for m in fields["machines"]))
        case "Submit":
            return Submit(request_of(fields["request"]))
        case "Release":
            return Release(fields["owner"])
        case _:
            return Withdraw(fields["owner"])


def instruction_of(fields: Mapping[str, Any]) -> Instruction:
    """The instruction that `as_dict` made `fields` of; ValueError if none did."""
    match _kind(fields, Place, Refuse, Waiting):
        case "Place":
            return Place(fields["owner"], tuple(_made(Process, p, tasks=tuple) for p in fields["processes"]))
        case "Refuse":
            return Refuse(fields["owner"], fields["error"])
        case _:
            return Waiting(fields["owner"], fields["why"])


def _kind(fields: Mapping[str, Any], *known: type) -> str:
    kind = fields.get("kind")
    if kind not in {cls.__name__ for cls in known}:
        raise ValueError(f"kind={kind!r}: one of {', '.join(cls.__name__ for cls in known)}")
    return str(kind)


def request_of(fields: Mapping[str, Any]) -> Request:
    """A request from plain data.

    Raises:
        ValueError: a field that is unknown, missing or impossible; names it.
    """
    made: Request = _made(Request, fields, tasks=lambda tasks: tuple(map(_task, tasks)))
    return made


def machine_of(fields: Mapping[str, Any]) -> Machine:
    """A machine from plain data; as `request_of`."""
    made: Machine = _made(Machine, fields, tags=tuple)
    return made


def _task(fields: Mapping[str, Any]) -> Task:
    made: Task = _made(Task, fields, tags=tuple, inputs=lambda pairs: tuple((name, size) for name, size in pairs))
    return made


def _made(cls: Any, fields: Mapping[str, Any], **convert: Any) -> Any:
    if unknown := sorted(set(fields) - set(_FIELDS[cls])):
        raise ValueError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(_FIELDS[cls])}")
    try:
        return cls(**{name: convert[name](value) if name in convert else value for name, value in fields.items()})
    except TypeError as e:
        raise ValueError(f"{cls.__name__}: {e}") from None


_FIELDS: dict[type, Sequence[str]] = {cls: [f.name for f in dataclasses.fields(cls)] for cls in (
    Machine, Task, Request, Facts, Submit, Release, Withdraw, Process, Place, Refuse, Waiting)}
