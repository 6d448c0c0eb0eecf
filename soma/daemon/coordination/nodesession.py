"""A node's side: from registering with the head to leaving it, through every loss of contact.

A node that hears nothing from its head is cut off: what runs there goes on, nothing new starts, what is to be told is kept, and it
registers again and again. It never concludes by itself that it was declared lost. The head says so, when the node comes back
after that; then it is fenced: it ends all that it has, and not before the last process is gone it registers, as a higher incarnation.

Refuses: orders to another incarnation, orders to start something that are older than another order it has seen (late copies),
and, while it drains or leaves, anything new.

Holds: a process is started once, however often it is ordered; its end is told until the head confirms it. The shell answers each
`Start` with `process_exited`, in the end; also for what could not be started.
"""

from __future__ import annotations

import zlib

from soma.daemon.coordination.kept import Kept, Process
from soma.daemon.coordination.nodestates import (
    End,
    EndAll,
    Event,
    Instruction,
    NeverRan,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SendRegister,
    SetTimer,
    Start,
    State,
    Stop,
    TellExited,
    TellPrinted,
    TellStarted,
    advance,
)

OUTPUT_BYTES = 1 << 20
"""What is kept of printed lines while the head cannot be told."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to register; each pause is twice the one before."""


class NodeSession:
    """One node agent. Every method returns instructions, to be carried out in order; time is an argument.

    `incarnation` is the first to try. No earlier life of a node of this name may have used it: two lives with one number are not told
    apart. Milliseconds since 1970 will do. If it is lower than one the head has seen, the head says so, and the next try is higher.
    """

    def __init__(self, node: str, incarnation: int, *, heartbeat: float = 1.0, missed: int = 3, welcomed: bool = False,
                 output_bytes: int = OUTPUT_BYTES) -> None:
        self.node, self.incarnation, self.heartbeat, self.silence = node, incarnation, heartbeat, heartbeat * missed
        self.state, self.welcomed, self.draining = State.JOINING, welcomed, False
        self.processes: dict[str, Process] = {}
        self.epoch = 0
        """Of the head that accepted it last."""
        self._number = 0
        """The highest of any order seen."""
        self._registration = 0
        self._heard = self._beaten = float("-inf")
        self._pause = FIRST_PAUSE
        self._retry = float("-inf")
        self._timer: float | None = None
        self._kept = Kept(output_bytes)
        self._spread = 0.75 + zlib.crc32(node.encode()) / 2**33  # 0.75…1.25: a thousand nodes do not all come back at once

    @property
    def in_touch(self) -> bool:
        return self.state in (State.REGISTERED, State.DRAINING)

    @property
    def alive(self) -> frozenset[str]:
        """What it answers for."""
        return frozenset(self.processes)

    # -- the head ------------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Instruction]:
        return self._timed(self._ask(now))

    def welcome(self, now: float) -> list[Instruction]:
        if self.welcomed or self.state is not State.JOINING:
            return []
        self.welcomed = True
        return self._timed(self._ask_afresh(now))

    def registered(self, incarnation: int, registration: int, epoch: int, number: int, now: float) -> list[Instruction]:
        """Accepted. Counts only as the answer to the latest attempt: since that one, nothing was started here."""
        if (incarnation, registration) != (self.incarnation, self._registration) or self.state not in (State.JOINING, State.CUT_OFF):
            return []
        self.state = advance(self.state, Event.ACCEPTED)
        self.epoch, self._number, self._heard, self._pause = epoch, max(self._number, number), now, FIRST_PAUSE
        told = [said for key in self.processes for said in self._tell(key, now)]
        return self._timed([*self._enter_drain(), *self._beat(now), *told, *self._kept.take(), *self._if_empty(now)])

    def fenced(self, incarnation: int, seen: int, now: float) -> list[Instruction]:
        if incarnation != self.incarnation or self.state in (State.FENCED, State.LEAVING, State.GONE):
            return []
        self.incarnation = max(self.incarnation, seen)  # the next is one more
        self.state = advance(self.state, Event.REFUSED)
        if self.state is State.JOINING:  # nothing runs here
            self.incarnation += 1
            return self._timed(self._ask_afresh(now))
        return self._timed([EndAll(), *self._if_empty(now)])

    def beat_echo(self, epoch: int, now: float) -> list[Instruction]:
        """The head heard a heartbeat. Another epoch: it does not know this node yet."""
        if not self.in_touch:
            return []
        self._heard = now
        return self._timed(self._cut(now) if epoch != self.epoch else [])

    def link_up(self, now: float) -> list[Instruction]:
        return self._timed(self._ask_afresh(now) if self.state in (State.JOINING, State.CUT_OFF) else [])

    def link_down(self, now: float) -> list[Instruction]:
        return self._timed(self._cut(now) if self.in_touch else [])

    # -- orders --------------------------------------------------------------------------------------------------------------

    def launch(self, key: str, incarnation: int, number: int, now: float) -> list[Instruction]:
        if incarnation != self.incarnation or not self.in_touch:
            return []
        late, self._number = number <= self._number, max(self._number, number)
        if key in self.processes:
            return self._tell(key, now)
        if late:
            return []
        if self.state is State.DRAINING:
            self.processes[key] = Process(ended=True, detail=NeverRan.DRAINING)
            return self._tell(key, now)
        self.processes[key] = Process()
        return [Start(key)]

    def kill(self, key: str, incarnation: int, number: int, now: float) -> list[Instruction]:
        if incarnation != self.incarnation:
            return []
        self._number = max(self._number, number)
        process = self.processes.get(key)
        if process is None:
            return [TellExited(key, self.incarnation, NeverRan.UNKNOWN)] if self.in_touch else []
        return self._tell(key, now) if process.ended else [End(key)]

    def confirmed(self, key: str, incarnation: int, number: int, now: float) -> list[Instruction]:
        """The head knows of this end; no order to start it that was sent before this one counts any more."""
        if incarnation != self.incarnation:
            return []
        self._number = max(self._number, number)
        if (process := self.processes.get(key)) is not None and process.ended:
            del self.processes[key]
        return self._timed(self._if_empty(now))

    # -- what happens here ---------------------------------------------------------------------------------------------------

    def process_started(self, key: str, now: float) -> list[Instruction]:
        self.processes[key].running = True
        return self._tell(key, now)

    def process_exited(self, key: str, detail: object, now: float) -> list[Instruction]:
        """It ended, or could not be started."""
        process = self.processes[key]
        process.ended, process.detail = True, detail
        if self.state is State.FENCED:  # the head counted it long ago
            del self.processes[key]
        return self._timed([*self._tell(key, now), *self._if_empty(now)])

    def printed(self, lines: object, size: int) -> list[Instruction]:
        if self.in_touch:
            return [TellPrinted(lines)]
        self._kept.add(lines, size)
        return []

    def drain(self, now: float) -> list[Instruction]:
        """Take nothing new, and leave when nothing is left."""
        self.draining = True
        return self._timed([*self._enter_drain(), *(self._beat(now) if self.in_touch else []), *self._if_empty(now)])

    def leave(self, now: float) -> list[Instruction]:
        """Leave, and end what runs."""
        if self.state is State.GONE:
            return []
        self.state = advance(self.state, Event.LEAVE)
        return self._timed([EndAll(), *self._if_empty(now)])

    def tick(self, now: float) -> list[Instruction]:
        self._timer = None
        said: list[Instruction] = []
        if self.in_touch and now >= self._heard + self.silence:  # the sums that `_due` gave: not a difference, rounded otherwise
            said = self._cut(now)
        elif self.in_touch and now >= self._beaten + self.heartbeat:
            said = self._beat(now)
            for key, process in self.processes.items():
                said += self._tell(key, now) if process.ended and now - process.told >= 2 * self.heartbeat else []
        elif self.state in (State.JOINING, State.CUT_OFF) and now >= self._retry:
            said = self._ask(now)
        return self._timed(said)

    # -- inside --------------------------------------------------------------------------------------------------------------

    def _tell(self, key: str, now: float) -> list[Instruction]:
        process = self.processes.get(key)
        if process is None or not self.in_touch:
            return []
        process.told = now
        if process.ended:
            return [TellExited(key, self.incarnation, process.detail)]
        return [TellStarted(key, self.incarnation)] if process.running else []

    def _ask(self, now: float) -> list[Instruction]:
        self._retry, self._pause = now + self._pause * self._spread, min(2 * self._pause, LONGEST_PAUSE)
        if not self.welcomed:
            return [SendJoin()]
        self._registration += 1
        return [SendRegister(self.incarnation, self._registration, self.alive)]

    def _ask_afresh(self, now: float) -> list[Instruction]:
        self._pause = FIRST_PAUSE
        return self._ask(now)

    def _beat(self, now: float) -> list[Instruction]:
        self._beaten = now
        return [SendHeartbeat(self.incarnation, self.draining)]

    def _cut(self, now: float) -> list[Instruction]:
        self.state = advance(self.state, Event.CUT)
        return self._ask_afresh(now)

    def _enter_drain(self) -> list[Instruction]:
        if not self.draining or self.state in (State.LEAVING, State.GONE):
            return []
        self.state = advance(self.state, Event.DRAIN)
        return []

    def _if_empty(self, now: float) -> list[Instruction]:
        """What follows when nothing is left: nothing that runs, and where the head shall know of each end, nothing to tell."""
        if self.state not in (State.FENCED, State.DRAINING, State.LEAVING) or any(not p.ended for p in self.processes.values()):
            return []
        if self.state is State.DRAINING and self.processes:
            return []
        return self._emptied(now)

    def _emptied(self, now: float) -> list[Instruction]:
        self.state = advance(self.state, Event.EMPTY)
        if self.state is State.GONE:
            return [SendLeave(self.incarnation), Stop()]
        if self.state is State.LEAVING:  # it drained
            return self._emptied(now)
        self.processes.clear()
        self.incarnation += 1
        if self.draining:
            self._enter_drain()
            return self._emptied(now)
        return self._ask_afresh(now)

    def _timed(self, said: list[Instruction]) -> list[Instruction]:
        """`said`, and the timer, if it has to be another."""
        due = self._due()
        if due is not None and due != self._timer:
            self._timer = due
            return [*said, SetTimer(due)]
        return said

    def _due(self) -> float | None:
        if self.in_touch:
            return min(self._beaten + self.heartbeat, self._heard + self.silence)
        return self._retry if self.state in (State.JOINING, State.CUT_OFF) else None
