"""What a filter says of itself, checked where it is written, and what can be read off a filter.

Frozen values; a misspelt or impossible option raises at once, naming it and what is allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
        kind: "trainable" has a state, "stateless" has none, "opaque" says nothing; by default read off `fit`.
        cacheable, deterministic, differentiable, stream, version: declared here, used by caching, streaming and training.
        num_cpus, num_gpus, memory, tags: what the filter's process reserves; `memory` in bytes, enforced.
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
        if not isinstance(self.tags, tuple) or not all(isinstance(t, str) for t in self.tags):
            raise ValueError(f"tags={self.tags!r}: a tuple of strings")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FilterOptions:
        """Options from keywords; an unknown name is a TypeError that lists the known ones."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - known):
            raise TypeError(f"unknown option {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}")
        clean = dict(given)
        if isinstance(clean.get("tags"), (list, set)):
            clean["tags"] = tuple(sorted(clean["tags"]))
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
    """What was declared, else "trainable" if its class (or one that it inherits from) defines `fit`."""
    declared = options_of(filter).kind
    if declared is not None:
        return declared
    return "stateless" if getattr(type(filter), "fit", no_fit) is no_fit else "trainable"


def title_of(filter: Any) -> str:
    """The name that ids and messages are made from: the class, the function or the estimator."""
    title = getattr(filter, "__soma_title__", None)
    return str(title) if title is not None else type(filter).__name__


def label_of(filter: Any) -> str:
    """How plans show a filter: its own repr, or `Name(parameter=value)` by scikit-learn's rule that parameters are attributes."""
    if any("__repr__" in vars(c) for c in type(filter).__mro__[:-1]):
        text = repr(filter)
    else:
        cls: type = type(filter)
        held = getattr(filter, "__dict__", {})
        shown = (f"{name}={_brief(held[name])}" for name in _parameters(cls) if name in held)
        text = f"{title_of(filter)}({', '.join(shown)})"
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 80 else text[:79] + "…"


@functools.lru_cache(maxsize=1024)
def _parameters(cls: type) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(cls).parameters)
    except (ValueError, TypeError):  # no signature to read
        return ()


def _brief(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else f"<{type(value).__name__}>"
