"""What a predictor's code calls, catches and is decorated with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from soma.actors.context import Interrupted
from soma.serve.slots.scope import Scope
from soma.serve.slots.scope import current_scope as current_scope

F = TypeVar("F", bound=Callable[..., Any])

CancelationException = Interrupted
"""Raised in the predictor's code when its prediction is canceled. No `Exception`, so that `except Exception` lets it through."""


class ExperimentalFeatureWarning(FutureWarning):
    """Never given; there for predictors that silence it."""


def emit_metric(name: str, value: Any) -> None:
    """Record a metric of the prediction that runs here. ValueError, TypeError as `current_scope().record_metric`."""
    scope: Scope = current_scope()
    scope.record_metric(name, value)


@overload
def streaming(fn: F) -> F: ...
@overload
def streaming(fn: None = None) -> Callable[[F], F]: ...
def streaming(fn: F | None = None) -> F | Callable[[F], F]:
    """Says that a predictor's output streams. Every generator's does; this adds nothing to it."""
    return (lambda inner: inner) if fn is None else fn


@overload
def concurrent(fn: F) -> F: ...
@overload
def concurrent(fn: None = None, *, max: int = 1) -> Callable[[F], F]: ...
def concurrent(fn: F | None = None, *, max: int = 1) -> F | Callable[[F], F]:
    """How many predictions may run at once in one process: `@concurrent(max=4)` on an `async def predict`.

    Raises:
        TypeError: `max` is no integer, or more than 1 for a function that is not async.
        ValueError: it is below 1.
    """
    if isinstance(max, bool) or not isinstance(max, int):
        raise TypeError(f"concurrent: max={max!r} is no integer")
    if max < 1:
        raise ValueError(f"concurrent: max={max}; it is 1 or more")

    def mark(inner: F) -> F:
        if not callable(inner):
            raise TypeError("write @concurrent or @concurrent(max=…)")
        if max > 1 and not (inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)):
            raise TypeError(f"concurrent: max={max} is for an async function, and {inner!r} is none")
        inner.__cog_concurrent_max__ = max  # type: ignore[attr-defined]
        return inner

    return mark if fn is None else mark(fn)
