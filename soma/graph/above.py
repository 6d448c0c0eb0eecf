"""What is built upon graphs, and reached by a graph's verb (`graph.study`): filled in from above, so that graphs import nothing of it.

The facade fills it in when it hands out `soma.Graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_offered: dict[str, Callable[[], Callable[..., Any]]] = {}


def offer(verb: str, load: Callable[[], Callable[..., Any]]) -> None:
    """From now on `load()` gives what a verb calls. It is called when the verb is, so that nothing is imported before."""
    _offered[verb] = load


def offered(verb: str) -> Callable[..., Any]:
    """What a verb of a graph calls, with the graph first.

    Raises:
        RuntimeError: nobody has offered it: soma was never asked for `soma.Graph`, nor for that part of it.
    """
    if verb not in _offered:
        raise RuntimeError(f"graph.{verb}: nothing was imported that does it; take Graph from soma: soma.Graph, not soma.graph.Graph")
    return _offered[verb]()
