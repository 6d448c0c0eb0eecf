"""Errors of graphs and of the filters in them."""

from __future__ import annotations

from soma.errors.root import SomaError


class GraphError(SomaError, ValueError):
    """A graph that cannot be: the message names the nodes."""


class SchemaError(GraphError):
    """A value does not fit what a filter declared, or two filters declared what cannot fit together."""


class NotFittedError(SomaError, ValueError):
    """A filter that learns was asked for its output before it had a state."""

    def __init__(self, node: str, title: str) -> None:
        super().__init__(node, title)
        self.node, self.title = node, title

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.title}) is not fitted: call fit(X, y) or load_state(...) first"


class IdentityError(SomaError, TypeError):
    """A value has no stable identity: equal ones would not be recognised as equal. `path` says which part of it is at fault."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path} cannot be hashed stably: {self.problem}"


class StreamBrokenError(SomaError):
    """A stream cannot go on by itself. `at` is the first chunk whose result was not given; the `__cause__` says what happened."""

    def __init__(self, at: int, why: str = "") -> None:
        super().__init__(at, why)
        self.at, self.why = at, why

    def __str__(self) -> str:
        return f"the stream broke at chunk {self.at}" + (f": {self.why}" if self.why else "")
