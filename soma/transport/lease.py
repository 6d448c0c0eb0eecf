"""Leases: who may still be reading which block.

A lease is one byte in a table that its owner shares: the reader writes 0 there when its last view dies, the owner looks. No
message is sent for a release, and none can be lost. A `Grant` is a lease as it travels in a header.
Refuses: grants whose fields are of a wrong type or out of range.
Invariant: a slot in use has exactly one (block, holder); a zero in a slot that is not in use changes nothing.
Precondition of `revoke`: the holder is dead. One that lives could end a later lease of the same slot.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from soma.config import LIMITS
from soma.errors import ClusterError, ObjectLostError, ProtocolError
from soma.transport import segment
from soma.transport.segment import Segment

T = TypeVar("T")
PAGE = mmap.PAGESIZE
SLOTS = 1 << 20
_RETURNED, _LEASED, _FREE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Grant:
    """One lease of `length` bytes. The paths are `/proc/<pid>/fd/<n>` or files of the runtime directory."""

    path: str
    inode: int
    offset: int
    length: int
    table_path: str
    table_inode: int
    slot: int

    def astuple(self) -> tuple[str, int, int, int, str, int, int]:
        return astuple(self)

    @classmethod
    def fromtuple(cls, fields: Sequence[Any]) -> Grant:
        """Check every field; ProtocolError names what is wrong."""
        if not isinstance(fields, (list, tuple)) or len(fields) != 7:
            raise ProtocolError("a grant has 7 fields")
        for name, value in zip(cls.__slots__, fields, strict=True):
            if name in ("path", "table_path"):
                if type(value) is not str or not 1 <= len(value) <= 4096 or not value.startswith("/") or "\0" in value:
                    raise ProtocolError(f"grant: {name} is no path")
            elif type(value) is not int or not 0 <= value < 1 << 63:
                raise ProtocolError(f"grant: {name} is no natural number")
        grant = cls(*fields)
        if grant.offset % PAGE or grant.length > LIMITS.value_bytes:
            raise ProtocolError("grant: offset or length out of range")
        return grant


class LeaseTable(Generic[T]):
    """The owner's side. Not locked; its arena is."""

    def __init__(self, directory: Path, *, memfd: bool) -> None:
        self.held = segment.create(SLOTS, directory, memfd=memfd)
        if not memfd and not segment.reserve(self.held.fd, 0, SLOTS):
            self.held.close(unlink=True)
            raise OSError(28, f"no room for the table of leases in {directory}")
        self._bytes = mmap.mmap(self.held.fd, SLOTS)
        self._leases: dict[int, tuple[T, str]] = {}
        self._holders: dict[str, set[int]] = {}
        self._spare: list[int] = []
        self._used = 0

    def __len__(self) -> int:
        return len(self._leases)

    def lease(self, block: T, holder: str) -> int:
        """Keep `block` for `holder`; the slot."""
        if self._spare:
            slot = self._spare.pop()
        elif self._used < SLOTS:
            slot = self._used
            self._used += 1
        else:
            raise ClusterError(f"all {SLOTS} leases of this process are in use: its values are held in too many places")
        self._bytes[slot] = _LEASED
        self._leases[slot] = block, holder
        self._holders.setdefault(holder, set()).add(slot)
        return slot

    def end(self, slot: int) -> None:
        """Let go of what slot keeps, if anything."""
        self._bytes[slot] = _FREE
        if slot not in self._leases:
            return
        _, holder = self._leases.pop(slot)
        slots = self._holders[holder]
        slots.remove(slot)
        if not slots:
            del self._holders[holder]
        self._spare.append(slot)

    def collect(self) -> None:
        """End what readers returned: found by memchr, so that thousands of leases cost microseconds."""
        slot = -1
        while (slot := self._bytes.find(b"\0", slot + 1, self._used)) >= 0:
            self.end(slot)

    def revoke(self, holder: str) -> int:
        """End all leases of a holder who died; how many there were."""
        slots = sorted(self._holders.get(holder, ()))
        for slot in slots:
            self.end(slot)
        return len(slots)

    def close(self, *, unlink: bool) -> None:
        self._leases.clear()
        self._holders.clear()
        self.held.close(unlink=unlink)


def check_held(table: Segment, slot: int) -> None:
    """The reader's side: refuse a slot that does not exist or whose lease has ended."""
    if slot >= table.size:
        raise ProtocolError("grant: slot out of range")
    if os.pread(table.fd, 1, slot) != bytes([_LEASED]):
        raise ObjectLostError("the lease of this value has ended")


def give_back(table: Segment, slot: int, pwrite: Callable[[int, bytes, int], int] = os.pwrite) -> None:
    """The reader's side: the lease of a pinned table ends. A finalizer, so `os` is bound early."""
    pwrite(table.fd, bytes([_RETURNED]), slot)
    table.unpin()
