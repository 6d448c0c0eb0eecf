"""Who may come to a cluster's head, as what, and how often. Pure: no clock, no file; `now` counts seconds, `wall` is the time of day.

    Book       what the head knows: keys with their roles, join tokens
    Access     decisions about connections, messages, joins and rates

Refuses what the book does not allow, whatever a message says of its sender. Invariants: a machine's name belongs to the key that
claimed it first; a join token admits only what it was made for, and only so often; a revoked or expired key is nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soma.errors import SecurityError, VersionMismatchError
from soma.transport import messages as m
from soma.transport.visitors import Refusal, Role, User, Verdict

NAMES = 64
"""Machines that one key may stand for at once; the one that was named first is forgotten beyond that."""
ENTRIES = 1024
"""Keys, and tokens, of one book."""

READER_ASKS = frozenset({"status", "events", "logs"})

SAYS: dict[Role, frozenset[type]] = {
    "join": frozenset({m.Join}),
    "node": frozenset({m.Join, m.Register, m.Heartbeat, m.Leave, m.Query}),
    "driver": frozenset({m.Join, m.Query, m.Drain, m.Shutdown}),
    "reader": frozenset({m.Query}),
}
"""What each role may send. A key that is known already joins to be told the members' key anew."""


def user_id(public: bytes) -> str:
    """What a key is called: the first half of it, in hex."""
    return public.hex()[:32]


@dataclass(frozen=True, slots=True)
class Key:
    """A client's public key that may connect."""

    public: bytes
    role: Role
    added: float
    """Time of day."""
    names: tuple[str, ...] = ()
    """Machines it stands for, the one that was named last at the end."""
    note: str = ""

    @property
    def id(self) -> str:
        return user_id(self.public)


@dataclass(frozen=True, slots=True)
class Token:
    """A join token, as the head knows it: without what makes it work."""

    public: bytes
    grants: Role
    expires: float
    """Time of day."""
    uses: int | None = None
    """How many more keys it admits; None: any number."""
    revoked: bool = False

    @property
    def id(self) -> str:
        return user_id(self.public)

    def over(self, wall: float) -> str:
        """Why it is not good any more; "" if it is. One that has no uses left still lets those ask again whom it admitted."""
        if self.revoked:
            return "it was revoked"
        return "it has expired" if wall >= self.expires else ""


@dataclass(frozen=True, slots=True)
class Book:
    """Keys and tokens by user id. Each change makes a new one."""

    keys: Mapping[str, Key] = field(default_factory=dict)
    tokens: Mapping[str, Token] = field(default_factory=dict)

    def with_key(self, key: Key) -> Book:
        if len(self.keys) >= ENTRIES and key.id not in self.keys:
            raise SecurityError(f"the head knows {ENTRIES} keys already; revoke some with `soma keys revoke`")
        return replace(self, keys={**self.keys, key.id: key})

    def with_token(self, token: Token, wall: float) -> Book:
        """With this token, and without those that expired."""
        kept = {i: t for i, t in self.tokens.items() if wall < t.expires and i != token.id}
        if len(kept) >= ENTRIES:
            raise SecurityError(f"the head knows {ENTRIES} join tokens already; revoke some, or wait until some expire")
        return replace(self, tokens={**kept, token.id: token})

    def without_key(self, key_id: str) -> Book:
        return replace(self, keys={i: k for i, k in self.keys.items() if i != key_id})

    def holder(self, name: str) -> Key | None:
        """Whose machine this is."""
        return next((k for k in self.keys.values() if name in k.names), None)


@dataclass(frozen=True, slots=True)
class Rates:
    """How many messages a second one user may send, and what happens if there are more."""

    per_second: float = 200.0
    burst: float = 400.0
    patience: int = 2000
    """So many dropped messages, without a pause in which `burst` is regained, and the key is refused for `penalty` seconds."""
    penalty: float = 30.0


RATES = Rates()


@dataclass(slots=True)
class Bucket:
    """What one user may still send."""

    level: float
    at: float
    dropped: int = 0
    shut_until: float = -math.inf

    def spend(self, cost: int, now: float, rates: Rates) -> Verdict:
        if now < self.shut_until:
            return Verdict.CUT
        if now > self.at:
            self.level = min(rates.burst, self.level + (now - self.at) * rates.per_second)
            self.at = now
        if self.level >= rates.burst:
            self.dropped = 0
        if self.level >= cost:
            self.level -= cost
            return Verdict.PASS
        self.dropped += cost
        if self.dropped < rates.patience:
            return Verdict.WARN if self.dropped == cost else Verdict.DROP
        self.dropped, self.shut_until = 0, now + rates.penalty
        return Verdict.CUT


