"""`current_scope()`: what the user's code can reach of the prediction it runs in: its metrics, its context.

Outside of a prediction there is a scope too, whose metrics are checked and forgotten.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from soma.serve.slots.metrics import Metrics

Told = Callable[[str, Any, str], None]


class MetricRecorder:
    """Metrics like a dict: `metrics["tokens"] = 3`, `del metrics["tokens"]`."""

    def __init__(self, told: Told) -> None:
        self._metrics, self._told = Metrics(), told
        self._lock = threading.Lock()

    def record(self, name: str, value: Any, mode: str = "replace") -> None:
        """As `Scope.record_metric`."""
        with self._lock:
            full = self._metrics.record(name, value, mode)
            self._told(name, value, full)

    def __setitem__(self, name: str, value: Any) -> None:
        self.record(name, value)

    def __getitem__(self, name: str) -> Any:
        return self._metrics.get(name)

    def __delitem__(self, name: str) -> None:
        self._metrics.get(name)
        self.record(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._metrics

    def __len__(self) -> int:
        return len(self._metrics)

    def get(self, name: str, default: Any = None) -> Any:
        return self._metrics.get(name) if name in self._metrics else default

    def nested(self) -> dict[str, Any]:
        return self._metrics.nested()


class Scope:
    """One prediction, seen from inside.

    Attributes:
        metrics: as a dict.
        context: what the request gave, e.g. `traceparent`.
    """

    def __init__(self, told: Told, context: Mapping[str, Any]) -> None:
        self.metrics = MetricRecorder(told)
        self.context: Mapping[str, Any] = MappingProxyType(dict(context))

    def record_metric(self, key: str, value: Any, mode: str = "replace") -> None:
        """Record a metric of this prediction; None deletes it.

        Args:
            key: letters, digits and underscores; dots make levels. At most 128 characters and 4 levels.
            value: bool, int, float, str, list or dict.
            mode: "replace", "increment" (or "incr"), "append".

        Raises:
            ValueError, TypeError: as `Metrics.record`.
        """
        self.metrics.record(key, value, mode)


SCOPE: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("soma_serve_scope", default=None)
"""Of the coroutine, or of the thread, that runs a prediction."""
_alone: list[Scope] = []
"""Of the only prediction that runs in this process, for threads that its code made: they have a context of their own."""


@contextmanager
def inside(scope: Scope, *, alone: bool) -> Iterator[None]:
    """A prediction runs here, `alone` in its process or beside others."""
    token = SCOPE.set(scope)
    _alone[:] = [scope] if alone else []
    try:
        yield
    finally:
        _alone.clear()
        SCOPE.reset(token)


def current_scope() -> Scope:
    """The scope of the prediction that runs here, in this thread or coroutine."""
    return SCOPE.get() or next(iter(_alone), None) or Scope(_forget, {})


def _forget(name: str, value: Any, mode: str) -> None:
    """What is recorded outside of a prediction belongs to none."""
