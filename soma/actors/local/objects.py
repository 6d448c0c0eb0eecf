"""Values under refs in the `local=True` engine: one table, counted by Python's own references."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any, NoReturn

from soma.actors.local.calls import Outcome, Slot
from soma.actors.refs import ObjectRef, RefHome
from soma.errors import ObjectLostError, ResultNotSerializableError
from soma.ids import ObjectId
from soma.transport.codec import encode
from soma.transport.values import open_parcel, parcel


class LocalObjects:
    """Slots by id. A slot leaves when its last ref, in a variable or inside another value, is gone."""

    def __init__(self, home: RefHome) -> None:
        self._home = home
        self._slots: dict[ObjectId, Slot] = {}
        self._dropped: deque[ObjectId] = deque()

    def __len__(self) -> int:
        return len(self._slots)

    def new_ref(self, id: ObjectId, slot: Slot, producer: str = "") -> ObjectRef[Any]:
        slot.refs += 1
        self._slots[id] = slot
        return ObjectRef(id, "local", producer, self._home)

    def another_ref(self, id: ObjectId, producer: str) -> ObjectRef[Any]:
        """A ref that came inside a value."""
        slot = self._slots.get(id)
        return self.new_ref(id, Slot(outcome=partial(_lost, id)) if slot is None else slot, producer)

    def slot(self, ref: ObjectRef[Any]) -> Slot:
        return self._slots.get(ref.id) or Slot(outcome=partial(_lost, ref.id))

    def drop(self, id: ObjectId) -> None:
        """A ref object died. May be called from a finalizer: only noted."""
        self._dropped.append(id)

    def collect(self) -> None:
        """Act on the refs that died since the last time."""
        while self._dropped:
            id = self._dropped.popleft()
            slot = self._slots.get(id)
            if slot is None:
                continue
            slot.refs -= 1
            if slot.refs <= 0:
                del self._slots[id]


def _lost(id: ObjectId) -> NoReturn:
    raise ObjectLostError(f"object {id.hex()} is not of this cluster, or was freed")


def kept(value: Any, path: str) -> Outcome:
    """A snapshot of a result; ResultNotSerializableError if it cannot be taken."""
    return partial(open_parcel, parcel(encode(value, path=path, error=ResultNotSerializableError), None))
