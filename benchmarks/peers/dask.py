"""Dask's actors, on a local cluster of four worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.system import System, Work


class Actor(Work):
    async def drive(self, targets: list[Any], calls: int) -> None:
        """Asynchronous, because all actors of a worker share one thread: waiting in it for a neighbour would be for ever."""
        for future in [targets[i % len(targets)].ping() for i in range(calls)]:
            await future


class Dask(System):
    name = "dask"
    package = "distributed"
    note = "actors share four worker processes: a further actor is no further process"

    def start(self) -> None:
        self._cluster = LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)
        self._made = 0

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()

    def actor(self) -> Any:
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        self._made += 1
        return self._client.submit(Actor, actor=True, pure=False, workers=[workers[self._made % len(workers)]]).result()

    def release(self, actor: Any) -> None:
        """The last reference does it."""

    def method(self, actor: Any, name: str) -> Callable[..., Any]:
        remote: Callable[..., Any] = getattr(actor, name)
        return remote

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return ref.result(timeout)

    def gather(self, refs: Sequence[Any]) -> list[Any]:
        return [ref.result() for ref in refs]


SYSTEM = Dask
