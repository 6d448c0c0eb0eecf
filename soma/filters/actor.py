"""The actor that runs one filter in a process of its own. Its state stays here until somebody asks for it.

Inputs come as separate arguments, so that refs to other actors' values arrive as the values: what flows between two filters
never passes through the driver. A value is never made up: a filter that has not learnt says so.
"""

from __future__ import annotations

import os
from typing import Any

from soma.errors import NotFittedError
from soma.filters.options import kind_of, title_of


class FilterActor:
    """One filter, its state, and the commands of a graph.

    `names` says how many inputs a call has: empty for one value, else the predecessors' ids in the order of `values`, which
    the filter then gets as a dict.
    """

    def __init__(self, filter: Any, node: str) -> None:
        self._filter = filter
        self._node = node
        self._fitted = kind_of(filter) == "stateless"
        self._state: Any = {}

    def fit(self, y: Any, names: tuple[str, ...], *values: Any) -> None:
        """Learn from the inputs and targets; the state stays here."""
        self._learn(_input(names, values), y)

    def fit_forward(self, y: Any, names: tuple[str, ...], *values: Any) -> Any:
        """`fit`, then `forward` of the same inputs, which are sent once."""
        x = _input(names, values)
        self._learn(x, y)
        return self._filter.forward(x, self._state)

    def forward(self, names: tuple[str, ...], *values: Any) -> Any:
        if not self._fitted:
            raise NotFittedError(self._node, title_of(self._filter))
        return self._filter.forward(_input(names, values), self._state)

    def get_state(self) -> Any:
        if not self._fitted:
            raise NotFittedError(self._node, title_of(self._filter))
        return self._state

    def set_state(self, state: Any) -> None:
        self._state, self._fitted = state, True

    def pid(self) -> int:
        """The process that runs this filter."""
        return os.getpid()

    def _learn(self, x: Any, y: Any) -> None:
        state = self._filter.fit(x, y)
        if state is None or state is self._filter:
            said = "None" if state is None else "the filter itself"
            raise TypeError(f"fit of node {self._node!r} ({title_of(self._filter)}) returned {said}; "
                            "it must return what it learnt, e.g. {'mean': x.mean(0)}")
        self._state, self._fitted = state, True


def _input(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return dict(zip(names, values, strict=True)) if names else values[0]
