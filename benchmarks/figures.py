"""What a benchmark measures, in which unit, and what soma promises about it. Sizes are decimal: 1 MB is 10**6 bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    key: str
    title: str
    unit: str
    lower_is_better: bool = True
    charted: bool = True


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


@dataclass(frozen=True, slots=True)
class Subject:
    """One benchmark.

    Attributes:
        name: of its files in `results/` and of its markers in the README.
        title: of its picture.
        figures: the rows of the table; `extras` are measured for a promise only.
        step_of: figure → the step it comes from, where the names differ.
        labels: how systems are called in the picture, where it is not by their names.
    """

    name: str
    title: str
    figures: tuple[Figure, ...]
    promises: tuple[Promise, ...]
    extras: tuple[Figure, ...] = ()
    step_of: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def of(key: str) -> Callable[[Medians], float | None]:
    return lambda median: median("soma", key)


def against(key: str, *peers: str) -> Callable[[Medians], float | None]:
    """soma's figure divided by the largest of those peers that were measured."""

    def ratio(median: Medians) -> float | None:
        mine, theirs = median("soma", key), [v for p in peers if (v := median(p, key))]
        return mine / max(theirs) if mine is not None and theirs else None

    return ratio
