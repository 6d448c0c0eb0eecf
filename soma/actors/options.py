"""What `.options(...)` takes, checked where it is written.

Frozen values; a misspelt or impossible option raises at once, naming it and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soma.actors.strategies import SchedulingStrategy, strategy_of

NumReturns = int | Literal["streaming"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of an actor, a method or a task.

    Attributes:
        name, namespace: a named actor can be found by `soma.get_actor`.
        get_if_exists: with `name`: take the running one instead of raising.
        lifetime: None ends the actor with its last handle; "detached" keeps it until the cluster ends.
        tags: what the machine must be marked with (`soma.init(tags=…)`); a PlacementError where none is.
        num_cpus, num_gpus, memory, resources: reserved while the actor lives (a task: while it runs and is not blocked).
            `None` means 0 CPUs for actors and 1 for tasks. `memory` is in bytes and enforced.
        max_restarts: how often a dead process is made anew; -1 without end. The restart budget of the cluster still applies.
        max_task_retries, max_retries: further attempts of a call (actor) or task after its process died; 0 is at most once.
        retry_exceptions: also repeat after the user's own exceptions: True, or a list of types.
        max_concurrency: calls that may run at once; more than 1 means threads, or coroutines for async actors (default 1000).
        max_pending_calls: unanswered calls a handle may have before `PendingCallsLimitExceeded`; -1 without end.
        num_returns: how many refs a call gives; 0 gives None; "streaming" gives a generator of refs.
        timeout: seconds after which a call is cancelled and its `get` raises `GetTimeoutError`.
        runtime_env: what an actor's process runs in: {"env_vars": {…}} sets variables; {"pip": ["six>=1.16"]}, or the path of a
            requirements.txt, gives it an environment of its own, made by uv and kept for the next; {"working_dir": "code/"} takes a
            directory along. Tasks take `env_vars` only.
        scheduling_strategy: "DEFAULT", "SPREAD", "PACK", or one of those in `strategies`; on one machine all of them are the same but
            for placement groups.
        listener: of a call: a function that gets what the running method says by `soma.tell(…)`, in the order said and before
            the call's result. It is called by a thread of this process that waits for something (`get`, `wait`, an `await`).
    """

    name: str | None = None
    namespace: str | None = None
    get_if_exists: bool = False
    lifetime: Literal["detached"] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    max_restarts: int = 0
    max_task_retries: int = 0
    max_retries: int = 0
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    max_concurrency: int | None = None
    concurrency_groups: Mapping[str, int] = field(default_factory=dict)
    concurrency_group: str | None = None
    max_pending_calls: int = -1
    num_returns: NumReturns = 1
    timeout: float | None = None
    runtime_env: Mapping[str, Any] | None = None
    scheduling_strategy: SchedulingStrategy | None = None
    listener: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        for key in ("num_cpus", "num_gpus", "memory"):
            _at_least(key, getattr(self, key), 0)
        for key, amount in self.resources.items():
            if key in ("CPU", "GPU"):
                raise ValueError(f"resources={{{key!r}: …}}: use num_{key.lower()}s= for that")
            _at_least(f"resources[{key!r}]", amount, 0)
        for key in ("max_restarts", "max_task_retries", "max_retries", "max_pending_calls"):
            _at_least(key, getattr(self, key), -1)
        if self.max_concurrency is not None:
            _at_least("max_concurrency", self.max_concurrency, 1)
        if self.num_returns != "streaming" and (not isinstance(self.num_returns, int) or self.num_returns < 0):
            raise ValueError(f"num_returns={self.num_returns!r}: a number from 0, or 'streaming'")
        if self.lifetime not in (None, "detached"):
            raise ValueError(f"lifetime={self.lifetime!r}: None or 'detached'")
        if self.name is not None and not (isinstance(self.name, str) and 0 < len(self.name) <= 256):
            raise ValueError(f"name={self.name!r}: a string of 1 to 256 characters")
        if self.timeout is not None:
            _at_least("timeout", self.timeout, 0)
        if not isinstance(self.tags, tuple) or not all(isinstance(t, str) for t in self.tags):
            raise ValueError(f"tags={self.tags!r}: a tuple of strings")
        if self.scheduling_strategy is not None:
            strategy_of(self.scheduling_strategy)
        if self.runtime_env is not None:
            from soma.environments import check  # not needed by those who ask for none

            check(self.runtime_env)

    def merge(self, changes: Mapping[str, Any]) -> Options:
        """These options with some replaced; an unknown name is a TypeError that lists the known ones."""
        if not changes:
            return self
        unknown = sorted(set(changes) - _NAMES)
        if unknown:
            raise TypeError(f"unknown option {', '.join(map(repr, unknown))}; known are {', '.join(sorted(_NAMES))}")
        clean = dict(changes)
        for key in ("tags", "retry_exceptions"):
            if isinstance(clean.get(key), (list, set)):
                clean[key] = tuple(clean[key])
        return dataclasses.replace(self, **clean)



_NAMES = frozenset(f.name for f in dataclasses.fields(Options))


def _at_least(name: str, value: Any, least: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < least:
        raise ValueError(f"{name}={value!r}: a number of at least {least}")
