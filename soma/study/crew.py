"""The workers of a run: made when they are first needed and find room, made anew when they died, gone at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.study.trial import Trial
from soma.study.worker import TrialWorker, Verdicts

AGAIN = 0.5
"""Seconds after which it is looked again whether there is room for another worker."""


@dataclass(slots=True, eq=False)
class Seat:
    """One worker. `told` says who it is: "worker", its number among those of this run, and once it has begun "pid" and "node".
    `doomed`: it is being killed."""

    actor: Any
    told: dict[str, Any]
    busy: bool = False
    doomed: bool = False

    @property
    def begun(self) -> bool:
        """Whether its process is there, as far as is known."""
        return "pid" in self.told


class Crew:
    """Use it in a `with`, whose end is theirs.

    Args:
        objective: what all of them run; sent once.
        objectives: names of what it gives.
        n_jobs: how many there are at most; -1: as many as find room.
        options: of each, e.g. `{"num_cpus": 1}`.
        prunes: whether trials are judged.
    """

    def __init__(self, objective: Callable[[Trial], Any], objectives: tuple[str, ...], n_jobs: int, options: Mapping[str, Any],
                 prunes: bool) -> None:
        self._objective, self._objectives, self._options = objective, objectives, options
        self._size = n_jobs
        self._room, self._looked = 0, -1e9
        self._seats: list[Seat] = []
        self._prunes = prunes
        self.verdicts: Any = None

    def __enter__(self) -> Self:
        if self._size < 0:  # what needs nothing finds room without end
            self._size = sys.maxsize if _room(self._options) < sys.maxsize else max(1, int(cluster.cluster_resources().get("CPU", 1)))
        self._kept: Any = cluster.put(self._objective)
        if self._prunes:
            self.verdicts = cluster.remote(Verdicts).options(num_cpus=0).remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for actor in (*(seat.actor for seat in self._seats), self.verdicts):
            if actor is not None:
                cluster.kill(actor)
        self._seats, self.verdicts = [], None

    def seat(self) -> Seat | None:
        """A worker with nothing to do; a new one if there may be more; None if all have."""
        free = next((seat for seat in self._seats if not seat.busy), None)
        if free is None and len(self._seats) < self._size and self._has_room():
            taken = {seat.told["worker"] for seat in self._seats}
            number = next(n for n in range(len(taken) + 1) if n not in taken)
            made = cluster.remote(TrialWorker).options(**self._options)
            free = Seat(made.remote(self._kept, self._objectives, self.verdicts), {"worker": number})
            self._seats.append(free)
        return free

    def _has_room(self) -> bool:
        """Whether another one finds room, as far as can be seen. The first one waits for it, or is refused by name."""
        if self._room <= 0 and time.monotonic() >= self._looked + AGAIN:
            self._room = _room(self._options) - sum(not seat.begun for seat in self._seats)
            self._looked = time.monotonic()
        if self._room <= 0 and self._seats:
            return False
        self._room -= 1
        return True

    def gone(self, seat: Seat) -> None:
        """Its process died, or is to."""
        cluster.kill(seat.actor)
        self._seats.remove(seat)

    def yield_room(self) -> None:
        """There is nothing more to begin: who has nothing to do makes room for who has not found any yet."""
        if any(seat.busy and not seat.begun for seat in self._seats):
            for seat in [seat for seat in self._seats if not seat.busy]:
                self.gone(seat)


def _room(options: Mapping[str, Any]) -> int:
    """How many find room now. What a placement group has reserved cannot be seen here: there, as many as are asked for."""
    wanted = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), "memory": options.get("memory") or 0,
              **options.get("resources", {})}
    if "scheduling_strategy" in options or not any(wanted.values()):
        return sys.maxsize
    free = cluster.available_resources()
    return min(int(free.get(kind, 0.0) / each + 1e-9) for kind, each in wanted.items() if each)
