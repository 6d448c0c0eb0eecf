"""What a run of a graph passes from node to node: names of values, never the values themselves unless the driver has them anyway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.filters import Shape, Stored
from soma.graph.walk import Bundle
from soma.store import Cache, Hit, combine

NOTHING: Any = object()


@dataclass(slots=True, eq=False)
class Value:
    """One value of a run: in the driver (`raw`), in an actor or on its way from one (`ref`), or in the cache (`hit`).

    `digest` is "" where there is no cache.
    """

    raw: Any = NOTHING
    ref: ObjectRef[Any] | None = None
    hit: Hit | None = None
    digest: str = ""

    @classmethod
    def of(cls, given: Any) -> Value:
        """Of what the user gave: a value, or a ref to one."""
        return cls(ref=given) if isinstance(given, ObjectRef) else cls(given)

    def argument(self, cache: Cache | None) -> Any:
        """As an argument of a call."""
        if self.ref is not None:
            return self.ref
        if self.hit is not None:
            assert cache is not None
            if self.hit.tier != "memory" and cache.spec.path is not None:
                return Stored(self.hit.digest)  # the actor reads it from the disk itself
            self.ref = cluster.put(cache.load(self.hit))
            return self.ref
        return self.raw

    def share(self) -> None:
        """It will be an argument of several calls: keep it once, under a ref."""
        if self.raw is not NOTHING and self.ref is None and self.raw is not None:
            self.ref = cluster.put(self.raw)

    def get(self, cache: Cache | None) -> Any:
        """The value, for the user."""
        if self.hit is not None and self.ref is None:
            assert cache is not None
            return cache.load(self.hit)
        return cluster.get(self.ref) if self.ref is not None else self.raw


Named = Value | Bundle
"""A value, or several under their names."""


def flattened(named: Named) -> Iterator[Value]:
    """The values, in order."""
    if isinstance(named, Bundle):
        for _, part in named.parts:
            yield from flattened(part)
    else:
        yield named


def shape_of(named: Named) -> Shape:
    """How an actor puts them together again."""
    return tuple((name, shape_of(part)) for name, part in named.parts) if isinstance(named, Bundle) else None


def digest_of(named: Named) -> str:
    """Of the whole: "" if that of any part is not known."""
    if not isinstance(named, Bundle):
        return named.digest
    parts = [(name, digest_of(part)) for name, part in named.parts]
    return combine("bundle", *(text for pair in parts for text in pair)) if all(d for _, d in parts) else ""


def got(named: Named, cache: Cache | None) -> Any:
    """As the user sees it: a value, or a dict."""
    return {name: got(part, cache) for name, part in named.parts} if isinstance(named, Bundle) else named.get(cache)


def input_of(inputs: tuple[tuple[str, Any], ...], *, named: bool) -> Named:
    """What a call gets: its only value, or all by their names. A composite (`named`) gets all by name always."""
    return inputs[0][1] if len(inputs) == 1 and not named else Bundle(inputs)
