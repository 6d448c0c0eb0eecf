"""soma."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import soma
from benchmarks.system import System, Work


class Actor(Work):
    def drive(self, targets: list[Any], calls: int) -> None:
        soma.get([targets[i % len(targets)].ping.remote() for i in range(calls)])


class Soma(System):
    name = "soma"
    package = "soma"
    note = "imports lazily: what is loaded at first use is counted in init, not in the import"

    def start(self) -> None:
        soma.init(num_cpus=4)
        self._remote = soma.remote(Actor)

    def stop(self) -> None:
        soma.shutdown()

    def actor(self) -> Any:
        return self._remote.remote()

    def release(self, actor: Any) -> None:
        soma.kill(actor)

    def method(self, actor: Any, name: str) -> Callable[..., Any]:
        remote: Callable[..., Any] = getattr(actor, name).remote
        return remote

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return soma.get(ref, timeout=timeout)

    def gather(self, refs: Sequence[Any]) -> list[Any]:
        return list(soma.get(list(refs)))

    def wait(self, refs: Sequence[Any]) -> None:
        soma.wait(list(refs), num_returns=len(refs))


SYSTEM = Soma
