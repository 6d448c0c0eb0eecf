"""What one machine has, and who holds how much of it. The same counts the inside of a placement group's bundle.

A GPU is not a number but a thing: a share below 1 lies on one GPU, more are whole GPUs, and holders are told which. A blocked holder
gives its CPU back (`suspend`); when it goes on it takes it again at once, even if somebody else has it meanwhile: the machine is then
overcommitted until one of them ends, as in Ray. Anything else could deadlock. Pure: no clock, no process.

Methods with an underscore take amounts in parts, for the neighbours in this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soma.actors.admission.amounts import CPU, GPU, MEMORY, PARTS, Parts, parts_of

CRITICAL = (CPU, GPU, MEMORY)
"""How full a machine is, is how full the fullest of these is."""


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
        self._all_gpus = (*[PARTS] * whole, *[share] * bool(share))
        self._gpus = list(self._all_gpus)
        self._holders: dict[str, _Held] = {}
        self._passing = dict(self._total)
        """What is not held by lasting holders."""
        self._passing_gpus = list(self._all_gpus)
        self._critical = tuple((name, self._total[name]) for name in CRITICAL if self._total.get(name))

    @property
    def total(self) -> dict[str, float]:
        return {name: n / PARTS for name, n in self._total.items()}

    def available(self) -> dict[str, float]:
        """What could be had now, for every resource there is; never below zero."""
        return {name: max(0, n) / PARTS for name, n in self._free.items()}

    def use(self) -> int:
        """How full it is, in whole percent of the fullest of CPU, GPU and memory; over 100 when overcommitted."""
        free = self._free
        return max([100 - -(-100 * free[name] // total) for name, total in self._critical], default=0)

    def feasible(self, request: Mapping[str, float]) -> bool:
        """Whether an empty pool could satisfy it."""
        return self._feasible(parts_of(request))

    def _feasible(self, want: Parts) -> bool:
        return suffices(want, self._total, self._all_gpus)

    def could_come_free(self, request: Mapping[str, float]) -> bool:
        """Whether it could be satisfied if all holders that are not lasting ended."""
        return self._could_come_free(parts_of(request))

    def _could_come_free(self, want: Parts) -> bool:
        return suffices(want, self._passing, self._passing_gpus)

    def try_acquire(self, holder: str, request: Mapping[str, float], *, lasting: bool = False) -> bool:
        """Take all of a request or nothing. `lasting`: held as long as an actor lives, so nobody should wait for its end.

        Raises:
            ValueError: this holder has something already.
        """
        return self._try_acquire(holder, parts_of(request), lasting)

    def _try_acquire(self, holder: str, want: Parts, lasting: bool) -> bool:
        if holder in self._holders:
            raise ValueError(f"{holder} holds resources already")
        free = self._free
        for name, n in want.items():
            if n > free.get(name, 0):
                return False
        gpus = place_gpus(want, self._gpus) if GPU in want else {}
        if gpus is None:
            return False
        self._take(holder, want, lasting, gpus)
        return True

    def _take(self, holder: str, want: Parts, lasting: bool, gpus: dict[int, int]) -> None:
        """What is known to be there, on the GPUs that are named."""
        for name, n in want.items():
            self._free[name] -= n
        for i, n in gpus.items():
            self._gpus[i] -= n
        if lasting:
            for name, n in want.items():
                self._passing[name] -= n
            for i, n in gpus.items():
                self._passing_gpus[i] -= n
        self._holders[holder] = _Held(want, lasting, gpus)

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
        if held.lasting:
            for name, n in held.parts.items():
                self._passing[name] += n
            for i, n in held.gpus.items():
                self._passing_gpus[i] += n
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


def suffices(want: Parts, free: Mapping[str, int], gpus: Sequence[int]) -> bool:
    """Whether so much is there, its GPUs in one piece each."""
    return all(n <= free.get(name, 0) for name, n in want.items()) and (GPU not in want or place_gpus(want, gpus) is not None)


def place_gpus(want: Parts, free: Sequence[int]) -> dict[int, int] | None:
    """Which GPUs to take how much of; None when they do not suffice. A share goes where it leaves the least over."""
    n = want.get(GPU, 0)
    if n < PARTS:
        fitting = [i for i, left in enumerate(free) if left >= n]
        return {} if n == 0 else {min(fitting, key=lambda i: (free[i], i)): n} if fitting else None
    whole = [i for i, left in enumerate(free) if left == PARTS][: n // PARTS]
    return dict.fromkeys(whole, PARTS) if len(whole) == n // PARTS else None
