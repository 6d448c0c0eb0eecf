"""The ranks of one training: their processes and their group, one generation after the other.

`verdict` decides what the outcomes of one call to all ranks mean: pure. `Crew` makes processes, calls all of them at once, and makes anew
what died.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.actors.collective import AllReduce
from soma.actors.strategies import NodeAffinitySchedulingStrategy
from soma.errors import ActorDiedError, ActorInitError, GroupBrokenError, PlacementError, TaskCancelledError
from soma.train.parameter_server import ParameterServer
from soma.train.rank import Place, Rank
from soma.train.sections import SectionReducer
from soma.train.sites import Site, room, site_of
from soma.train.torchgroup import Store


class RanksLost(Exception):
    """Ranks died, or where they met did: the generation is over. `ranks` are the dead ones."""

    def __init__(self, ranks: tuple[int, ...], reason: BaseException) -> None:
        super().__init__(str(reason))
        self.ranks, self.reason = ranks, reason


def verdict(outcomes: Sequence[BaseException | None]) -> BaseException | None:
    """What the ranks' outcomes (None is success) mean together: the error to raise; None if all went well.

    An error of somebody's own code comes first, then deaths; that others found their group broken follows from either.
    """
    deaths = {r: e for r, e in enumerate(outcomes) if isinstance(e, ActorDiedError) and not isinstance(e, ActorInitError)}
    follows = (GroupBrokenError, TaskCancelledError, ActorDiedError)
    own = next((e for e in outcomes if e is not None and (isinstance(e, ActorInitError) or not isinstance(e, follows))), None)
    if own is not None:
        return own
    if deaths:
        return RanksLost(tuple(deaths), next(iter(deaths.values())))
    broken = next((e for e in outcomes if isinstance(e, GroupBrokenError)), None)
    if broken is not None:
        return RanksLost((), broken)
    return next((e for e in outcomes if e is not None), None)


@dataclass(frozen=True, slots=True)
class Job:
    """What every rank is given: `make` are the arguments of `Rank`, `data` those of each `begin`: refs to the members, X and y.

    `backend` as it was asked for: see `sites`.
    """

    make: tuple[Any, ...]
    options: Mapping[str, Any]
    backend: str
    data: tuple[Any, Any, Any]


class Crew:
    """Of `size` ranks; use it in a `with`, which ends their processes."""

    def __init__(self, job: Job, size: int) -> None:
        self.size, self.generation = size, -1
        self._job = job
        self._site = Site(job.backend)
        self._ranks: list[Any] = []
        self._meeting: Any = None
        self._reducers: dict[Any, Any] = {}
        self._server: Any = None

    @property
    def ranks(self) -> Sequence[Any]:
        """Handles of the actors."""
        return self._ranks

    @property
    def room(self) -> int:
        """How many ranks the machines that are left can hold, up to `size`. Where all must be on one, choosing that one tells."""
        return room(self._job.options, cluster.machines(), self.size) if self._site.far else self.size

    def begin(self, checkpoint: Any) -> int:
        """A new generation: make the processes that are missing, let all meet, and go to the checkpoint; the step it is at.

        `checkpoint` is a file that all ranks can read, or a ref to what it holds; None begins anew.
        """
        self.generation += 1
        if not self._ranks:
            self._settle()
        backend = self._site.backend
        address = "" if self._site.far else self._address(backend)
        made = cluster.remote(Rank).options(**self._job.options, **self._together())
        self._ranks += [made.remote(*self._job.make) for _ in range(self.size - len(self._ranks))]
        reducers = self._beside_each() if self._site.far else ()
        if backend == "parameter_server":
            if self._server is not None:
                cluster.kill(self._server)  # what it held, the checkpoint has; and perhaps it is what died
            self._server = cluster.remote(ParameterServer).options(num_cpus=0).remote(self._job.data[0], self._job.make[0])
        places = [Place(r, self.size, self.generation, backend, address, self._server, reducers) for r in range(self.size)]
        steps: list[int] = self._gather([rank.begin.remote(place, checkpoint, *self._job.data)
                                         for rank, place in zip(self._ranks, places, strict=True)])
        return steps[0]

    def _settle(self) -> None:
        """No rank is anywhere: choose where they will be. Where they were is best, then where this process is."""
        here = cluster.get_runtime_context().get_node_id()
        old = self._site.node
        self._site = site_of(self._job.backend, self.size, self._job.options, cluster.machines(), (old, here))
        if self._meeting is not None and self._site.node != old:
            cluster.kill(self._meeting)
            self._meeting = None

    def _together(self) -> dict[str, Any]:
        """Ranks that share memory, and where they meet, are on one machine."""
        return {} if self._site.node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(self._site.node)}

    def _address(self, backend: str) -> Any:
        if backend in ("gloo", "nccl"):
            return *self._meet_at(Store), str(self.generation)
        return self._meet_at(AllReduce) if self.size > 1 else ""

    def _meet_at(self, kind: type) -> Any:
        if self._meeting is not None:
            with contextlib.suppress(ActorDiedError):  # then a new one takes its place
                return cluster.get(self._meeting.address.remote())
        self._meeting = cluster.remote(kind).options(num_cpus=0, **self._together()).remote()
        return cluster.get(self._meeting.address.remote())

    def _beside_each(self) -> tuple[Any, ...]:
        """A reducer on the machine of every rank, all of this generation; those of ranks that are no more end.

        Raises:
            RanksLost: a rank died meanwhile, or a machine.
        """
        nodes = self._gather([rank.node.remote() for rank in self._ranks])
        for rank in [rank for rank in self._reducers if rank not in self._ranks]:
            cluster.kill(self._reducers.pop(rank))
        for _ in range(2):  # the second time for those that had died
            for rank, node in zip(self._ranks, nodes, strict=True):
                if rank not in self._reducers:
                    there = NodeAffinitySchedulingStrategy(node)
                    self._reducers[rank] = cluster.remote(SectionReducer).options(num_cpus=0, scheduling_strategy=there).remote()
            begun = {rank: self._reducers[rank].begin.remote(r, self.size, self.generation) for r, rank in enumerate(self._ranks)}
            error: BaseException | None = None
            for rank, ref in begun.items():
                try:
                    cluster.get(ref)
                except ActorInitError:
                    raise
                except (ActorDiedError, PlacementError) as e:
                    error = e
                    del self._reducers[rank]
            if error is None:
                return tuple(self._reducers[rank] for rank in self._ranks)
        raise RanksLost((), error or GroupBrokenError("no reducer"))

    def each(self, method: str, *args: Any, listener: Callable[[dict[str, Any]], None] | None = None) -> list[Any]:
        """Call all ranks at once; what each gave.

        Raises:
            RanksLost: some died; their handles are gone from `ranks`, and another `begin` goes on.
            Exception: what the code of one raised, with a note that names the rank.
        """
        calls = [getattr(rank, method) for rank in self._ranks]
        if listener is not None:
            calls[0] = calls[0].options(listener=listener)
        return self._gather([call.remote(*args) for call in calls])

    def _gather(self, refs: list[Any]) -> list[Any]:
        values: list[Any] = [None] * len(refs)
        outcomes: list[BaseException | None] = [None] * len(refs)
        where = {ref: r for r, ref in enumerate(refs)}
        waiting = list(refs)
        try:
            while waiting:
                done, waiting = cluster.wait(waiting, num_returns=1)
                for ref in done:
                    r = where[ref]
                    try:
                        values[r] = cluster.get(ref)
                    except Exception as e:
                        outcomes[r] = e
                        self._end_generation(e, r, waiting)
        except BaseException:  # Ctrl-C, say
            for ref in waiting:
                cluster.cancel(ref)
            raise
        error = verdict(outcomes)
        if isinstance(error, RanksLost):
            self._ranks = [rank for r, rank in enumerate(self._ranks) if r not in error.ranks]
        elif error is not None and error in outcomes:
            error.add_note(f"at rank {outcomes.index(error)} of {self.size}")
        if error is not None:
            raise error
        return values

    def _end_generation(self, error: BaseException, rank: int, waiting: Sequence[Any]) -> None:
        """One rank failed: let nobody wait for it, and interrupt what still runs."""
        why = f"rank {rank} failed: {type(error).__name__}: {error}"[:1000]
        for actor in (self._meeting, self._server, *self._reducers.values()):
            if hasattr(actor, "dissolve"):
                actor.dissolve.remote(self.generation, why)
        for ref in waiting:
            cluster.cancel(ref)

    def close(self) -> None:
        for actor in (*self._ranks, self._meeting, self._server, *self._reducers.values()):
            if actor is not None:
                cluster.kill(actor)
        self._ranks, self._meeting, self._server, self._reducers = [], None, None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
