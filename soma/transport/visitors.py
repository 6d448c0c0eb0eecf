"""Who comes to the head's control port: the words between the port (`transport.control`) and who decides (`daemon.gate`).

`Gate` is asked before anything reaches the head, `Receiver` is the head's side, `Inbox` the receiver for a loop of another thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

from soma.transport.endpoint import Waker

WAITING = 1000
"""Messages that may wait for the head, and answers that may wait for one client."""

Role = Literal["driver", "node", "reader", "join"]


@dataclass(frozen=True, slots=True)
class User:
    """Whose key a connection has. `id` is the first 32 hex digits of the public key."""

    id: str
    role: Role
    grants: Role | None = None
    """What the holder of a join token may join as."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, for the one who asked; `error` is the name of one of soma's errors."""

    why: str
    error: str = "SecurityError"


class Verdict(Enum):
    """What becomes of one more message."""

    PASS = "pass"
    WARN = "warn"
    """Drop it, and say so: it is the first of many."""
    DROP = "drop"
    CUT = "cut"
    """It was too many for too long: end the connection."""


class Gate(Protocol):
    """Who may do what (`daemon.gate`). Called from the server's thread."""

    def enter(self, public: bytes, address: str) -> str | None:
        """The user id of a key that may connect now."""

    def spend(self, user_id: str, cost: int) -> Verdict:
        """One more message; `cost` is what it counts for."""

    def judge(self, user_id: str, msg: Any) -> User | Refusal:
        """Whether this user, if it still is one, may send this."""

    def note(self, user_id: str, why: str) -> None:
        """A message of this user was refused before anybody could judge it."""


class Receiver(Protocol):
    """What happens on the port, told from the server's thread."""

    def deliver(self, user: User, client: bytes, msg: Any, frames: list[bytes]) -> bool:
        """False: there is no room; the message is dropped. `client` is what `reply` wants."""

    def closed(self, user_id: str, client: bytes) -> None:
        """A connection ended. Rarely it is told of one that lives: its next message shows that."""

    def failed(self, error: Exception) -> None:
        """The port's thread ended by a mistake of ours; nothing more will come."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to the head; `msg` is None where the connection ended."""

    user_id: str
    client: bytes
    user: User | None = None
    msg: Any = None
    frames: Sequence[bytes] = ()


class Inbox:
    """A Receiver for a loop of another thread: a bounded queue with a descriptor for its selector."""

    def __init__(self, limit: int = WAITING) -> None:
        self._letters: deque[Letter] = deque()
        self._limit = limit
        self._error: Exception | None = None
        self._waker = Waker()

    def fileno(self) -> int:
        return self._waker.fd

    def deliver(self, user: User, client: bytes, msg: Any, frames: list[bytes]) -> bool:
        if len(self._letters) >= self._limit:
            return False
        self._put(Letter(user.id, client, user, msg, frames))
        return True

    def closed(self, user_id: str, client: bytes) -> None:
        self._put(Letter(user_id, client))  # as many as there are connections

    def failed(self, error: Exception) -> None:
        self._error = error
        self._waker.set()

    def _put(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._waker.set()

    def take_all(self) -> list[Letter]:
        """Everything that is there; the descriptor is quiet until more comes. Raises what ended the port, if anything did."""
        self._waker.clear()
        if self._error is not None:
            raise self._error
        taken = []
        while self._letters:
            taken.append(self._letters.popleft())
        return taken

    def close(self) -> None:
        self._waker.close()
