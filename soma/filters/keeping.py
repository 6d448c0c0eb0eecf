"""An actor's side of the cache: what is made here is hashed here, stored before it is answered, and made once for all processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from soma.errors import CacheError, CacheMissError
from soma.filters.summary import summary_of
from soma.filters.tasks import Keeping, Stored
from soma.store import Cache, CacheSpec, Made, digest


@dataclass(frozen=True, slots=True)
class Kept:
    """A value and its digest ("" without a cache); `tier` is where it was found, "" if it was made."""

    value: Any
    digest: str = ""
    tier: str = ""
    warning: str = ""


class Keeper:
    """Opens the cache when it is first needed. Without one, values are made, and hashed if the task asks for it."""

    def __init__(self, spec: CacheSpec | None) -> None:
        self._spec = spec
        self._cache: Cache | None = None

    def state(self, keeping: Keeping | None, make: Callable[[], Any]) -> Kept:
        if keeping is None:
            return Kept(make())
        return self._kept(keeping, keeping.state_key, "fit", keeping.store_state, make)

    def output(self, keeping: Keeping | None, state: str, node: str, make: Callable[[], Any]) -> Kept:
        if keeping is None:
            return Kept(make())
        return self._kept(keeping, keeping.output_key(state, node), f"forward {node}".strip(), keeping.store_output, make)

    def read(self, stored: Stored) -> Any:
        """A value that the driver knows to be in the cache.

        Raises:
            CacheMissError: it is not, or not any more.
        """
        return self._open().load_value(stored.digest)

    def _open(self) -> Cache:
        if self._cache is None:
            assert self._spec is not None
            self._cache = Cache.open(self._spec)
        return self._cache

    def _kept(self, keeping: Keeping, key: str, what: str, store: bool, make: Callable[[], Any]) -> Kept:
        part = "the state" if what == "fit" else "the output"
        if self._spec is None or not store:
            value = make()
            return Kept(value, digest(value, part))
        cache = self._open()
        with ExitStack() as alone:
            try:
                alone.enter_context(cache.only_once(key))
            except CacheError as e:  # its directory is gone, or cannot be written to
                value = make()
                return Kept(value, digest(value, part), warning=str(e))
            hit = cache.find(key)  # somebody else may have made it since the driver looked
            if hit is not None:
                try:
                    return Kept(cache.load(hit), hit.digest, hit.tier)
                except CacheMissError:
                    hit = None  # damaged, and removed by that: make it
            began = time.perf_counter()
            value = make()
            ms = (time.perf_counter() - began) * 1e3
            hashed = digest(value, part)
            made = Made(f"{keeping.title} {what}", keeping.parts, ms, time.time(), summary_of(value), keeping.run)
            try:
                cache.store(key, value, hashed, made)
            except CacheError as e:
                return Kept(value, hashed, warning=str(e))
            return Kept(value, hashed)
