"""`ActorGroup`: the collective calls of ranks on any machines, through calls of soma's actors: encrypted wherever they leave a machine.

Has what `soma.actors.collective.Group` has, and gives the same bits. An array is cut into as many sections as there are ranks; everybody
sends section r to the `SectionReducer` of rank r and gets back what it became there. So a machine sends and receives 2 (n - 1) / n of the
array's bytes for each of its ranks. Large sections go in pieces: while one is combined, the next ones travel.

A rank that dies or leaves, a reducer that is gone, or `dissolve` ends every call under way with a GroupBrokenError; what the call was given
is undefined then. There are no timeouts: a rank may compute as long as it wants.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from soma import cluster
from soma.actors.collective import reducing
from soma.actors.collective.arrays import flat_of
from soma.actors.collective.layout import Layout
from soma.actors.collective.reducing import Array
from soma.errors import ActorDiedError, GroupBrokenError
from soma.train.sections import STACK, TAKE, Part

PIECE = 4 << 20
"""Bytes of a section that travel in one call."""
AHEAD = 4
"""Pieces of each section that may be under way at once."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What all ranks ask for: see `Part`."""

    what: str
    dtype: str
    how: str
    check: bool = False


class ActorGroup:
    """See the module. Use it in a `with`; not from several threads at once.

    Args:
        reducers: handles of the `SectionReducer` actors by rank, which have begun this generation.
        rank: this one's number, from 0.
        piece: bytes of a section that travel in one call; the same at every rank.
    """

    def __init__(self, reducers: Sequence[Any], rank: int, generation: int = 0, *, piece: int = PIECE) -> None:
        if not 0 <= rank < len(reducers):
            raise ValueError(f"rank {rank} of {len(reducers)}: ranks are 0 to size - 1, and there is at least one")
        self.rank, self.size, self.generation = rank, len(reducers), generation
        self._reducers, self._piece = list(reducers), piece
        self._calls = 0
        self._broken = ""
        self._closed = False

    # -- calls -----------------------------------------------------------------------------------------------------------------

    def all_reduce(self, array: Any, op: str = "sum", *, check: bool = False) -> bool:
        """As `Group.all_reduce`. A tensor on a GPU goes by the CPU's memory."""
        with _here(array) as (flat, dtype):
            reducing.check(op, dtype)

            def put(r: int, turn: int, values: Array) -> None:
                flat[cut.at(r, turn)] = values

            cut = self._cut(flat)
            call = _Call(f"all_reduce({dtype}[{flat.size}], {op})", dtype, op, check)
            return self._each(call, cut, lambda r, turn: flat[cut.at(r, turn)], put)

    def reduce_scatter(self, array: Any, op: str = "sum") -> Array:
        """As `Group.reduce_scatter`."""
        with _here(array) as (flat, dtype):
            reducing.check(op, dtype)
            cut = self._cut(flat)
            own = np.empty_like(flat[cut.section(self.rank)])
            start = cut.section(self.rank).start

            def put(r: int, turn: int, values: Array) -> None:
                at = cut.at(r, turn)
                own[at.start - start:at.stop - start] = values

            self._each(_Call(f"reduce_scatter({dtype}[{flat.size}], {op})", dtype, op), cut, lambda r, turn: flat[cut.at(r, turn)], put,
                       wanted=lambda r: r == self.rank)
            return own

    def broadcast(self, array: Any, root: int = 0) -> None:
        """As `Group.broadcast`."""
        if not 0 <= root < self.size:
            raise ValueError(f"root={root}: ranks are 0 to {self.size - 1}")
        with _here(array) as (flat, dtype):
            cut = self._cut(flat)

            def put(r: int, turn: int, values: Array) -> None:
                flat[cut.at(r, turn)] = values

            self._each(_Call(f"broadcast({dtype}[{flat.size}], root={root})", dtype, TAKE), cut,
                       lambda r, turn: flat[cut.at(r, turn)] if self.rank == root else None, put, wanted=lambda r: self.rank != root)

    def all_gather(self, array: Any) -> Array:
        """As `Group.all_gather`: shape (size, *array.shape)."""
        with _here(array) as (flat, dtype):
            cut = self._cut(flat)
            out = np.empty((self.size, flat.size), flat.dtype)

            def put(r: int, turn: int, values: Array) -> None:
                out[:, cut.at(r, turn)] = values

            self._each(_Call(f"all_gather({dtype}[{flat.size}])", dtype, STACK), cut, lambda r, turn: flat[cut.at(r, turn)], put)
            return out.reshape(self.size, *np.shape(array))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        none = np.empty(0, np.uint8)
        self._each(_Call("barrier()", "uint8", "sum"), Layout.of(0, 1, 1), lambda r, turn: none, lambda r, turn, values: None)

    # -- how -------------------------------------------------------------------------------------------------------------------

    def _cut(self, flat: Array) -> Layout:
        return Layout.of(flat.size, self.size, self.size * max(1, self._piece // flat.itemsize))

    def _each(self, call: _Call, cut: Layout, give: Callable[[int, int], Array | None], put: Callable[[int, int, Array], None],
              wanted: Callable[[int], bool] = lambda r: True) -> bool:
        """One call: every piece of every section to its reducer, and back to where it is `put`; whether all was finite."""
        if self._broken or self._closed:
            raise GroupBrokenError(self._broken or f"rank {self.rank} has left the group")
        self._calls += 1
        finite, under_way = True, []

        def settle(r: int, turn: int, ref: Any) -> None:
            nonlocal finite
            values, is_finite = self._answer(ref, r, call.what)
            finite = finite and is_finite
            if values is not None:
                put(r, turn, values)

        try:
            for turn in range(max(1, cut.turns)):
                for r in range(cut.ranks):
                    part = Part(self.generation, self.rank, self._calls, turn, call.what, call.how, call.dtype, give(r, turn), wanted(r),
                                call.check)
                    under_way.append((r, turn, self._reducers[r].combine.remote(part)))
                while len(under_way) > AHEAD * cut.ranks:
                    settle(*under_way.pop(0))
            for each in under_way:
                settle(*each)
        except GroupBrokenError as e:
            self._broken = self._broken or str(e)
            raise
        except BaseException as e:
            self.abort(f"rank {self.rank} failed in {call.what}: {type(e).__name__}: {e}"[:2000])
            raise
        return finite

    def _answer(self, ref: Any, r: int, what: str) -> tuple[Array | None, bool]:
        try:
            found: tuple[Array | None, bool] = cluster.get(ref)
            return found
        except ActorDiedError as e:
            why = str(e).splitlines()[0]
            raise GroupBrokenError(f"what combines the section of rank {r} is gone: {why}; {what} cannot finish") from e
        except GroupBrokenError as e:
            raise GroupBrokenError(f"{e}; {what} cannot finish") from e

    # -- life ------------------------------------------------------------------------------------------------------------------

    def abort(self, why: str) -> None:
        """Leave, and break the group: everybody else's GroupBrokenError says why."""
        self._broken = self._broken or why
        self._leave(why)

    def close(self) -> None:
        """Leave; safe to call twice. The others can make no collective call any more."""
        self._leave(f"rank {self.rank} has left the group")

    def _leave(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            for reducer in self._reducers:
                reducer.dissolve.options(num_returns=0).remote(self.generation, why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, GroupBrokenError):
            self.abort(f"rank {self.rank} failed: {type(error).__name__}: {error}"[:2000])
        self.close()


@contextlib.contextmanager
def _here(array: Any) -> Iterator[tuple[Array, str]]:
    """The array as `flat_of` gives it. One on a GPU is copied to this machine's memory, and back in the end."""
    device = getattr(getattr(array, "device", None), "type", "cpu")
    if device == "cpu":
        yield flat_of(array)
        return
    near = array.detach().cpu()
    yield flat_of(near)
    array.detach().copy_(near)
