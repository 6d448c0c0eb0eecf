"""How long a stream lasts: which deaths it survives, what it keeps for that, and what another program needs to go on with it.

A checkpoint is a file of states as `Graph.save` writes them: whole or not at all, and reading it executes no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Self

from soma.errors import GraphError
from soma.filters import Position
from soma.store.checkpoint import read_states, write_states

EVERY = 16
"""Chunks between two looks at the states of evolving nodes, where nobody says."""


@dataclass(frozen=True, slots=True)
class StreamCheckpoint:
    """How far a stream has come.

    Attributes:
        index: chunks whose results were given: the number of the next.
        base: the chunk before which `positions` are; from there chunks go through again, those before `index` without a result.
        graph: the graph's formula.
        positions: where evolving nodes stood before chunk `base`, by id; none where they had not begun.
    """

    index: int
    base: int
    graph: str
    positions: Mapping[str, Position] = field(default_factory=dict)

    def save(self, path: str | PathLike[str], *, allow_pickle: bool = False) -> Path:
        """Write it, whole or not at all. `allow_pickle` as in `Graph.save`."""
        told = {"index": self.index, "base": self.base, "graph": self.graph}
        states = {node: tuple(position) for node, position in self.positions.items()}
        write_states({"stream": told, "positions": states}, Path(path), allow_pickle=allow_pickle)
        return Path(path)

    @classmethod
    def load(cls, path: str | PathLike[str], *, allow_pickle: bool = False) -> Self:
        """Read what `save` wrote.

        Raises:
            GraphError: it is no checkpoint of a stream, or damaged.
        """
        found = read_states(Path(path), allow_pickle=allow_pickle)
        try:
            told = found["stream"]
            return cls(told["index"], told["base"], told["graph"], {node: Position(*p) for node, p in found["positions"].items()})
        except (KeyError, TypeError) as e:
            raise GraphError(f"{path} is no checkpoint of a stream: {type(e).__name__}: {e}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """Options of `Graph.stream`; see there.

    Raises:
        ValueError: one that cannot be; named.
    """

    max_restarts: int = 0
    retain: int = 64
    checkpoint_every: int | None = None
    checkpoint_path: Path | None = None
    allow_pickle: bool = False
    resume: StreamCheckpoint | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_restarts", 0), ("retain", 1), ("checkpoint_every", 1)):
            value = getattr(self, name)
            if value is None and name == "checkpoint_every":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: a whole number from {least}")
        if self.checkpoint_every is not None and self.max_restarts and self.checkpoint_every > self.retain:
            raise ValueError(f"checkpoint_every={self.checkpoint_every} with retain={self.retain}: chunks are kept until states are taken, "
                             "so at least as many must be")

    @property
    def every(self) -> int | None:
        """Chunks between two looks at the states of evolving nodes; None never looks."""
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        return min(EVERY, self.retain) if self.max_restarts or self.checkpoint_path is not None else None

    def is_due(self, chunk: int) -> bool:
        """Whether they are looked at behind this chunk."""
        return self.every is not None and (chunk + 1) % self.every == 0

    def checked(self, graph: str) -> None:
        """GraphError if the checkpoint is of another graph."""
        if self.resume is not None and self.resume.graph != graph:
            raise GraphError(f"resume: the checkpoint is of the graph {self.resume.graph}, and this is {graph}")
