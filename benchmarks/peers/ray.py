"""Ray, without its dashboard and log forwarding."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # silences a warning about a future default

import ray

from benchmarks.system import System, Work


class Actor(Work):
    def drive(self, targets: list[Any], calls: int) -> None:
        ray.get([targets[i % len(targets)].ping.remote() for i in range(calls)])


class Ray(System):
    name = "ray"
    package = "ray"

    def start(self) -> None:
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._remote = ray.remote(Actor)

    def stop(self) -> None:
        ray.shutdown()

    def actor(self) -> Any:
        return self._remote.remote()

    def release(self, actor: Any) -> None:
        ray.kill(actor)

    def method(self, actor: Any, name: str) -> Callable[..., Any]:
        remote: Callable[..., Any] = getattr(actor, name).remote
        return remote

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return ray.get(ref, timeout=timeout)

    def gather(self, refs: Sequence[Any]) -> list[Any]:
        return list(ray.get(list(refs)))

    def wait(self, refs: Sequence[Any]) -> None:
        ray.wait(list(refs), num_returns=len(refs))


SYSTEM = Ray
