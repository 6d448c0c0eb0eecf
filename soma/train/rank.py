"""`Rank`: the actor that trains one replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma import cluster
from soma.actors.collective import Group
from soma.filters.composite import Composite, Member
from soma.train.actorgroup import ActorGroup
from soma.train.parameter_server import ServedWorker
from soma.train.rowsource import Arrays, Items, Source
from soma.train.settings import Settings
from soma.train.torchgroup import TorchGroup
from soma.train.worker import Epoch, Worker


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank meets the others: `address` as its backend wants it; `server` is that of the weights, where there is one.

    `reducers` are those of all ranks, where these are on several machines.
    """

    rank: int
    size: int
    generation: int
    backend: str
    address: Any
    server: Any = None
    reducers: tuple[Any, ...] = ()


class Rank:
    """Of a group; may be of several, one generation after the other."""

    __soma_preload__ = ("torch._dynamo",)  # what the first optimizer of a process imports, for a second

    def __init__(self, settings: Settings, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._settings = settings
        self._group: Any = None
        self._worker: Worker | None = None

    def node(self) -> str:
        """The machine it is on."""
        return str(cluster.get_runtime_context().get_node_id())

    def begin(self, place: Place, checkpoint: str | dict[str, Any] | None, members: Sequence[Member], X: Any, y: Any) -> int:
        """Meet the others, make the model, and go to where the checkpoint is; the step it is at. `members` is the pattern; not kept.

        `checkpoint` is a file, or what such a file holds.
        """
        self._leave()
        if place.reducers:
            self._group = ActorGroup(place.reducers, place.rank, place.generation)
        elif place.backend in ("gloo", "nccl"):
            self._group = TorchGroup.join(place.address, place.rank, place.size, place.backend)
        else:
            self._group = Group.join(place.address, place.rank, place.size, place.generation)
        made = (Composite(members, own=True), self._settings, self._group, _source(X, y))
        self._worker = Worker(*made) if place.server is None else ServedWorker(*made, server=place.server, generation=place.generation)
        with self._guarded():
            self._worker.begin(Path(checkpoint) if isinstance(checkpoint, str) else checkpoint)
        return self._worker.position.step

    def epoch(self, extra: Any) -> Epoch:
        """One epoch, or the rest of it. The first rank tells the caller of each step."""
        assert self._worker is not None
        with self._guarded():
            return self._worker.epoch(self._tell if self._group.rank == 0 else _tell_nobody, extra)

    def evaluate(self, X: Any, y: Any) -> dict[str, float]:
        """Mean loss and metrics over these rows."""
        assert self._worker is not None
        with self._guarded():
            return self._worker.evaluate(_source(X, y))

    def save(self, extra: Any) -> dict[str, Any] | None:
        """See `Worker.save`."""
        assert self._worker is not None
        with self._guarded():
            return self._worker.save(extra)

    def _guarded(self) -> Any:
        return _Leaving(self._group)

    def _tell(self, **fields: Any) -> None:
        cluster.tell({"kind": "StepCompleted", **fields})

    def _leave(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._group is not None:
            self._group.close()
        self._worker = self._group = None


class _Leaving:
    """An error of this rank alone must not leave the others waiting: it breaks the group, and says why."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._group.abort(f"rank {self._group.rank} failed: {type(error).__name__}: {error}"[:2000])


def _source(X: Any, y: Any) -> Source:
    return X if isinstance(X, Items) else Arrays(X, y)


def _tell_nobody(**fields: Any) -> None:
    pass
