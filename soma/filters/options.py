"""What a filter says of itself, checked where it is written.

Frozen values; a misspelt or impossible option raises at once, naming it and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement

from soma.filters.schema import Schemas, schemas_of
from soma.filters.wiring import MARK

Kind = Literal["trainable", "stateless", "opaque"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("trainable", "stateless", "opaque"),
    "stream": ("fixed", "evolving", "barrier"),
}
_FLAGS = ("cacheable", "deterministic", "differentiable")
_AMOUNTS = ("num_cpus", "num_gpus", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterOptions:
    """Options of `@soma.filter(...)`.

    Attributes:
        kind: "trainable" has a state, "stateless" has none, "opaque" may do anything and is never cached; by default read off `fit`.
        cacheable: whether a graph with a cache may keep its state and outputs.
        deterministic: whether equal input, state and seed give equal output; one that is not is cached only with a seed.
        differentiable: whether torch can differentiate through `forward`. Neighbours that are share a process and are trained as one.
        stream: what chunks mean. "fixed": each by itself. "evolving": `partial_fit` after each chunk, and its state is used for
            the next one. "barrier": all chunks are collected and go through at once.
        version: takes the place of the source code in the filter's identity: change it when results change.
        num_cpus, num_gpus, memory, tags: what the filter's process reserves; `memory` in bytes, enforced.
        max_retries: how often a call is repeated after the filter's process died; 0 is at most once.
        requirements: distributions it needs, e.g. `["lightgbm>=4"]`; checked where its process starts.
        input_schema, output_schema: see `soma.Schema`; checked when the graph is compiled, and on every value.
    """

    kind: Kind | None = None
    cacheable: bool = True
    deterministic: bool = True
    differentiable: bool = False
    stream: Literal["fixed", "evolving", "barrier"] = "fixed"
    version: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    tags: tuple[str, ...] = ()
    max_retries: int = 0
    requirements: tuple[str, ...] = ()
    input_schema: Schemas | None = None
    output_schema: Schemas | None = None

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            if value not in allowed and not (key == "kind" and value is None):
                raise ValueError(f"{key}={value!r}: one of {', '.join(map(repr, allowed))}")
        for key in _FLAGS:
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key}={getattr(self, key)!r}: True or False")
        for key in _AMOUNTS:
            _check_amount(key, getattr(self, key))
        if self.version is not None and not isinstance(self.version, str):
            raise ValueError(f"version={self.version!r}: a string")
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise ValueError(f"max_retries={self.max_retries!r}: a whole number from 0")
        for key in ("tags", "requirements"):
            value = getattr(self, key)
            if not isinstance(value, tuple) or not all(isinstance(t, str) for t in value):
                raise ValueError(f"{key}={value!r}: a tuple of strings")
        for text in self.requirements:
            try:
                Requirement(text)
            except InvalidRequirement as e:
                raise ValueError(f"requirements: {text!r} is no requirement such as 'numpy>=1.26': {e}") from None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FilterOptions:
        """Options from keywords; an unknown name is a TypeError that lists the known ones."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - known):
            raise TypeError(f"unknown option {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}")
        clean = dict(given)
        for key in ("tags", "requirements"):
            if isinstance(clean.get(key), (list, set)):
                clean[key] = tuple(sorted(clean[key]))
        for key in ("input_schema", "output_schema"):
            if clean.get(key) is not None:
                clean[key] = schemas_of(key, clean[key])
        return cls(**clean)

    def reserved(self) -> dict[str, Any]:
        """What goes to the actor's own options."""
        chosen = {key: getattr(self, key) for key in _AMOUNTS if getattr(self, key) is not None}
        return chosen | ({"tags": self.tags} if self.tags else {})


def _check_amount(key: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < 0):
        raise ValueError(f"{key}={value!r}: a number from 0")


def no_fit(self: Any, x: Any, y: Any = None) -> dict[str, Any]:
    """Nothing to learn: the state of a stateless filter is `{}`."""
    return {}


def options_of(filter: Any) -> FilterOptions:
    options: FilterOptions = getattr(filter, MARK)
    return options


def kind_of(filter: Any) -> Kind:
    """What was declared, else "trainable" if its class (or one that it inherits from) defines `fit` or `partial_fit`."""
    declared = options_of(filter).kind
    if declared is not None:
        return declared
    return "trainable" if learns(filter) else "stateless"


def learns(filter: Any) -> bool:
    """Whether there is anything to fit."""
    return getattr(type(filter), "fit", no_fit) is not no_fit or learns_in_batches(filter)


def learns_in_batches(filter: Any) -> bool:
    """Whether it has `partial_fit(x, y, state)`, which goes on from a state."""
    return callable(getattr(filter, "partial_fit", None))


def title_of(filter: Any) -> str:
    """The name that ids and messages are made from: the class, the function or the estimator."""
    title = getattr(filter, "__soma_title__", None)
    return str(title) if title is not None else type(filter).__name__
