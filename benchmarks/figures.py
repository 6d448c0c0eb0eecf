"""What is measured, in which unit, and what soma promises about it.

`FIGURES` are the rows of the table; `EXTRAS` are measured for a promise only. Sizes are decimal: 1 MB is 10**6 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    key: str
    title: str
    unit: str
    lower_is_better: bool = True
    charted: bool = True


FIGURES: tuple[Figure, ...] = (
    Figure("import", "import of the package", "ms", charted=False),
    Figure("init", "init to the first answered call, fresh process", "s"),
    Figure("first_actor", "first actor, to its first answer", "ms", charted=False),
    Figure("further_actor", "each further actor, to its first answer", "ms"),
    Figure("actor_pss", "memory of an idle actor process (PSS)", "MB"),
    Figure("helpers_pss", "memory of all helper processes (PSS)", "MB"),
    Figure("sync", "synchronous call (p50)", "µs"),
    Figure("raw_sync", "raw round trip in blocks that alternate with those calls (p50)", "µs", charted=False),
    Figure("sync_ratio", "synchronous call ÷ that raw round trip", "×", charted=False),
    Figure("pipelined", "pipelined calls to one actor", "calls/s", lower_is_better=False),
    Figure("four", "calls to 4 actors from 4 callers", "calls/s", lower_is_better=False),
    Figure("wait", "1,000 calls, then one wait for all", "ms"),
    Figure("argument_1", "argument of 1 MB", "GB/s", lower_is_better=False),
    Figure("argument_10", "argument of 10 MB", "GB/s", lower_is_better=False),
    Figure("argument_100", "argument of 100 MB", "GB/s", lower_is_better=False),
    Figure("result_1", "result of 1 MB", "GB/s", lower_is_better=False),
    Figure("result_10", "result of 10 MB", "GB/s", lower_is_better=False),
    Figure("result_100", "result of 100 MB", "GB/s", lower_is_better=False),
    Figure("death", "death of an actor to the error of 100 waiting calls", "ms"),
    Figure("driver_killed", "driver killed with SIGKILL to nothing left", "s"),
)

EXTRAS: tuple[Figure, ...] = (
    Figure("heavy_imports", "torch and sklearn loaded by the import", "packages"),
)

Medians = Callable[[str, str], float | None]
"""The median of a figure of a system over all rounds; None where there is none."""


@dataclass(frozen=True, slots=True)
class Promise:
    title: str
    at_most: bool
    limit: float
    unit: str
    value: Callable[[Medians], float | None]

    def wanted(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:,g} {self.unit}".rstrip()

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def _of(key: str) -> Callable[[Medians], float | None]:
    return lambda median: median("soma", key)


def _against(key: str, *peers: str) -> Callable[[Medians], float | None]:
    """soma's figure divided by the largest of those peers that were measured."""

    def ratio(median: Medians) -> float | None:
        mine, theirs = median("soma", key), [v for p in peers if (v := median(p, key))]
        return mine / max(theirs) if mine is not None and theirs else None

    return ratio


PEERS = ("ray", "dask", "xoscar")

PROMISES: tuple[Promise, ...] = (
    Promise("synchronous call ÷ raw round trip", True, 1.8, "×", _of("sync_ratio")),
    Promise("synchronous call ÷ Ray's", True, 0.2, "×", _against("sync", "ray")),
    Promise("pipelined calls to one actor", False, 25_000, "calls/s", _of("pipelined")),
    Promise("pipelined calls ÷ Ray's", False, 10, "×", _against("pipelined", "ray")),
    Promise("argument of 10 MB", False, 3, "GB/s", _of("argument_10")),
    Promise("argument of 100 MB", False, 5, "GB/s", _of("argument_100")),
    Promise("argument of 10 MB ÷ the best of Ray, Dask, xoscar", False, 1, "×", _against("argument_10", *PEERS)),
    Promise("argument of 100 MB ÷ the best of Ray, Dask, xoscar", False, 1, "×", _against("argument_100", *PEERS)),
    Promise("result of 10 MB", False, 2.5, "GB/s", _of("result_10")),
    Promise("result of 100 MB", False, 4, "GB/s", _of("result_100")),
    Promise("`import soma`", True, 150, "ms", _of("import")),
    Promise("torch and sklearn loaded by `import soma`", True, 0, "packages", _of("heavy_imports")),
    Promise("init to the first answered call", True, 0.6, "s", _of("init")),
    Promise("each further actor, to its first answer", True, 25, "ms", _of("further_actor")),
    Promise("memory of an idle actor process (PSS)", True, 15, "MB", _of("actor_pss")),
    Promise("death of an actor to every waiting call's error", True, 50, "ms", _of("death")),
    Promise("driver killed with SIGKILL to nothing left", True, 2, "s", _of("driver_killed")),
)
