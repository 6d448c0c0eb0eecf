"""Values under refs, in the process that owns them or borrows them, and who still needs them.

Counting: a process that sends a ref registers the receiver with the owner first (`Hold +1`); a process whose last Python ref
dies tells the owner (`Hold -n`). Counts per holder may be negative for a moment; a value is freed when this process has no
ref and every holder's count is zero. A dead holder's counts vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from soma.ids import ObjectId
from soma.transport.values import Parcel


class Status(IntEnum):
    PENDING = 0
    VALUE = 1
    ERROR = 2
    """The parcel holds a `failures.Failure`."""
    FAILED = 3
    """`error` holds an exception made in this process."""


class Entry:
    """One value, or the lack of it.

    Attributes:
        local: Python refs in this process.
        registered: counts that the owner holds for this process (borrowed values only).
        holders: counts of other processes.
        contained: refs inside the value, counted as local refs while it exists.
    """

    __slots__ = ("id", "owner", "producer", "status", "parcel", "error", "local", "registered", "holders", "callbacks", "asked",
                 "deadline", "contained", "on_free")

    def __init__(self, id: ObjectId, owner: str, producer: str, status: Status = Status.PENDING,
                 error: BaseException | None = None) -> None:
        self.id, self.owner, self.producer = id, owner, producer
        self.status, self.error = status, error
        self.parcel: Parcel | None = None
        self.local = self.registered = 0
        self.holders: dict[str, int] | None = None
        self.callbacks: list[Callable[[], None]] | None = None
        self.asked = False
        self.deadline: float | None = None
        self.contained: tuple[ObjectId, ...] = ()
        self.on_free: Callable[[], None] | None = None


class ObjectTable:
    """Entries by id. Not thread-safe: the runtime's lock is held around it.

    `released` hears of borrowed values that nobody here wants; it says whether they may go now.
    """

    def __init__(self, me: str, released: Callable[[Entry], bool]) -> None:
        self.me = me
        self._entries: dict[ObjectId, Entry] = {}
        self._released = released
        self.watched = 0
        """Callbacks that wait for a pending entry: while there are any, somebody must read the mailbox."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, id: ObjectId) -> Entry | None:
        return self._entries.get(id)

    def values(self) -> list[Entry]:
        return list(self._entries.values())

    def add(self, id: ObjectId, owner: str, producer: str) -> Entry:
        """The entry of an id, made if it is new."""
        entry = self._entries.get(id)
        if entry is None:
            entry = self._entries[id] = Entry(id, owner, producer)
        return entry

    def settle(self, entry: Entry, status: Status, parcel: Parcel | None = None, error: BaseException | None = None,
               contained: tuple[ObjectId, ...] = ()) -> list[Callable[[], None]]:
        """The outcome came; the first one stands. Returns the callbacks to run once the lock is released."""
        if entry.status is not Status.PENDING:
            return []
        entry.status, entry.parcel, entry.error, entry.contained = status, parcel, error, contained
        callbacks, entry.callbacks = entry.callbacks, None
        if callbacks is None:
            return []
        self.watched -= len(callbacks)
        return callbacks

    def watch(self, entry: Entry, fn: Callable[[], None]) -> bool:
        """Call `fn` when the entry settles; False if it already is."""
        if entry.status is not Status.PENDING:
            return False
        if entry.callbacks is None:
            entry.callbacks = []
        entry.callbacks.append(fn)
        self.watched += 1
        return True

    def unwatch(self, entry: Entry, fn: Callable[[], None]) -> None:
        if entry.callbacks is not None and fn in entry.callbacks:
            entry.callbacks.remove(fn)
            self.watched -= 1

    def hold(self, entry: Entry, holder: str, delta: int) -> None:
        """Another process's count changed."""
        if entry.holders is None:
            entry.holders = {}
        count = entry.holders.get(holder, 0) + delta
        if count:
            entry.holders[holder] = count
        else:
            entry.holders.pop(holder, None)
        self.free_if_unused(entry)

    def drop_local(self, id: ObjectId) -> None:
        """A Python ref died."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.local -= 1
            if entry.local <= 0:
                self.free_if_unused(entry)

    def free_if_unused(self, entry: Entry) -> None:
        if entry.local > 0 or entry.holders or self._entries.get(entry.id) is not entry:
            return
        if entry.owner != self.me:
            if self._released(entry):
                self._remove(entry)
            return
        if entry.on_free is not None:
            entry.on_free()
            return
        if entry.status is Status.PENDING:
            return  # freed when it settles: see `settled_unused`
        self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.id]
        for inner in entry.contained:
            self.drop_local(inner)

    def settled_unused(self, entry: Entry) -> None:
        """After a settle: nobody may be left who wants it."""
        if entry.on_free is None:
            self.free_if_unused(entry)

    def forget(self, id: ObjectId) -> None:
        self._entries.pop(id, None)

    def drop_values(self, error: BaseException) -> None:
        """The cluster is over: whoever still keeps a ref is not to keep other processes' memory by it."""
        for entry in self.values():
            if entry.status is Status.VALUE:
                entry.status, entry.parcel, entry.error = Status.FAILED, None, error

    def forget_holder(self, holder: str) -> None:
        """A process died: nothing is kept for it."""
        for entry in self.values():
            if entry.holders and entry.holders.pop(holder, None) is not None:
                self.free_if_unused(entry)
