"""`Group`: one rank's part in the collective calls of several processes on one machine.

    with Group.join(soma.get(meeting.address.remote()), rank, size) as group:
        group.all_reduce(gradient)                       # in place; the same bits at every rank

All ranks make the same calls in the same order with equal shapes and dtypes. An array goes through shared memory in pieces: in each turn
a rank copies in what others will combine, combines its own section of what came in the turn before, and copies out what the others
combined in the turn before that; then all meet. So every byte is combined once, the memory in between is small and stays in the
processor's caches, and every rank gets identical bits.

A rank that dies, or leaves in the middle, breaks the group: each call under way, at every rank, ends with a GroupBrokenError, and the
array that it was given is undefined. There are no timeouts: a rank may compute as long as it wants.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from soma.actors.collective import reducing
from soma.actors.collective.arrays import flat_of
from soma.actors.collective.layout import Layout
from soma.actors.collective.reducing import Array
from soma.errors import GroupBrokenError, ObjectLostError
from soma.transport import segment
from soma.transport.mesh import Line, Listener, Mesh, PeerGone

SLOT = 1 << 20
"""Bytes that a rank shares in one turn. Two slots to be combined and two of results lie in its segment."""

_TURN = struct.Struct("<IIII")
"""Which call, which turn, what call it is (a checksum of its description), flags."""
_NOT_FINITE = 1


class Group:
    """See the module. Use it in a `with`; not from several threads at once."""

    def __init__(self, rank: int, size: int, lifeline: Line | None, mesh: Mesh | None, slots: list[list[Array]]) -> None:
        self.rank, self.size = rank, size
        self._lifeline, self._mesh = lifeline, mesh
        self._slots = slots  # [rank][0 or 1: to be combined; 2 or 3: results]
        self._calls = self._turn = 0
        self._broken = ""
        self._told = threading.Event()
        self._closed = False
        if lifeline is not None:
            threading.Thread(target=self._watch, name="soma-lifeline", daemon=True).start()

    @classmethod
    def join(cls, address: str, rank: int, size: int, generation: int = 0) -> Group:
        """Meet the other ranks; waits until all are there.

        Args:
            address: what the meeting point's `address()` gave.
            rank, size: this one's number, from 0, and how many there are.
            generation: of the group; a later one ends all before it.

        Raises:
            GroupBrokenError: the generation is over, or one of the others is gone, or the meeting point is.
        """
        if size < 1 or not 0 <= rank < size:
            raise ValueError(f"rank {rank} of {size}: ranks are 0 to size - 1, and there is at least one")
        if size == 1:
            return cls(0, 1, None, None, [])
        directory = Path(address).parent
        own = segment.create(4 * SLOT, directory, memfd=segment.HAS_MEMFD)
        listener = lifeline = None
        try:
            listener = Listener(directory)
            try:
                lifeline = Line.connect(address)
                lifeline.send({"hello": {"generation": generation, "rank": rank, "size": size, "pid": os.getpid(),
                                         "path": listener.path, "memory": own.path, "inode": own.inode}})
                roster = _roster(lifeline)
                slots = [_slots(own if r == rank else segment.open_foreign(t["memory"], t["inode"], directory, writable=True))
                         for r, t in sorted(roster.items())]
                mesh = Mesh.connect(rank, listener, {r: t["path"] for r, t in roster.items()}, lifeline)
                mesh.exchange(b"!", lambda rank, got: None)  # until everybody has opened everybody's memory
            except (PeerGone, ObjectLostError, OSError) as e:
                who = f"rank {e.rank}" if isinstance(e, PeerGone) and e.rank >= 0 else f"a rank, or the meeting point {address},"
                raise GroupBrokenError(f"{who} was gone before all {size} ranks of generation {generation} had met") from None
        except BaseException as e:
            if lifeline is not None:
                with contextlib.suppress(PeerGone):  # the meeting point may be what is gone
                    lifeline.send({"gone": str(e)[:2000]})
                lifeline.close()
            raise
        finally:
            own.close(unlink=True)
            if listener is not None:
                listener.close()
        return cls(rank, size, lifeline, mesh, slots)

    # -- calls -----------------------------------------------------------------------------------------------------------------

    def all_reduce(self, array: Any, op: str = "sum", *, check: bool = False) -> bool:
        """Combine the arrays of all ranks, element by element, into each of them, in place.

        Args:
            array: a C-contiguous, writable numpy array or CPU tensor: floats (float16 and bfloat16 are summed in float32), integers.
            op: "sum", "mean", "max" or "min".
            check: look for NaN and infinity in the result.

        Returns:
            False if `check` found some, at every rank.
        """
        flat, dtype = flat_of(array)
        reducing.check(op, dtype)
        return self._reduce(f"all_reduce({dtype}[{flat.size}], {op})", flat, flat, dtype, op, check)

    def reduce_scatter(self, array: Any, op: str = "sum") -> Array:
        """Combine the arrays of all ranks and give each a section of the flat result: as `numpy.array_split` cuts it. `array` is kept."""
        flat, dtype = flat_of(array)
        reducing.check(op, dtype)
        own = np.empty_like(flat[Layout.of(flat.size, self.size, SLOT // flat.itemsize).section(self.rank)])
        self._reduce(f"reduce_scatter({dtype}[{flat.size}], {op})", flat, own, dtype, op, False)
        return own

    def broadcast(self, array: Any, root: int = 0) -> None:
        """Overwrite the array at every rank with that of rank `root`."""
        if not 0 <= root < self.size:
            raise ValueError(f"root={root}: ranks are 0 to {self.size - 1}")
        flat, dtype = flat_of(array)
        self._copy(f"broadcast({dtype}[{flat.size}], root={root})", flat, [flat if r == root else None for r in range(self.size)],
                   [flat if r == root and r != self.rank else None for r in range(self.size)])

    def all_gather(self, array: Any) -> Array:
        """The arrays of all ranks, along a new first axis: shape (size, *array.shape). bfloat16 comes as its bits, uint16."""
        flat, dtype = flat_of(array)
        out = np.empty((self.size, flat.size), flat.dtype)
        out[self.rank] = flat
        self._copy(f"all_gather({dtype}[{flat.size}])", flat, [flat] * self.size,
                   [row if r != self.rank else None for r, row in enumerate(out)])
        return out.reshape(self.size, *np.shape(array))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        with self._call("barrier()") as meet:
            meet(0, 0)

    # -- how -------------------------------------------------------------------------------------------------------------------

    def _reduce(self, what: str, flat: Array, out: Array, dtype: str, op: str, check: bool) -> bool:
        cut = Layout.of(flat.size, self.size, SLOT // flat.itemsize)
        mine, finite = self.rank, True
        others = [r for r in range(self.size) if r != mine]
        views = [[s.view(flat.dtype) for s in slots] for slots in self._slots] or [[flat[:0]] * 4]
        with self._call(what) as meet:
            for turn in range(cut.turns + 2):
                if turn < cut.turns:
                    slot = views[mine][(self._turn + turn) % 2]
                    for r in others:
                        slot[cut.in_slot(r, turn)] = flat[cut.at(r, turn)]
                if 0 < turn <= cut.turns:
                    at, now = cut.at(mine, turn - 1), (self._turn + turn - 1) % 2
                    where = cut.in_slot(mine, turn - 1)
                    start = 0 if out is flat else cut.section(mine).start
                    result = out[at.start - start:at.stop - start]
                    if out is not flat:
                        result[...] = flat[at]
                    reducing.reduce(result, [views[r][now][where] for r in others], op, dtype)
                    finite = finite and (not check or reducing.is_finite(result, dtype))
                    if out is flat and others:
                        views[mine][2 + now][where] = result
                if turn > 1 and out is flat:
                    for r in others:
                        flat[cut.at(r, turn - 2)] = views[r][2 + (self._turn + turn) % 2][cut.in_slot(r, turn - 2)]
                if turn <= cut.turns:
                    finite = not meet(turn, 0 if finite else _NOT_FINITE) & _NOT_FINITE
            self._turn += cut.turns
        return finite

    def _copy(self, what: str, flat: Array, sources: list[Array | None], targets: list[Array | None]) -> None:
        """Each rank that has a source shares it; each that has a target for a rank copies it out."""
        step = SLOT // flat.itemsize
        turns = max(1, -(-flat.size // step))
        with self._call(what) as meet:
            for turn in range(turns):
                part, now = slice(turn * step, min((turn + 1) * step, flat.size)), (self._turn + turn) % 2
                source = sources[self.rank]
                if source is not None and self.size > 1:
                    self._slots[self.rank][now].view(flat.dtype)[:part.stop - part.start] = source[part]
                meet(turn, 0)
                for r, target in enumerate(targets):
                    if target is not None and self.size > 1:
                        target[part] = self._slots[r][now].view(flat.dtype)[:part.stop - part.start]
            self._turn += turns

    @contextlib.contextmanager
    def _call(self, what: str) -> Iterator[Callable[[int, int], int]]:
        """One collective call. `meet(turn, flags)` waits for all ranks and gives everybody's flags together."""
        if self._broken or self._closed:
            raise GroupBrokenError(self._broken or f"rank {self.rank} has left the group")
        self._calls += 1
        call, kind = self._calls & 0xFFFFFFFF, zlib.crc32(what.encode())

        def meet(turn: int, flags: int) -> int:
            if self._mesh is None:
                return flags
            together = flags

            def each(rank: int, got: bytes) -> None:
                nonlocal together
                theirs = _TURN.unpack(got)
                if theirs[:3] != (call, turn, kind):
                    raise ValueError(f"rank {self.rank} calls {what} while rank {rank} makes another collective call (number {theirs[0]}; "
                                     f"here it is {call}): all ranks must make the same calls, with equal shapes and dtypes")
                together |= theirs[3]

            self._mesh.exchange(_TURN.pack(call, turn, kind, flags), each)
            return together

        try:
            yield meet
        except PeerGone as e:
            self._told.wait(0.05)  # why, as the meeting point heard it
            self._break(self._broken or f"rank {e.rank} is gone")
            raise GroupBrokenError(f"{self._broken}; {what} cannot finish") from None
        except BaseException as e:
            self.abort(f"rank {self.rank} failed in {what}: {type(e).__name__}: {e}"[:2000])
            raise

    # -- life ------------------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        assert self._lifeline is not None
        try:
            why = str(self._lifeline.recv().get("broken", ""))
        except PeerGone:
            why = "" if self._closed else "the meeting point is gone"
        if not self._closed:
            self._break(why)
        self._lifeline.close()

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._told.set()
        if self._mesh is not None:
            self._mesh.cut()

    def abort(self, why: str) -> None:
        """Leave, and break the group: everybody else's GroupBrokenError says why."""
        if self._lifeline is not None and not self._closed:
            with contextlib.suppress(PeerGone):  # then nobody is left to hear it
                self._lifeline.send({"gone": why})
        self._break(why)
        self.close()

    def close(self) -> None:
        """Leave; safe to call twice. The others can make no collective call any more."""
        if self._closed:
            return
        self._closed = True
        if self._lifeline is not None and self._mesh is not None:
            with contextlib.suppress(PeerGone):  # the meeting point is gone, and with it whoever would want to know
                self._lifeline.send({"bye": self.rank})
            self._lifeline.cut()
            self._mesh.cut()
            self._mesh.close()
        self._slots = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, GroupBrokenError):
            self.abort(f"rank {self.rank} failed: {type(error).__name__}: {error}"[:2000])
        self.close()


def _roster(lifeline: Line) -> dict[int, Any]:
    told = lifeline.recv()
    if "roster" not in told:
        raise GroupBrokenError(told.get("refused") or told.get("broken") or "the meeting point let this rank go")
    return {int(rank): its for rank, its in told["roster"].items()}


def _slots(held: segment.Segment) -> list[Array]:
    memory = np.frombuffer(mmap.mmap(held.fd, held.size), np.uint8)
    return [memory[i * SLOT:(i + 1) * SLOT] for i in range(4)]
