"""Shared memory of one process: values it sends on this machine are copied in once and read in place by everyone else.

    sender:  store (copy in) -> Block -> grant(block, holder) -> Grant -> header of a message
    reader:  open(grant) -> Block -> view() -> arrays

Two segments, made at first use: the *blocks* (sparse, recycled, kept warm, because fresh pages are written six times slower) and
the *table* of leases, one byte for each grant. The reader writes 0 to that byte when its last view dies; the sender looks before
each store. So a release is no message, and it happens even if the reader is about to die. What a killed reader still held returns
by `revoke`.

Refuses: grants out of range, of another user, or of memory that is gone; use in a child made by fork.
Invariants: a block is reused only when no Block object, no view of this process and no lease refers to it. Nothing here waits for
another process.
Limit: views in a child that user code forked do not keep a lease; they are good until the parent drops its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from soma.config import MIB
from soma.errors import ForkedClientError, NotInitializedError, ProtocolError
from soma.transport import segment
from soma.transport.extents import Extents
from soma.transport.lease import PAGE, Grant, LeaseTable, check_held, give_back
from soma.transport.segment import HAS_MEMFD, Segment

__all__ = ["Arena", "ArenaStats", "Block", "Grant"]

ALIGN = 64


class Block:
    """A region of shared memory that this process can reach, own or foreign. When the last reference goes, so does the region."""

    __slots__ = ("__weakref__", "_getpid", "_offset", "_pid", "_release", "_segment", "length")

    def __init__(self, held: Segment, offset: int, length: int, release: Callable[[], object]) -> None:
        self._segment, self._offset, self._release = held, offset, release
        self._getpid = os.getpid
        self._pid = os.getpid()
        self.length = length

    def view(self) -> memoryview:
        """All of it, in a fresh copy-on-write mapping that keeps this block as long as any view or array of it lives."""
        return self._segment.window(self._offset, self.length, self)

    def __del__(self) -> None:
        # Runs in any thread at any moment, so it takes no lock; and a forked child must not end its parent's lease.
        if self._getpid() == self._pid:
            self._release()


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """Bytes and counts. `used` counts what blocks occupy, `warm` what is kept for the next ones."""

    used: int
    capacity: int
    warm: int
    blocks: int
    leases: int


class Arena:
    """The shared memory of this process, and its view of everybody else's. Safe to use from any thread."""

    def __init__(self, capacity: int, directory: Path, *, memfd: bool = HAS_MEMFD, keep_warm: int = 512 * MIB) -> None:
        self._capacity = max(PAGE, capacity - capacity % PAGE)
        self.directory, self._memfd, self._keep_warm = directory, memfd, keep_warm
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._free, self._warm = Extents(), Extents()
        self._free.add(0, self._capacity)
        self._dead: deque[tuple[int, int]] = deque()
        self._blocks = 0
        self._data: tuple[Segment, mmap.mmap] | None = None
        self._table: LeaseTable[Block] | None = None
        self._can_punch = hasattr(mmap, "MADV_REMOVE")
        self._opened: WeakValueDictionary[tuple[str, int], Segment] = WeakValueDictionary()

    # -- the sender ------------------------------------------------------------------------------------------------------------

    def store(self, buffers: Sequence[memoryview]) -> tuple[Block, list[tuple[int, int]]] | None:
        """Copy flat buffers into one new block; (offset in the block, length) of each. None when there is no room."""
        places: list[tuple[int, int]] = []
        end = 0
        for buffer in buffers:
            start = -(-end // ALIGN) * ALIGN
            places.append((start, buffer.nbytes))
            end = start + buffer.nbytes
        size = -(-max(end, 1) // PAGE) * PAGE
        self._guard()
        with self._lock:
            self._collect()
            offset = self._take(size)
            if offset is None:
                return None
            held, memory = self._data_segment()
            block = Block(held, offset, end, partial(self._dead.append, (offset, offset + size)))
            self._blocks += 1
        for (start, _), buffer in zip(places, buffers, strict=True):
            _copy(memory, offset + start, buffer)
        return block, places

    def grant(self, block: Block, holder: str) -> Grant:
        """Lease `block`, own or foreign, to `holder`; it stays until they let go or are revoked."""
        self._guard()
        with self._lock:
            self._collect()
            table = self._lease_table()
            slot = table.lease(block, holder)
            source = block._segment
            return Grant(source.path, source.inode, block._offset, block.length, table.held.path, table.held.inode, slot)

    def withdraw(self, grant: Grant) -> None:
        """End a lease of ours whose message was never sent."""
        self._guard()
        with self._lock:
            if self._table is not None and self._table.held.inode == grant.table_inode:
                self._table.end(grant.slot)
            self._collect()

    def revoke(self, holder: str) -> int:
        """End all leases of a reader known to be dead; how many there were."""
        self._guard()
        with self._lock:
            self._collect()
            ended = self._table.revoke(holder) if self._table else 0
            self._collect()
            return ended

    def sweep(self) -> None:
        """Take back what readers returned, and give what is more than warm enough back to the system."""
        self._guard()
        with self._lock:
            self._collect()

    # -- the reader ------------------------------------------------------------------------------------------------------------

    def open(self, grant: Grant) -> Block:
        """Reach what a grant names. The lease ends when the Block and its views are gone (at once, if it is dropped unused)."""
        self._guard()
        table = self._foreign(grant.table_path, grant.table_inode, writable=True)
        check_held(table, grant.slot)
        held = self._foreign(grant.path, grant.inode, writable=False)
        if grant.offset + grant.length > held.size:
            raise ProtocolError("grant: beyond the end of its segment")
        table.pin()
        return Block(held, grant.offset, grant.length, partial(give_back, table, grant.slot))

    def _foreign(self, path: str, inode: int, *, writable: bool) -> Segment:
        # Open only as long as a block of it is in use: opening takes 4 µs, while a descriptor kept longer would keep all
        # memory of a dead sender.
        found = self._opened.get((path, inode))
        if found is None:
            found = self._opened[path, inode] = segment.open_foreign(path, inode, self.directory, writable=writable)
        return found

    # -- life ------------------------------------------------------------------------------------------------------------------

    def stats(self) -> ArenaStats:
        self._guard()
        with self._lock:
            self._collect()
            used = self._capacity - self._free.total
            return ArenaStats(used, self._capacity, self._warm.total, self._blocks, len(self._table) if self._table else 0)

    def close(self) -> None:
        """Let go of everything; views that exist stay valid. Safe to call twice, and in a forked child (which only closes)."""
        owner = os.getpid() == self._pid
        with self._lock if owner else nullcontext():  # in a child the lock may have been held by a thread it does not have
            self._closed = True
            if self._table is not None:
                self._table.close(unlink=owner)
            if self._data is not None:
                self._data[0].close(unlink=owner)
            self._data = self._table = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _guard(self) -> None:
        if self._closed:
            raise NotInitializedError("the arena is closed")
        if os.getpid() != self._pid:
            raise ForkedClientError("shared memory cannot be used in a child made by fork")

    # -- under the lock --------------------------------------------------------------------------------------------------------

    def _data_segment(self) -> tuple[Segment, mmap.mmap]:
        if self._data is None:
            made = segment.create(self._capacity, self.directory, memfd=self._memfd)
            self._data = made, mmap.mmap(made.fd, self._capacity)
        return self._data

    def _lease_table(self) -> LeaseTable[Block]:
        if self._table is None:
            self._table = LeaseTable(self.directory, memfd=self._memfd)
        return self._table

    def _take(self, size: int) -> int | None:
        """Claim the lowest warm room for `size` bytes, or else the lowest of any."""
        offset = self._warm.fit(size)
        if offset is None:
            offset = self._free.fit(size)
            if offset is None:
                return None
            if not self._memfd and not segment.reserve(self._data_segment()[0].fd, offset, size):
                return None
        self._free.remove(offset, offset + size)
        self._warm.discard(offset, offset + size)
        return offset

    def _collect(self) -> None:
        if self._table is not None:
            self._table.collect()
        while self._dead:
            start, stop = self._dead.popleft()
            self._free.add(start, stop)
            self._warm.add(start, stop)
            self._blocks -= 1
        while self._can_punch and self._warm.total > self._keep_warm:
            start, stop = self._warm.highest()
            excess = -(-(self._warm.total - self._keep_warm) // PAGE) * PAGE
            start = max(start, stop - excess)
            self._warm.remove(start, stop)
            self._punch(start, stop - start)

    def _punch(self, start: int, length: int) -> None:
        try:
            self._data_segment()[1].madvise(mmap.MADV_REMOVE, start, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._can_punch = False  # this file system keeps its pages; they simply stay warm


def _copy(memory: mmap.mmap, offset: int, buffer: memoryview) -> None:
    """numpy's copy lets other threads run; below a megabyte the plain one is quicker.

    From 32 MiB on one core cannot fill the memory bus: 7 GB/s with one thread, 11 to 19 with two.
    """
    size = buffer.nbytes
    if size < MIB:
        memory[offset : offset + size] = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
        return
    import numpy as np

    target, source = np.frombuffer(memory, np.uint8, size, offset), np.frombuffer(buffer, np.uint8)
    if size < 32 * MIB or os.cpu_count() == 1:
        np.copyto(target, source)
        return
    half = size // 2 // PAGE * PAGE
    other = threading.Thread(target=np.copyto, args=(target[half:], source[half:]), name="soma-copy")
    other.start()
    try:
        np.copyto(target[:half], source[:half])
    finally:
        other.join()
