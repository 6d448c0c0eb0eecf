"""`SectionReducer`: the actor that combines one section of the arrays of all ranks. There is one beside each rank (see `actorgroup`).

`Rounds` decides what a contribution means: pure. A round is one piece of one call; it is over when every rank has given its part, or when
the generation is. Parts are combined in the order of the shared-memory group (the section's own rank, then the others by number), so the
bits are those of that group. A rank's parts come in the order in which it sent them: one that is not behind its last is a repeat. Repeats
and parts of a generation that is over are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from soma.actors import current
from soma.actors.collective import reducing
from soma.actors.collective.reducing import Array
from soma.errors import GroupBrokenError

TAKE, STACK = "take", "stack"
"""What is done besides the operations of `reducing`: give everybody the one part that is there; give everybody all parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank gives to a round: `values` of a section; None where a `TAKE` wants another rank's.

    `call` and `turn` number the round, `what` describes the call and must be the same at every rank. `wanted` is whether this rank is to
    have the result; `check`, whether to look for NaN and infinity in it.
    """

    generation: int
    rank: int
    call: int
    turn: int
    what: str
    how: str
    dtype: str
    values: Array | None
    wanted: bool = True
    check: bool = False


@dataclass(slots=True, eq=False)
class Round:
    """Parts by rank, until all are there; then the result, and whether it is finite."""

    parts: dict[int, Part] = field(default_factory=dict)
    result: Array | None = None
    finite: bool = True
    error: Exception | None = None
    over: bool = False


class Rounds:
    """Those of one generation of `size` ranks, for the section of rank `section`."""

    def __init__(self, section: int, size: int, generation: int) -> None:
        self.generation = generation
        self._section, self._size = section, size
        self._open: dict[tuple[int, int], Round] = {}
        self._last: dict[int, tuple[int, int]] = {}
        self._ended: Exception | None = None

    def add(self, part: Part) -> Round:
        """The round that this part belongs to; it is over if this was what was missing.

        Raises:
            GroupBrokenError: the generation is over, or the part is a repeat.
            ValueError: ranks make different calls; all get this error, now and later: the generation is over.
        """
        at = part.call, part.turn
        if part.generation != self.generation:
            raise GroupBrokenError(f"generation {part.generation} is over; this is {self.generation}")
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))
        if at <= self._last.get(part.rank, (-1, -1)):
            raise GroupBrokenError(f"rank {part.rank} gave call {part.call}, turn {part.turn} of generation {part.generation} again")
        self._last[part.rank] = at
        found = self._open.setdefault(at, Round())
        other = next(iter(found.parts.values()), part)
        if other.what != part.what:
            error = ValueError(f"rank {part.rank} calls {part.what} while rank {other.rank} calls {other.what}: "
                               "all ranks must make the same calls, with equal shapes and dtypes")
            self.end(error)
            raise error
        found.parts[part.rank] = part
        if len(found.parts) == self._size:
            del self._open[at]
            self._combine(found)
        return found

    def end(self, error: Exception) -> None:
        """Rounds that are not over by now never will be; the first error counts."""
        self._ended = self._ended or error
        for found in self._open.values():
            found.error, found.over = self._ended, True
            found.parts.clear()
        self._open.clear()

    def _combine(self, found: Round) -> None:
        parts = [found.parts[rank] for rank in sorted(found.parts)]
        found.result = combined(parts[0].how, self._section, [part.values for part in parts], parts[0].dtype)
        found.finite = not any(part.check for part in parts) or reducing.is_finite(found.result, parts[0].dtype)
        found.over = True
        found.parts.clear()


def combined(how: str, section: int, values: Sequence[Array | None], dtype: str) -> Array:
    """Of parts by rank; the part of `section`'s own rank is overwritten where something is combined."""
    if how == TAKE:
        return next(v for v in values if v is not None)
    there = [v for v in values if v is not None]
    if how == STACK:
        return np.stack(there)
    out = there.pop(section)
    reducing.reduce(out, there, how, dtype)
    return out


class SectionReducer:
    """Of one generation after the other. Its methods are coroutines: a rank that waits blocks nobody."""

    def __init__(self) -> None:
        if current.engine().directory is None:
            raise RuntimeError("a group of ranks needs processes: soma.init(local=True) has none")
        self._rounds = Rounds(0, 0, -1)
        self._changed = asyncio.Condition()

    async def begin(self, section: int, size: int, generation: int) -> None:
        """A new generation; all before it are over."""
        async with self._changed:
            self._rounds.end(GroupBrokenError(f"generation {self._rounds.generation} is over; this is {generation}"))
            self._rounds = Rounds(section, size, generation)
            self._changed.notify_all()

    async def combine(self, part: Part) -> tuple[Array | None, bool]:
        """What the round of this part gave, and whether that is finite; waits for all ranks.

        Raises:
            GroupBrokenError, ValueError: see `Rounds.add`; or the generation ended meanwhile.
        """
        async with self._changed:
            try:
                found = self._rounds.add(part)
            finally:
                self._changed.notify_all()  # a part may end its round, or the generation
            await self._changed.wait_for(lambda: found.over)
        if found.error is not None:
            raise type(found.error)(str(found.error))
        return found.result if part.wanted else None, found.finite

    async def dissolve(self, generation: int, why: str) -> None:
        """End a generation: who waits gets a GroupBrokenError that says why."""
        async with self._changed:
            if generation == self._rounds.generation:
                self._rounds.end(GroupBrokenError(why))
                self._changed.notify_all()
