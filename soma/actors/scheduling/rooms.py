"""What each machine has left: exact, in parts (see `admission`), with GPUs one by one.

A room is what is free on one machine; the fleet is all of them, in the order of their names. Only `attempt` takes on trial, and on
copies. What others hold may be more than there is (a blocked actor went on): then less than nothing is free, and nothing fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from soma.actors.admission import CPU, GPU, PARTS, Parts, parts_of, place_gpus
from soma.actors.scheduling.events import Machine

Shape = tuple[frozenset[str], tuple[tuple[str, int], ...]]
"""Tags and parts: all that decides which machines could have something."""


def shape_of(tags: frozenset[str], parts: Parts) -> Shape:
    return tags, tuple(sorted(parts.items()))


def work_of(parts: Parts, weight: int) -> int:
    """What a process counts when load is compared: the CPUs it reserves, else the weight of its tasks; in parts."""
    return parts.get(CPU) or weight


@dataclass(slots=True, eq=False)
class Placed:
    """A process that was placed and not given back."""

    name: str
    owner: str
    machine: str
    tasks: tuple[str, ...]
    parts: Parts
    work: int
    gpus: dict[int, int]
    """Parts by GPU."""
    seen: bool = False
    """Its actor was there when somebody looked."""


class Room:
    """What is free on one machine."""

    __slots__ = ("machine", "tags", "total", "free", "gpus", "work", "closed")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tags = frozenset(machine.tags)
        self.total = parts_of(machine.offers())
        self.free = dict(self.total)
        self.gpus = self._whole_gpus()
        self.work = 0
        self.closed: frozenset[str] = frozenset()
        """Resources that somebody waits for: nobody else gets any."""

    def _whole_gpus(self) -> list[int]:
        whole, share = divmod(self.total.get(GPU, 0), PARTS)
        return [PARTS] * whole + [share] * bool(share)

    def copy(self) -> Room:
        room: Room = Room.__new__(Room)
        room.machine, room.tags, room.total = self.machine, self.tags, self.total
        room.free, room.gpus, room.work, room.closed = dict(self.free), list(self.gpus), self.work, self.closed
        return room

    @property
    def busy(self) -> float:
        """Load for each core, in parts."""
        return (self.machine.load * PARTS + self.work) / self.machine.cores

    def could(self, tags: frozenset[str], parts: Parts) -> bool:
        """Whether it fits when nobody else is there."""
        return tags <= self.tags and all(n <= self.total.get(name, 0) for name, n in parts.items()) and (
            GPU not in parts or place_gpus(parts, self._whole_gpus()) is not None)

    def fits(self, parts: Parts) -> bool:
        """Whether it fits now."""
        free, closed = self.free, self.closed
        for name, n in parts.items():
            if n > free.get(name, 0) or name in closed:
                return False
        return GPU not in parts or place_gpus(parts, self.gpus) is not None

    def take(self, parts: Parts, gpus: Mapping[int, int] | None = None) -> dict[int, int]:
        """Take it whether it fits or not; on these GPUs if they are known. Returns the parts by GPU."""
        for name, n in parts.items():
            self.free[name] = self.free.get(name, 0) - n
        given = self._choose_gpus(parts) if gpus is None else {i: n for i, n in gpus.items() if i < len(self.gpus)}
        for i, n in given.items():
            self.gpus[i] -= n
        return given

    def _choose_gpus(self, parts: Parts) -> dict[int, int]:
        chosen = place_gpus(parts, self.gpus)
        if chosen is None:  # more is held than there is: those that have most left
            n = parts[GPU]
            emptiest = sorted(range(len(self.gpus)), key=lambda i: (-self.gpus[i], i))
            chosen = dict.fromkeys(emptiest[:-(-n // PARTS)], min(n, PARTS))
        return chosen

    def give(self, parts: Parts, gpus: Mapping[int, int]) -> None:
        """The opposite of `take`."""
        for name, n in parts.items():
            self.free[name] += n
        for i, n in gpus.items():
            self.gpus[i] += n


@dataclass(slots=True, eq=False)
class Fleet:
    """All machines, and what was placed on them."""

    rooms: list[Room] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)
    placed: dict[str, Placed] = field(default_factory=dict)
    _hosts: dict[Shape, tuple[int, ...]] = field(default_factory=dict)
    _names: set[str] | None = None
    """Of all actors that are there; None until somebody asks."""

    def hosts(self, shape: Shape) -> tuple[int, ...]:
        """Positions of the machines that could have it, if nobody else were there."""
        found = self._hosts.get(shape)
        if found is None:
            if len(self._hosts) >= 10_000:
                self._hosts.clear()
            parts = dict(shape[1])
            found = self._hosts[shape] = tuple(i for i, room in enumerate(self.rooms) if room.could(shape[0], parts))
        return found

    def has_room(self, shape: Shape) -> bool:
        """Whether some machine could take it now."""
        parts = dict(shape[1])
        return any(self.rooms[i].fits(parts) for i in self.hosts(shape))

    def free(self) -> Parts:
        """What could be had now of everything, on all machines together."""
        total: Parts = {}
        for room in self.rooms:
            for name, n in room.free.items():
                total[name] = total.get(name, 0) + (0 if name in room.closed else max(0, n))
        return total

    def update(self, machines: Iterable[Machine]) -> bool:
        """The machines as they are now. False if only their load is another."""
        before = {room.machine.id: room for room in self.rooms}
        fresh = sorted(machines, key=lambda m: m.id)
        same = [before[m.id] if m.id in before and _alike(before[m.id].machine, m) else None for m in fresh]
        for room, machine in zip(same, fresh, strict=True):
            if room is not None:
                room.machine = replace(room.machine, load=machine.load)
        if len(before) == len(fresh) and None not in same:
            return False
        there = {m.id for m in fresh}
        for p in list(self.placed.values()):
            if p.machine not in there:
                del self.placed[p.name]
        self.rooms = [self._room(m) if room is None else room for room, m in zip(same, fresh, strict=True)]
        self.position = {m.id: i for i, m in enumerate(fresh)}
        self._hosts.clear()
        self._names = None
        return True

    def _room(self, machine: Machine) -> Room:
        """A room with everything taken that is held on a machine; what was placed there, seen, and is gone, is forgotten."""
        room = Room(machine)
        shares: dict[str, Mapping[str, float]] = {}
        own = {p.name: p for p in self.placed.values() if p.machine == machine.id}
        for p in own.values():
            here = p.name in machine.reserved
            if p.seen and not here:
                del self.placed[p.name]
                continue
            p.seen = p.seen or here
            if p.name in machine.gpu_shares:
                p.gpus = _by_gpu(machine.gpu_shares[p.name])
            p.gpus = room.take(p.parts, p.gpus)
            room.work += p.work
        known = sorted(machine.reserved, key=lambda name: (name not in machine.gpu_shares, name))  # whose GPUs must be guessed comes last
        for name in known:
            if name not in own:
                parts = parts_of(machine.reserved[name])
                told = machine.gpu_shares.get(name)
                taken = room.take(parts, None if told is None else _by_gpu(told))
                room.work += parts.get(CPU, 0)
                shares[name] = {str(i): n / PARTS for i, n in taken.items()}
        room.machine = replace(machine, gpu_shares={**machine.gpu_shares, **{k: v for k, v in shares.items() if v}})
        return room

    def release(self, gone: Iterable[Placed]) -> None:
        """Processes were given back. Should an actor still be there when somebody looks, it counts as anybody's."""
        names: dict[str, set[str]] = {}
        self._names = None
        for p in gone:
            del self.placed[p.name]
            room = self.rooms[self.position[p.machine]]
            room.give(p.parts, p.gpus)
            room.work -= p.work
            names.setdefault(p.machine, set()).add(p.name)
        for id, freed in names.items():
            room = self.rooms[self.position[id]]
            m = room.machine
            room.machine = replace(m, reserved={k: v for k, v in m.reserved.items() if k not in freed},
                                   gpu_shares={k: v for k, v in m.gpu_shares.items() if k not in freed})

    def is_taken(self, name: str) -> bool:
        """Whether a process of this name is, or was placed, anywhere."""
        if self._names is None:
            self._names = set().union(*(room.machine.reserved for room in self.rooms))
        return name in self.placed or name in self._names


def _by_gpu(shares: Mapping[str, float]) -> dict[int, int]:
    return {int(i): round(share * PARTS) for i, share in shares.items()}


def _alike(a: Machine, b: Machine) -> bool:
    """The same but for their load."""
    return (a.reserved == b.reserved and a.totals == b.totals and a.tags == b.tags and a.cores == b.cores and a.gpus == b.gpus
            and a.gpu_shares == b.gpu_shares)
