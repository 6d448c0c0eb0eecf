"""The standard library: a process behind a `Pipe` as the actor; a `Pool` of one for pipelined calls, where a Pipe blocks."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.system import System, Work


def serve(mine: Connection, theirs: Connection) -> None:
    theirs.close()  # a forked copy of it would keep this process from seeing its parent's end
    work = Work()
    while True:
        try:
            name, args = mine.recv()
        except EOFError:
            return
        mine.send(getattr(work, name)(*args))


def ping() -> None:
    return None


class Multiprocessing(System):
    name = "multiprocessing"
    package = "multiprocessing"
    skips = frozenset({"wait", "four", "death"})
    note = "a process behind a Pipe; pipelined calls go to a Pool(1), which has no state and does not notice a death"

    def start(self) -> None:
        self._processes: dict[Connection, mp.Process] = {}

    def stop(self) -> None:
        for actor in list(self._processes):
            self.release(actor)

    def actor(self) -> Connection:
        mine, theirs = mp.Pipe()
        process = mp.Process(target=serve, args=(theirs, mine), daemon=True)
        process.start()
        theirs.close()
        self._processes[mine] = process
        return mine

    def release(self, actor: Connection) -> None:
        process = self._processes.pop(actor)
        process.terminate()
        process.join()
        actor.close()

    def method(self, actor: Connection, name: str) -> Callable[..., Any]:
        def send(*args: Any) -> Connection:
            actor.send((name, args))
            return actor

        return send

    def get(self, ref: Connection, timeout: float | None = None) -> Any:
        return ref.recv()

    def burst(self, actor: Connection, calls: int) -> float:
        with mp.Pool(1) as pool:
            pool.apply(ping)
            begin = time.perf_counter()
            for result in [pool.apply_async(ping) for _ in range(calls)]:
                result.get()
            return time.perf_counter() - begin


SYSTEM = Multiprocessing
