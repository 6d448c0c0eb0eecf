"""Which prediction runs where: the queue, the slots, cancels, time limits, deaths. Pure: `now` is an argument, and what is to be done is a
list.

A slot is free before its answer is told, so a client that sends one request after the other is never refused. A prediction that is to end
is asked first; if it has not ended after the grace its slot's process is killed and made again.

A slot may be sent the next prediction while it is busy (`Limits.ahead`). That one still waits, for all who ask: it can be canceled at
once, and when the process dies it waits here again, unless it had begun there unheard of.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from soma.serve.slot_table import Slot, Slots
from soma.serve.states import Health, SlotState
from soma.serve.steps import Ask, Begin, End, Finish, Kill, Limits, Make, QueueFull, Recall, Requeue, Send, Step, Why


@dataclass(slots=True)
class Desk:
    """See the module. `steps` is what is to be done; whoever calls takes it by `take`."""

    limits: Limits
    _queue: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _where: dict[str, int] = field(default_factory=dict)
    _free: deque[int] = field(default_factory=deque)
    _deaths: deque[float] = field(default_factory=deque)
    _waits_since: float = math.inf
    _steps: list[Step] = field(default_factory=list)
    _was_ready: bool = False
    health_ends: Health | None = None
    """SETUP_FAILED or DEFUNCT, once it is that."""
    _slots: Slots = field(init=False)

    def __post_init__(self) -> None:
        self._slots = Slots(self.limits)

    def take(self) -> list[Step]:
        """What is to be done now; once."""
        steps, self._steps = self._steps, []
        return steps

    # -- slots -----------------------------------------------------------------------------------------------------------------

    def open(self, now: float) -> None:
        """Make the slots, as many as there are to be at least."""
        least = self.limits.slots if self.limits.min_slots is None else self.limits.min_slots
        for number in range(self.limits.slots):
            self._slots[number] = Slot(SlotState.STARTING if number < least else SlotState.UNUSED, since=now)
            if number < least:
                self._steps.append(Make(number))

    def set_up(self, number: int, now: float) -> None:
        """Its predictor is ready."""
        self._slots.move(number, "set up", now)
        self._was_ready = True
        self._free.append(number)
        self._assign(now)

    def setup_failed(self, number: int, now: float, *, counts: bool = True) -> None:
        """Its setup failed, or took too long, or its process died in it. The first one is the end; a later one counts as a death, unless
        that of the same process was counted before.
        """
        if not self._was_ready:
            self._give_up(Health.SETUP_FAILED, "setup failed", now)
        else:
            self._again(number, "setup failed", now, counts)

    def ended(self, number: int, now: float) -> None:
        """Its prediction has ended, and it is free: call it before that is told."""
        slot = self._slots[number]
        if slot.prediction is not None:
            del self._where[slot.prediction]
        slot.prediction, slot.why = None, None
        if self._slots.move(number, "ended", now).state is SlotState.READY:
            if slot.ahead is None:
                self._free.append(number)
            else:
                self._go_on(number, slot.ahead, now)
            self._assign(now)

    def _go_on(self, number: int, id: str, now: float) -> None:
        """What was sent ahead begins; or, if it was canceled since, is awaited as if it had been asked to end."""
        slot = self._slots.move(number, "begin", now)
        self._steps.append(Begin(id, number))
        if slot.recalled:
            slot.why = "canceled"
            self._slots.move(number, "ask", now)
        else:
            slot.prediction = id
        slot.ahead, slot.recalled = None, False

    def unsent(self, number: int) -> None:
        """What should have been sent ahead cannot be sent; whoever calls ends it."""
        slot = self._slots[number]
        if slot.ahead is not None:
            del self._where[slot.ahead]
            slot.ahead = None

    def died(self, number: int, error: str, now: float, *, begun: bool = True, ahead_begun: bool = False, counts: bool = True) -> None:
        """Its process is gone: what ran there has ended, or, if it had not begun, waits again as the first; so does what waited there.

        `counts=False`: it is no fault of the predictor, or that of the same process was counted before.
        """
        slot = self._slots[number]
        if slot.state is SlotState.STARTING:
            self.setup_failed(number, now, counts=counts)
            return
        if slot.state is SlotState.READY:
            self._free.remove(number)
        id, why, killed = slot.prediction, slot.why, slot.state is SlotState.KILLED
        ahead, recalled = slot.ahead, slot.recalled
        slot.prediction, slot.why, slot.ahead, slot.recalled = None, None, None, False
        if ahead is not None and not recalled:
            self._ends(ahead, None, error, ahead_begun)
        if id is not None and self._ends(id, why, error, begun):
            self._steps.append(Requeue(id))
        self._again(number, "died", now, counts and not killed)
        self._assign(now)  # what waits again may find another slot free

    def _ends(self, id: str, why: Why | None, error: str, begun: bool) -> bool:
        """With its process; or True, and it waits again before all others: it had not begun."""
        del self._where[id]
        if begun or why is not None:
            self._finish(id, why, error)
            return False
        self._queue[id] = None
        self._queue.move_to_end(id, last=False)
        return True

    def _again(self, number: int, event: str, now: float, counts: bool) -> None:
        """Its process is to be made again; later and later, if it died in vain."""
        delay = 0.0
        if counts:
            self._deaths.append(now)
            while self._deaths[0] <= now - self.limits.period:
                self._deaths.popleft()
            if len(self._deaths) > self.limits.deaths:
                self._give_up(Health.DEFUNCT, "the server gave up: its processes died too often", now)
                return
            delay = 0.0 if len(self._deaths) < 3 else 0.1 * 2.0 ** (len(self._deaths) - 3)
        self._slots.move(number, event, now).since = now + delay
        self._steps.append(Make(number, delay))

    def _give_up(self, health: Health, error: str, now: float) -> None:
        self.health_ends = health
        for number, slot in self._slots.items():
            if slot.state is not SlotState.FAILED:
                self._slots.move(number, "give up", now)
                self._steps.append(Kill(number))
        for id in (*self._where, *self._queue):
            self._steps.append(Finish(id, "fail", error))
        self._where.clear()
        self._queue.clear()
        self._free.clear()

    # -- predictions -----------------------------------------------------------------------------------------------------------

    def submit(self, id: str, now: float) -> None:
        """Another prediction: begun where a slot is free, else it waits.

        Raises:
            QueueFull: there is no room.
        """
        if not self._free and self._waiting() >= self.limits.max_queue:
            raise QueueFull(self.limits.max_queue > 0)
        self._queue[id] = None
        self._assign(now)

    def _assign(self, now: float) -> None:
        while self._free and self._queue:
            id, _ = self._queue.popitem(last=False)
            number = self._free.pop()  # the one used last: others may come to be idle for long
            self._slots.move(number, "begin", now).prediction = id
            self._where[id] = number
            self._steps.append(Begin(id, number))
        if self.limits.ahead and self._queue:
            self._send_ahead()
        self._waits_since = min(self._waits_since, now) if self._queue else math.inf

    def _send_ahead(self) -> None:
        for number, slot in self._slots.items():
            if self._queue and slot.state is SlotState.BUSY and slot.ahead is None:
                id, _ = self._queue.popitem(last=False)
                slot.ahead = id
                self._where[id] = number
                self._steps.append(Send(id, number))

    def _waiting(self) -> int:
        """Predictions that have not begun."""
        return len(self._queue) + (self._slots.ahead() if self.limits.ahead else 0)

    def cancel(self, id: str, now: float) -> bool:
        """Somebody wants it ended. False if it neither waits nor runs."""
        if id in self._queue:
            del self._queue[id]
            self._assign(now)
            self._steps.append(Finish(id, "cancel"))
            return True
        number = self._where.get(id)
        if number is None:
            return False
        slot = self._slots[number]
        if slot.ahead == id:
            del self._where[id]
            slot.recalled = True
            self._steps += (Recall(number), Finish(id, "cancel"))
        else:
            self._ask(number, "canceled", now)
        return True

    def _ask(self, number: int, why: Why, now: float) -> None:
        slot = self._slots[number]
        if slot.why is None:
            slot.why = why
            self._slots.move(number, "ask", now)
            self._steps.append(Ask(number))

    def _finish(self, id: str, why: Why | None, error: str) -> None:
        how, said = self.verdict(why, error)
        self._steps.append(Finish(id, how, said))

    def verdict(self, why: Why | None, error: str) -> tuple[End, str]:
        """How a prediction that did not end by itself has ended."""
        match why:
            case "canceled":
                return "cancel", ""
            case "timeout":
                return "fail", f"the prediction took longer than {self.limits.timeout:g} s"
        return "fail", error

    def why(self, number: int) -> Why | None:
        """Why what runs in that slot was asked to end."""
        return self._slots[number].why

    # -- time ------------------------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> None:
        """What is due."""
        for number, slot in list(self._slots.items()):
            if now < self._slots.due(slot):
                continue
            match slot.state:
                case SlotState.STARTING:
                    self._steps.append(Kill(number))
                    slot.since = math.inf  # once; its death is told
                case SlotState.BUSY:
                    self._ask(number, "timeout", now)
                case SlotState.ENDING:
                    self._slots.move(number, "kill", now)
                    self._steps.append(Kill(number))
                case SlotState.READY:
                    self._free.remove(number)
                    self._slots.move(number, "spare", now)
                    self._steps.append(Kill(number))
        if now >= self._more_due():
            number = next(number for number, slot in self._slots.items() if slot.state is SlotState.UNUSED)
            self._slots.move(number, "want", now)
            self._waits_since = now
            self._steps.append(Make(number))

    def _more_due(self) -> float:
        """When another slot is wanted: predictions have waited for long, and none is being made."""
        if not self._queue or self.limits.min_slots is None:
            return math.inf
        states = self._slots.states()
        return self._waits_since + self.limits.scale_after if states[SlotState.UNUSED] and not states[SlotState.STARTING] else math.inf

    def next_due(self) -> float:
        """When `pass_time` has something to do; infinity if only events make it so."""
        return min(self._slots.next_due(), self._more_due())

    # -- what is told ----------------------------------------------------------------------------------------------------------

    @property
    def health(self) -> Health:
        """Without the user's own check."""
        if self.health_ends is not None:
            return self.health_ends
        states = {slot.state for slot in self._slots.values()}
        if SlotState.READY in states:
            return Health.READY
        return Health.BUSY if states & {SlotState.BUSY, SlotState.ENDING} else Health.STARTING

    def counts(self) -> Iterator[tuple[str, int]]:
        """Slots by state, and how many predictions wait."""
        states = self._slots.states()
        for state in SlotState:
            yield state.value, states[state]
        yield "queue", self._waiting()
