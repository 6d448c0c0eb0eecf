"""xoscar: each actor in a sub-pool (a process) of its own; everything runs on one event loop, as xoscar wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import xoscar as xo

from benchmarks.system import System, Work


class Actor(Work, xo.Actor):  # type: ignore[misc]
    async def drive(self, targets: list[Any], calls: int) -> None:
        await asyncio.gather(*(targets[i % len(targets)].ping() for i in range(calls)))

    async def nap(self, seconds: float) -> None:  # type: ignore[override]
        await asyncio.sleep(seconds)


class Xoscar(System):
    name = "xoscar"
    package = "xoscar"

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pool = self._run(xo.create_actor_pool("127.0.0.1", n_process=1))
        self._first = True

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def stop(self) -> None:
        self._run(self._pool.stop())
        self._loop.close()

    def actor(self) -> Any:
        return self._run(self._actor())

    async def _actor(self) -> Any:
        address = self._pool.sub_processes and next(iter(self._pool.sub_processes))
        if not self._first:
            address = await self._pool.append_sub_pool()
        self._first = False
        return await xo.create_actor(Actor, address=address)

    def release(self, actor: Any) -> None:
        self._run(self._release(actor))

    async def _release(self, actor: Any) -> None:
        address = actor.address
        await xo.destroy_actor(actor)
        await self._pool.remove_sub_pool(address)

    def method(self, actor: Any, name: str) -> Callable[..., Any]:
        remote = getattr(actor, name)
        return lambda *args: self._loop.create_task(remote(*args))

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return self._run(asyncio.wait_for(ref, timeout))

    def gather(self, refs: Sequence[Any]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*refs))

        return list(self._run(all_of_them()))

    def latencies(self, actor: Any, calls: int) -> list[float]:
        """Inside the loop: entering and leaving it for each call would not be xoscar's cost."""

        async def one_by_one() -> list[float]:
            now, taken = time.perf_counter, []
            for _ in range(calls):
                begin = now()
                await actor.ping()
                taken.append(now() - begin)
            return taken

        return list(self._run(one_by_one()))


SYSTEM = Xoscar
