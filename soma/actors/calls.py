"""Calls of this process to one actor: what waits, what is in flight, what becomes of it. Pure: no socket, no clock.

`Link` takes events (a call was made, a reply came, the actor is ready, lost, or dead) and returns what to send or settle.
Invariants: a call leaves exactly once as settled; calls are sent in the order made; at most `window` are unanswered, the rest
waits here, so a slow actor costs its callers memory and nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from soma.errors import DeathCause, Executed
from soma.ids import ActorId, CallId, ObjectId
from soma.transport.values import Parcel


def fingerprint(call_id: bytes) -> bytes:
    """8 bytes that tell calls apart in the list of begun calls that a dead process leaves behind."""
    return call_id[:4] + call_id[12:]


UNTOLD = b"?"
"""Instead of fingerprints: nobody can tell which calls had begun, so each of them may have."""


@dataclass(slots=True, eq=False)
class Pending:
    """A call that is not settled."""

    call_id: CallId
    method: str
    parcel: Parcel
    returns: tuple[ObjectId, ...]
    streams: bool = False
    retries: int = 0
    """Further attempts that are allowed; -1 without end."""
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    deadline: float | None = None
    attempt: int = 0
    answered: int = 0
    """How many of its values came."""
    force_cancelled: bool = False
    """Its caller has the process ended for it."""
    label: str = ""
    """How messages name it, where the method's name does not serve (tasks)."""
    listener: Callable[[dict[str, Any]], None] | None = None
    """Hears what the running call tells."""


@dataclass(slots=True)
class Lost:
    """What a death settles: calls with what is known of each, and those that will be repeated."""

    failed: list[tuple[Pending, Executed]] = field(default_factory=list)
    repeated: list[Pending] = field(default_factory=list)


class Link:
    """One caller's view of one actor."""

    __slots__ = ("actor", "incarnation", "peer", "dead", "cause", "history", "waiting", "sent", "_window", "_ready", "init_error",
                 "when_idle")

    def __init__(self, actor: ActorId, window: int) -> None:
        self.actor = actor
        self.incarnation = -1
        self.peer = ""
        """Where the present incarnation is reached."""
        self.dead = False
        self.cause: DeathCause | None = None
        self.history: tuple[DeathCause, ...] = ()
        self.init_error: Any = None
        self.waiting: deque[Pending] = deque()
        self.sent: dict[CallId, Pending] = {}
        self._window = window
        self._ready = False
        self.when_idle: Callable[[], None] | None = None
        """To be called once no call is unsettled: the handle was dropped meanwhile."""

    @property
    def unsettled(self) -> int:
        return len(self.waiting) + len(self.sent)

    @property
    def ready(self) -> bool:
        return self._ready

    def submit(self, call: Pending) -> bool:
        """A new call; True if it is to be sent now. Must not be called when `dead`."""
        if self._ready and not self.waiting and len(self.sent) < self._window:
            self.sent[call.call_id] = call
            return True
        self.waiting.append(call)
        return False

    def flow(self) -> list[Pending]:
        """What may be sent now; call it after every event that makes room.

        Once the window was full, nothing is sent before half of it is free, and then all that fits: a burst wakes ZeroMQ's
        thread once, and the actor still has the other half to do.
        """
        if not self._ready or not self.waiting or len(self.sent) > self._window // 2:
            return []
        out = []
        while self.waiting and len(self.sent) < self._window:
            call = self.waiting.popleft()
            self.sent[call.call_id] = call
            out.append(call)
        return out

    def settle(self, call_id: CallId) -> Pending | None:
        """The last reply of a call came; None if it is not ours (late, twice, or cancelled)."""
        return self.sent.pop(call_id, None)

    def repeat(self, call: Pending) -> None:
        """A call that was just settled shall run once more (the caller asked for it): it keeps its place, the front."""
        self._spend(call)
        self.waiting.appendleft(call)

    def drop(self, call_id: CallId) -> Pending | None:
        """Take back a call that was not sent; None if it was."""
        for call in self.waiting:
            if call.call_id == call_id:
                self.waiting.remove(call)
                return call
        return None

    def started(self, incarnation: int, peer: str) -> None:
        """An incarnation is ready to be called at `peer`. An older one than known is late news."""
        if not self.dead and incarnation >= self.incarnation:
            self.incarnation, self.peer = incarnation, peer
            self._ready = True

    def lost(self, incarnation: int, begun: frozenset[bytes]) -> Lost:
        """An incarnation died and another will follow. Calls that never began go again: nothing of them happened."""
        out = Lost()
        if self.dead or incarnation < self.incarnation:
            return out
        self._ready = False
        self.incarnation = incarnation + 1  # news of the dead one that come late change nothing
        again: list[Pending] = []
        for call, executed in self._judged(begun):
            if call.force_cancelled:
                out.failed.append((call, "maybe" if call.attempt else executed))
            elif executed == "no" and not call.answered:
                again.append(call)
            elif call.retries != 0:
                self._spend(call)
                again.append(call)
                out.repeated.append(call)
            else:
                out.failed.append((call, "maybe"))
        self.sent.clear()
        self.waiting.extendleft(reversed(again))
        return out

    def died(self, begun: frozenset[bytes], cause: DeathCause, history: tuple[DeathCause, ...]) -> Lost:
        """The actor is gone for good: everything settles."""
        out = Lost()
        if self.dead:
            return out
        self.dead, self._ready, self.cause, self.history = True, False, cause, history
        known = [*self._judged(begun), *((call, "no") for call in self.waiting)]
        out.failed = [(call, "maybe" if call.attempt else executed) for call, executed in known]
        self.sent.clear()
        self.waiting.clear()
        return out

    def _judged(self, begun: frozenset[bytes]) -> list[tuple[Pending, Executed]]:
        """What is known of each call in flight. Calls run in order: one that lies before a begun one may have run too."""
        calls = list(self.sent.values())
        last = max((i for i, c in enumerate(calls) if fingerprint(c.call_id) in begun), default=-1)
        return [(call, "maybe" if i <= last else "no") for i, call in enumerate(calls)]

    @staticmethod
    def _spend(call: Pending) -> None:
        if call.retries > 0:
            call.retries -= 1
        call.attempt += 1
        call.answered = 0
