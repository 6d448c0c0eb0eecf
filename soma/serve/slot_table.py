"""The slots of a server: in which state each is, and when something is due for it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from soma.serve.states import SLOT, SlotState, after
from soma.serve.steps import Limits, Why


@dataclass(slots=True)
class Slot:
    """One of them.

    Attributes:
        since: it has been in its state.
        prediction: what runs there.
        why: that was asked to end.
        ahead: what was sent too, and waits in its process.
        recalled: that was canceled: it is over for everybody, and its end is awaited.
    """

    state: SlotState = SlotState.STARTING
    since: float = 0.0
    prediction: str | None = None
    why: Why | None = None
    ahead: str | None = None
    recalled: bool = False


class Slots(dict[int, Slot]):
    """By number."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._least, self._idle = limits.min_slots, limits.idle
        self._patience = dict.fromkeys(SlotState, math.inf) | {
            SlotState.STARTING: math.inf if limits.setup_timeout is None else limits.setup_timeout,
            SlotState.BUSY: math.inf if limits.timeout is None else limits.timeout, SlotState.ENDING: limits.grace}
        """How long one may be in a state before something is due."""

    def move(self, number: int, event: str, now: float) -> Slot:
        """To the next state; KeyError if that cannot be."""
        slot = self[number]
        slot.state, slot.since = after(SLOT, slot.state, event), now
        return slot

    def due(self, slot: Slot) -> float:
        """When it has been in its state for too long."""
        if self._least is not None and slot.state is SlotState.READY and self.is_spare():
            return slot.since + self._idle
        return slot.since + self._patience[slot.state]

    def next_due(self) -> float:
        return min(map(self.due, self.values()))

    def is_spare(self) -> bool:
        """Whether there are more than there are to be at least."""
        return self._least is not None and len(self) - self.states()[SlotState.UNUSED] > self._least

    def states(self) -> Counter[SlotState]:
        """How many are in each."""
        return Counter(slot.state for slot in self.values())

    def ahead(self) -> int:
        """Predictions that wait in a process."""
        return sum(slot.ahead is not None and not slot.recalled for slot in self.values())
