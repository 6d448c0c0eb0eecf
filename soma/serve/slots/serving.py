"""What soma itself has and serves: a filter with what it has learnt, and an actor with `forward`, as functions from named inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from soma import cluster


def served_filter(filter: Any, state: Any) -> Callable[..., Any]:
    """Its `forward` on one input, `x`; lists of numbers become arrays. An object with a `forward` that takes no state will do too."""
    if not is_filter(filter) and len(inspect.signature(filter.forward).parameters) == 1:
        return _of_one(filter.forward)
    from soma.filters.hosted import Hosted  # most slots hold no filter

    hosted = Hosted(type(filter).__name__, filter)
    if state is not None:
        hosted.take(state)

    return _of_one(hosted.forward)


def served_handle(handle: Any) -> Callable[..., Any]:
    """An actor's `forward`, in that actor."""
    return _of_one(lambda x: cluster.get(handle.forward.remote(x)))


def is_filter(value: Any) -> bool:
    """Whether it was made one by `soma.filter`."""
    return hasattr(value, "__soma_filter__") and callable(getattr(value, "forward", None))


def _of_one(forward: Callable[[Any], Any]) -> Callable[..., Any]:
    def predict(x: Any) -> Any:
        return forward(arrayed(x))

    return predict


def arrayed(x: Any) -> Any:
    """A list of numbers, or of such lists of one length, as an array; everything else as it is."""
    import numpy as np

    if not isinstance(x, list):
        return x
    try:
        found = np.asarray(x)
    except ValueError:
        return x  # lists of several lengths
    return found if found.dtype.kind in "biuf" else x
