"""Who may run: resources of a machine, counted exactly, and the queue of those who wait for them.

Amounts are whole ten-thousandths, so ten times 0.1 CPU is one CPU. A GPU is not a number but a thing: a share below 1 lies on one
GPU, more are whole GPUs, and holders are told which. A blocked holder gives its CPU back (`suspend`); when it goes on it takes it
again at once, even if somebody else has it meanwhile: the machine is then overcommitted until one of them ends, as in Ray.
Anything else could deadlock.

Refuses: amounts that are negative, infinite or no number; 1.5 GPUs. Pure: no clock, no process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

PARTS = 10_000
"""Smallest amount of anything: 1/10000."""

CPU, GPU, MEMORY = "CPU", "GPU", "memory"

Parts = dict[str, int]


def parts_of(request: Mapping[str, float]) -> Parts:
    """A request in parts, without zeros. What is asked for is never rounded down to nothing.

    Raises:
        ValueError: an amount that nothing could mean; names it.
    """
    parts = {}
    for name, amount in request.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
            raise ValueError(f"{name}={amount!r}: a number of at least 0")
        n = amount * PARTS if isinstance(amount, int) else round(amount * PARTS)
        if name == GPU and n > PARTS and n % PARTS:
            raise ValueError(f"{name}={amount!r}: a share below 1, or whole GPUs")
        if amount:
            parts[name] = max(1, n)
    return parts


def explain_infeasible(request: Mapping[str, float], total: Mapping[str, float]) -> str:
    """"asked for 64 CPU; the cluster has 2", for everything of which there is too little. Empty when there is enough."""
    have = parts_of(total)
    short = [name for name, n in parts_of(request).items() if n > have.get(name, 0)]
    if not short:
        return ""
    asked = " and ".join(amount_of(name, request[name]) for name in short)
    return f"asked for {asked}; the cluster has {' and '.join(quantity(name, total.get(name, 0)) for name in short)}"


def amount_of(name: str, amount: float) -> str:
    """For people: "2 GPU", "3 GiB of memory"."""
    return f"{quantity(name, amount)} {'of ' * (name == MEMORY)}{name}"


def quantity(name: str, amount: float) -> str:
    """The number alone, with the unit of memory: "2", "3 GiB"."""
    if name != MEMORY:
        return f"{amount:.10g}"
    size, unit = next(((s, u) for s, u in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if amount >= s), (1, "bytes"))
    return f"{amount / size:.4g} {unit}"


@dataclass(slots=True)
class _Held:
    parts: Parts
    lasting: bool
    gpus: dict[int, int]
    """Parts by GPU."""
    suspended: bool = False


class Pool:
    """What a machine has, and who holds how much of it."""

    def __init__(self, total: Mapping[str, float]) -> None:
        self._total = parts_of(total)
        self._free = dict(self._total)
        """CPU can be below zero, after `resume`."""
        whole, share = divmod(self._total.get(GPU, 0), PARTS)
        self._gpus = [PARTS] * whole + [share] * bool(share)
        self._holders: dict[str, _Held] = {}

    @property
    def total(self) -> dict[str, float]:
        return {name: n / PARTS for name, n in self._total.items()}

    def available(self) -> dict[str, float]:
        """What could be had now, for every resource there is; never below zero."""
        return {name: max(0, n) / PARTS for name, n in self._free.items()}

    def feasible(self, request: Mapping[str, float]) -> bool:
        """Whether an empty pool could satisfy it."""
        return self._feasible(parts_of(request))

    def _feasible(self, want: Parts) -> bool:
        return all(n <= self._total.get(name, 0) for name, n in want.items()) and place_gpus(want, self._capacities()) is not None

    def could_come_free(self, request: Mapping[str, float]) -> bool:
        """Whether it could be satisfied if all holders that are not lasting ended."""
        return self._could_come_free(parts_of(request))

    def _could_come_free(self, want: Parts) -> bool:
        left, gpus = dict(self._total), self._capacities()
        for held in self._holders.values():
            if held.lasting:
                for name, n in held.parts.items():
                    left[name] -= n
                for i, n in held.gpus.items():
                    gpus[i] -= n
        return all(n <= left.get(name, 0) for name, n in want.items()) and place_gpus(want, gpus) is not None

    def try_acquire(self, holder: str, request: Mapping[str, float], *, lasting: bool = False) -> bool:
        """Take all of a request or nothing. `lasting`: held as long as an actor lives, so nobody should wait for its end.

        Raises:
            ValueError: this holder has something already.
        """
        return self._try_acquire(holder, parts_of(request), lasting)

    def _try_acquire(self, holder: str, want: Parts, lasting: bool) -> bool:
        if holder in self._holders:
            raise ValueError(f"{holder} holds resources already")
        gpus = place_gpus(want, self._gpus)
        if gpus is None or any(n > self._free.get(name, 0) for name, n in want.items()):
            return False
        for name, n in want.items():
            self._free[name] -= n
        for i, n in gpus.items():
            self._gpus[i] -= n
        self._holders[holder] = _Held(want, lasting, gpus)
        return True

    def release(self, holder: str) -> bool:
        """Give everything back. False if it held nothing (a death may be noticed twice)."""
        held = self._holders.pop(holder, None)
        if held is None:
            return False
        for name, n in held.parts.items():
            if not (held.suspended and name == CPU):
                self._free[name] += n
        for i, n in held.gpus.items():
            self._gpus[i] += n
        return True

    def suspend(self, holder: str) -> bool:
        """It is blocked: its CPU is free for others, the rest stays. False if nothing changed."""
        held = self._holders.get(holder)
        if held is None or held.suspended:
            return False
        held.suspended = True
        if CPU in held.parts:
            self._free[CPU] += held.parts[CPU]
        return True

    def resume(self, holder: str) -> bool:
        """It goes on, with its CPU, which may be one too many for a while. False if nothing changed."""
        held = self._holders.get(holder)
        if held is None or not held.suspended:
            return False
        held.suspended = False
        if CPU in held.parts:
            self._free[CPU] -= held.parts[CPU]
        return True

    def holders(self) -> dict[str, dict[str, float]]:
        """What everybody holds; a suspended one without its CPU."""
        return {holder: {name: n / PARTS for name, n in held.parts.items() if not (held.suspended and name == CPU)}
                for holder, held in self._holders.items()}

    def gpus_of(self, holder: str) -> tuple[int, ...]:
        """The GPUs it was given, numbered as in the capabilities; holders of shares may have the same one."""
        held = self._holders.get(holder)
        return tuple(sorted(held.gpus)) if held is not None else ()

    def gpu_shares(self) -> dict[str, dict[int, float]]:
        """How much of which GPU everybody has who has any."""
        return {holder: {i: n / PARTS for i, n in held.gpus.items()} for holder, held in self._holders.items() if held.gpus}

    def _capacities(self) -> list[int]:
        gpus = list(self._gpus)
        for held in self._holders.values():
            for i, n in held.gpus.items():
                gpus[i] += n
        return gpus


def place_gpus(want: Parts, free: list[int]) -> dict[int, int] | None:
    """Which GPUs to take how much of; None when they do not suffice. A share goes where it leaves the least over."""
    n = want.get(GPU, 0)
    if n < PARTS:
        fitting = [i for i, left in enumerate(free) if left >= n]
        return {} if n == 0 else {min(fitting, key=lambda i: (free[i], i)): n} if fitting else None
    whole = [i for i, left in enumerate(free) if left == PARTS][: n // PARTS]
    return dict.fromkeys(whole, PARTS) if len(whole) == n // PARTS else None


@dataclass(slots=True)
class _Shape:
    """All who wait for one and the same request."""

    want: Parts
    lasting: bool
    waiting: dict[str, int] = field(default_factory=dict)
    """Holder → number in the queue, in order."""


class Queue:
    """Those who wait for resources. First come, first served, and who fits may pass who does not; but not for ever:

    who does not fit keeps all behind it from the resources it asks for, if it could fit once the present tasks end. It cannot
    when lasting holders (actors) have too much; then it is passed, for its turn may never come.
    """

    def __init__(self) -> None:
        self._shapes: dict[object, _Shape] = {}
        self._shape_of: dict[str, object] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._shape_of)

    def __contains__(self, holder: str) -> bool:
        return holder in self._shape_of

    def add(self, holder: str, request: Mapping[str, float], *, lasting: bool = False) -> None:
        """At the end. Raises ValueError if it waits already."""
        if holder in self._shape_of:
            raise ValueError(f"{holder} waits already")
        want = parts_of(request)
        key = (frozenset(want.items()), lasting)
        self._number += 1
        self._shapes.setdefault(key, _Shape(want, lasting)).waiting[holder] = self._number
        self._shape_of[holder] = key

    def remove(self, holder: str) -> bool:
        """It waits no more; False if it did not."""
        key = self._shape_of.pop(holder, None)
        if key is None:
            return False
        shape = self._shapes[key]
        del shape.waiting[holder]
        if not shape.waiting:
            del self._shapes[key]
        return True

    def admit(self, pool: Pool) -> list[str]:
        """Give to all who can have theirs now, and let them leave. Costs as much as there are different requests."""
        admitted = []
        closed: set[str] = set()
        open_shapes = set(self._shapes)
        while open_shapes:
            key = min(open_shapes, key=lambda k: next(iter(self._shapes[k].waiting.values())))
            shape = self._shapes[key]
            holder = next(iter(shape.waiting))
            if closed.isdisjoint(shape.want) and pool._try_acquire(holder, shape.want, shape.lasting):
                self.remove(holder)
                admitted.append(holder)
                if key not in self._shapes:
                    open_shapes.remove(key)
            else:  # nobody with the same request fits either
                open_shapes.remove(key)
                if pool._could_come_free(shape.want):
                    closed.update(shape.want)
        return admitted
