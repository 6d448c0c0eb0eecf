"""A filter in its actor: the filter, its state, and the checks around its own code."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from packaging.requirements import Requirement

from soma.errors import GraphError, NotFittedError, SchemaError, StreamBrokenError
from soma.filters.evolving import Position, trail_after
from soma.filters.marking import fit_at_once
from soma.filters.options import kind_of, learns_in_batches, options_of, title_of
from soma.filters.reporting import say
from soma.filters.rows import batches, mismatch, rows_of
from soma.filters.schema import Schema, Schemas, problem_with
from soma.filters.summary import summary_of


class Hosted:
    """One filter and what it has learnt."""

    def __init__(self, node: str, filter: Any) -> None:
        self.node, self.filter = node, filter
        self.options = options_of(filter)
        self.fitted = kind_of(filter) == "stateless"
        self.state: Any = {}
        self._evolving: dict[str, Position] = {}
        self._checked = self.options.input_schema is not None or self.options.output_schema is not None
        _check_requirements(node, self.options.requirements)

    def forward(self, x: Any) -> Any:
        if not self.fitted:
            raise NotFittedError(self.node, title_of(self.filter))
        return self._applied(x, self.state)

    def fit(self, x: Any, y: Any) -> Any:
        """The state; it is not taken over."""
        self._check(x, y)
        return self._returned(self.filter.fit(x, y), "fit")

    def fit_in_batches(self, x: Any, y: Any, size: int) -> Any:
        """The state after all batches of `size` rows, one after the other; it is not taken over."""
        self._check(x, y)
        self._check_batches()
        rows = rows_of(x)
        if rows is None:
            raise ValueError(f"node {self.node!r}: batch_size={size}, but its input (a {type(x).__name__}) has no rows")
        filter = self.filter.with_all_targets(y) if hasattr(self.filter, "with_all_targets") else self.filter
        state: Any = {}
        done = 0
        for part, targets in batches(size, x, y):
            state = self._returned(filter.partial_fit(part, targets, state), "partial_fit")
            done += rows_of(part) or 0
            say("NodeProgress", done=float(done), total=float(rows), text="")
        return state

    def learn(self, x: Any, y: Any, *, first: bool) -> None:
        """One chunk of several; the state is taken over."""
        self._check(x, y)
        self._check_batches()
        self.take(self._returned(self.filter.partial_fit(x, y, {} if first else self.state), "partial_fit"))

    def take(self, state: Any) -> None:
        self.state, self.fitted = state, True

    def known_state(self) -> Any:
        if not self.fitted:
            raise NotFittedError(self.node, title_of(self.filter))
        return self.state

    # -- streams ---------------------------------------------------------------------------------------------------------------

    def evolve(self, run: str, chunk: int, x: Any) -> tuple[Any, str]:
        """The output for a chunk, and in words what it is; then the state moves on. It begins with what was learnt.

        Raises:
            StreamBrokenError: it is not this chunk's turn, because this process is not the one that took those before it.
        """
        before = self._evolving.get(run)
        if before is None:
            starts_empty = not self.fitted and getattr(type(self.filter), "fit", None) is fit_at_once
            before = Position({} if starts_empty else _copy(self.known_state()))
        if before.chunks != chunk:
            raise StreamBrokenError(before.chunks, f"node {self.node!r} has taken {before.chunks} chunks, and got number {chunk}")
        output = self._applied(x, before.state)
        said = summary_of(output)
        after = self._returned(self.filter.partial_fit(x, None, before.state), "partial_fit")
        self._evolving[run] = Position(after, chunk + 1, trail_after(before.trail, chunk, said))
        return output, said

    def position(self, run: str) -> Position:
        """Where it stands in a stream whose chunks it took."""
        return self._evolving[run]

    def rewind(self, run: str, to: Position | None) -> None:
        """Stand there; None is where the stream begins."""
        self._evolving.pop(run, None)
        if to is not None:
            self._evolving[run] = to

    def forget(self, run: str) -> Position | None:
        """A stream is over. Where it ended."""
        return self._evolving.pop(run, None)

    # -- checks ----------------------------------------------------------------------------------------------------------------

    def _applied(self, x: Any, state: Any) -> Any:
        if not self._checked:
            return self.filter.forward(x, state)
        sizes: dict[str, int] = {}
        self._check_schema("its input", x, self.options.input_schema, sizes)
        output = self.filter.forward(x, state)
        self._check_schema("its output", output, self.options.output_schema, sizes)
        return output

    def _check(self, x: Any, y: Any) -> None:
        problem = mismatch(x, y)
        if problem:
            raise ValueError(f"node {self.node!r} ({title_of(self.filter)}) got {problem}")
        self._check_schema("its input", x, self.options.input_schema, {})

    def _check_batches(self) -> None:
        if not learns_in_batches(self.filter):
            raise GraphError(f"node {self.node!r} ({title_of(self.filter)}) cannot learn in batches: it defines no "
                             "partial_fit(x, y, state). Define one, or fit without batch_size and stream")

    def _check_schema(self, what: str, value: Any, schema: Schemas | None, sizes: dict[str, int]) -> None:
        if schema is None:
            return
        for name, one, part in _pairs(schema, value):
            problem = problem_with(part, one, sizes)
            if problem:
                raise SchemaError(f"node {self.node!r} ({title_of(self.filter)}): {what}{f' from {name!r}' if name else ''}: {problem}")

    def _returned(self, state: Any, what: str) -> Any:
        if state is None or state is self.filter:
            said = "None" if state is None else "the filter itself"
            raise TypeError(f"{what} of node {self.node!r} ({title_of(self.filter)}) returned {said}; "
                            "it must return what it learnt, e.g. {'mean': x.mean(0)}")
        return state


def _pairs(schema: Schemas, value: Any) -> list[tuple[str, Schema, Any]]:
    """(name, schema, value) for each part that has a schema."""
    if isinstance(schema, Schema):
        return [(k, schema, v) for k, v in value.items()] if isinstance(value, Mapping) else [("", schema, value)]
    held = value if isinstance(value, Mapping) else {}
    return [(name, one, held.get(name)) for name, one in schema.items()]


def _copy(state: Any) -> Any:
    import copy

    return copy.deepcopy(state)


def _check_requirements(node: str, requirements: tuple[str, ...]) -> None:
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            raise GraphError(f"node {node!r} requires {text!r}, and {wanted.name} is not installed here: pip install {text!r}") from None
        if not wanted.specifier.contains(found, prereleases=True):
            raise GraphError(f"node {node!r} requires {text!r}, and {wanted.name} {found} is installed here")
