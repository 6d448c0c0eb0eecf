"""What a system must offer to be measured, and the actor that is measured.

Every peer module subclasses `System` with the few verbs that are its own; how a figure is taken is written once, in
`steps.py`, so that all are asked the same. Nothing heavy is imported here: it would be missing from the `init` figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar


class Work:
    """The actor. Peers subclass it, some with `async` methods, all with their own `drive`."""

    def ping(self) -> None:
        return None

    def pid(self) -> int:
        return os.getpid()

    def take(self, x: Any) -> float:
        """Reads both ends of the argument: this measures delivery, not how fast memory can be read."""
        return float(x[0] + x[-1] + x.nbytes)

    def hold(self, nbytes: int) -> None:
        import numpy as np

        self.held = np.ones(nbytes // 8)

    def give(self, first: float) -> Any:
        """The held array; its first element changes with each call, so no reply can be a remembered one."""
        self.held[0] = first
        return self.held

    def nap(self, seconds: float) -> None:
        time.sleep(seconds)


class System:
    """One system; `actor`, `method` and `get` are its verbs, the rest has defaults made from them."""

    name: ClassVar[str]
    package: ClassVar[str]
    skips: ClassVar[frozenset[str]] = frozenset()
    """Steps ("import", "start", those of `steps.STEPS`, "driver_killed") that mean nothing for this system."""
    note: ClassVar[str] = ""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def actor(self) -> Any:
        """A new actor, in a process of its own where the system can do that."""
        raise NotImplementedError

    def release(self, actor: Any) -> None:
        """The actor is not needed any more."""
        raise NotImplementedError

    def method(self, actor: Any, name: str) -> Callable[..., Any]:
        """A function that sends one call and returns its ref."""
        raise NotImplementedError

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        raise NotImplementedError

    def gather(self, refs: Sequence[Any]) -> list[Any]:
        return [self.get(ref) for ref in refs]

    def wait(self, refs: Sequence[Any]) -> None:
        """Until all are done."""
        self.gather(refs)

    def call(self, actor: Any, name: str, *args: Any) -> Any:
        return self.get(self.method(actor, name)(*args))

    def latencies(self, actor: Any, calls: int) -> list[float]:
        """Seconds of each of `calls` calls of `ping`, one after the other."""
        ping, get, now, taken = self.method(actor, "ping"), self.get, time.perf_counter, []
        for _ in range(calls):
            begin = now()
            get(ping())
            taken.append(now() - begin)
        return taken

    def burst(self, actor: Any, calls: int) -> float:
        """Seconds for `calls` calls of `ping`, all sent before the first answer is asked for."""
        ping = self.method(actor, "ping")
        begin = time.perf_counter()
        self.gather([ping() for _ in range(calls)])
        return time.perf_counter() - begin