class Access:
    """Decides by a book, which may be replaced at any time."""

    def __init__(self, book: Book, rates: Rates = RATES) -> None:
        self.book, self.rates = book, rates
        self._buckets: dict[str, Bucket] = {}

    def decide(self, public: bytes, now: float, wall: float) -> User | Refusal:
        """Whether a key may connect."""
        found = self.who(user_id(public), wall)
        if isinstance(found, User):
            bucket = self._buckets.get(found.id)
            if bucket is not None and now < bucket.shut_until:
                return Refusal(f"it sent too much, and is shut out for {bucket.shut_until - now:.0f} s more")
        return found

    def who(self, user: str, wall: float) -> User | Refusal:
        """The user of an id, if there is one now."""
        key, token = self.book.keys.get(user), self.book.tokens.get(user)
        if key is not None:
            return User(key.id, key.role)
        if token is None:
            return Refusal("this key is not on the head's list (any more)")
        why = token.over(wall)
        return Refusal(f"this join token is not good any more: {why}; ask for a new one") if why else User(token.id, "join", token.grants)

    def may(self, user: User, msg: Any) -> Refusal | None:
        """Why this user may not send this; None if it may."""
        name = type(msg).__name__
        if type(msg) not in SAYS[user.role]:
            held = "the holder of a join token" if user.role == "join" else f"a {user.role}"
            return Refusal(f"{name} is not for {held}")
        if user.role == "reader" and msg.what not in READER_ASKS:
            return Refusal(f"a reader may ask for {', '.join(sorted(READER_ASKS))}, not for {msg.what!r}")
        if user.role == "node" and type(msg) in (m.Register, m.Heartbeat, m.Leave) and msg.node_id not in self.book.keys[user.id].names:
            return Refusal(f"{name} speaks for the node {msg.node_id!r}, which this key did not join as")
        return None

    def admit(self, user: User, msg: m.Join, wall: float) -> Book:
        """The book after this user joined; `book` itself is left for the caller to set.

        Raises:
            SecurityError: it may not: another role than granted, somebody else's key, a machine's name that another key has.
        """
        role: Role = "node" if msg.role == "node" else "driver"
        if msg.role not in ("node", "driver") or (role == "node") != (msg.node_id is not None):
            raise SecurityError(f"one joins as a node, with a name, or as a driver, without; not as {msg.role!r}, named {msg.node_id!r}")
        allowed = user.grants if user.role == "join" else user.role
        if role != allowed:
            raise SecurityError(f"this key lets nobody join as {role}, only as {allowed}; ask for another token")
        if user.role != "join" and user_id(msg.public_key) != user.id:
            raise SecurityError("a key that is known already may join only for itself")
        holder = self.book.holder(msg.node_id) if msg.node_id is not None else None
        if holder is not None and holder.public != msg.public_key:
            raise SecurityError(f"the node {msg.node_id!r} has joined with another key before; choose another name, or, if that machine "
                                f"is gone, `soma keys revoke {holder.id[:12]}` on the head's machine")
        return self._admitted(user, role, msg, wall)

    def _admitted(self, user: User, role: Role, msg: m.Join, wall: float) -> Book:
        book, known = self.book, self.book.keys.get(user_id(msg.public_key))
        if known is not None and (known.public, known.role) != (msg.public_key, role):
            raise SecurityError(f"this key is known already, as that of a {known.role}")
        if user_id(msg.public_key) in book.tokens:
            raise SecurityError("a join token's own key stays with the token; make a key of your own")
        token = book.tokens.get(user.id)
        if known is None and token is not None:  # who asks again because the answer was lost is not counted twice
            if token.uses == 0:
                raise SecurityError("this join token admitted as many as it may; ask for a new one")
            uses = None if token.uses is None else token.uses - 1
            book = replace(book, tokens={**book.tokens, token.id: replace(token, uses=uses)})
        key = known or Key(msg.public_key, role, wall)
        if msg.node_id is not None:
            names = (*(n for n in key.names if n != msg.node_id), msg.node_id)[-NAMES:]
            key = replace(key, names=names)
        return book.with_key(key)

    def spend(self, user: str, now: float, cost: int = 1) -> Verdict:
        """One more message of this user."""
        bucket = self._buckets.get(user)
        if bucket is None:
            self._buckets = {u: b for u, b in self._buckets.items() if u in self.book.keys or u in self.book.tokens}
            bucket = self._buckets[user] = Bucket(self.rates.burst, now)
        return bucket.spend(cost, now, self.rates)


def check_versions(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """VersionMismatchError, naming both sides, unless protocol and Python's minor version agree: code moves between them."""
    said = (f"the head runs soma {ours['soma']} with protocol {ours['protocol']} on Python {ours['python']}, "
            f"who wants to join soma {theirs['soma']} with protocol {theirs['protocol']} on Python {theirs['python']}")
    if theirs["protocol"] != ours["protocol"]:
        raise VersionMismatchError(f"{said}; install the same soma on both sides")
    if theirs["python"].split(".")[:2] != ours["python"].split(".")[:2]:
        raise VersionMismatchError(f"{said}; functions and classes move between them, so both need the same Python minor version")


class Audit:
    """Which refusals are written down: at most `most` in `seconds`, then only how many there were."""

    def __init__(self, most: int = 20, seconds: float = 10.0) -> None:
        self._most, self._seconds = most, seconds
        self._recent: deque[float] = deque()
        self._hidden = 0

    def lines(self, who: str, what: str, why: str, now: float) -> list[str]:
        while self._recent and now - self._recent[0] >= self._seconds:
            self._recent.popleft()
        if len(self._recent) >= self._most:
            self._hidden += 1
            return []
        self._recent.append(now)
        said = [f"{self._hidden} more refusals were not written down"] if self._hidden else []
        self._hidden = 0
        return [*said, f"refused {what} of {who}: {why}"]
