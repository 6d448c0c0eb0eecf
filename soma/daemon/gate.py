"""The head's list of keys and join tokens: one file, and what the control port asks about it.

    <state directory>/access.json    $SOMA_STATE, else $XDG_STATE_HOME/soma, else ~/.local/state/soma; mode 0600

The `soma` command and the head both write it, one at a time (`access.lock`), each time as a whole new file. The head looks at every
decision whether the file is another, so a revoked key is nobody at its next message. Fails closed: a file that is damaged, or open
to others, admits nobody until it is repaired.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from soma import __version__
from soma.config import MIB, PROTOCOL_VERSION
from soma.daemon.access import RATES, Access, Audit, Book, Key, Rates, Token, check_versions
from soma.errors import SecurityError
from soma.transport import messages as m
from soma.transport.keys import (
    JoinToken,
    KeyPair,
    KeyRole,
    key_of,
    keys_dir,
    own_key,
    private_dir,
    read_private,
    save_key,
    text_of,
    write_private,
)
from soma.transport.visitors import Refusal, Role, User, Verdict

log = logging.getLogger("soma.audit")

_FILE_BYTES = 4 * MIB
_ADVICE = "move it away and the head begins with an empty list: every machine must join again"


def state_dir() -> Path:
    """Where this user's head keeps what outlives it; perhaps not there yet."""
    if given := os.environ.get("SOMA_STATE"):
        return Path(given).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "soma"


def versions() -> dict[str, Any]:
    """Of this process, as `Join` carries them."""
    return {"protocol": PROTOCOL_VERSION, "soma": __version__, "python": platform.python_version()}


class BookFile:
    """The book on disk."""

    def __init__(self, state: Path) -> None:
        self.path = private_dir(state) / "access.json"
        self._lock = state / "access.lock"

    def mark(self) -> tuple[int, int, int] | None:
        """Changes whenever the file does; None: there is none."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    def load(self) -> Book:
        """SecurityError if it is damaged or others can reach it."""
        if not os.path.lexists(self.path):
            return Book()
        told = read_private(self.path, _ADVICE, _FILE_BYTES)
        try:
            return _book(told)
        except (KeyError, TypeError, ValueError, AttributeError, SecurityError) as e:
            raise SecurityError(f"{self.path} is damaged ({type(e).__name__}: {e}); {_ADVICE}") from None

    def change(self, make: Callable[[Book], Book]) -> Book:
        """Replace the book by what `make` makes of it, while nobody else does. Nothing is written if `make` raises."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)  # open obeys the umask
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = self.load()
            book = make(before)
            if book != before:
                fresh = self.path.with_name(f".access.{secrets.token_hex(4)}")
                write_private(fresh, json.dumps(_plain(book)).encode())
                fresh.rename(self.path)
            return book
        finally:
            os.close(fd)


def _plain(book: Book) -> dict[str, Any]:
    keys = [{"public": text_of(k.public), "role": k.role, "added": k.added, "names": list(k.names), "note": k.note}
            for k in book.keys.values()]
    tokens = [{"public": text_of(t.public), "grants": t.grants, "expires": t.expires, "uses": t.uses, "revoked": t.revoked}
              for t in book.tokens.values()]
    return {"format": 1, "keys": keys, "tokens": tokens}


def _book(told: Any) -> Book:
    if told["format"] != 1:
        raise ValueError(f"its format is {told['format']!r}, this soma knows 1")
    keys = [Key(key_of(k["public"]), _one_of(k["role"], ("node", "driver", "reader")), float(k["added"]), tuple(map(str, k["names"])),
                str(k["note"])) for k in told["keys"]]
    tokens = [Token(key_of(t["public"]), _one_of(t["grants"], ("node", "driver")), float(t["expires"]),
                    None if t["uses"] is None else int(t["uses"]), bool(t["revoked"])) for t in told["tokens"]]
    return Book({k.id: k for k in keys}, {t.id: t for t in tokens})


def _one_of(role: Any, roles: tuple[Role, ...]) -> Role:
    if role not in roles:
        raise ValueError(f"a role {role!r}")
    return next(r for r in roles if r == role)


class Gate:
    """What the control port asks (`transport.visitors.Gate`), and what the head does about members. For any thread."""

    def __init__(self, state: Path, rates: Rates = RATES, now: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time) -> None:
        self._file = BookFile(state)
        self._now, self._wall = now, wall
        self._mark = self._file.mark()
        self._access, self._audit = Access(self._file.load(), rates), Audit()
        self._lock = threading.Lock()

    # -- what the port asks ----------------------------------------------------------------------------------------------

    def enter(self, public: bytes, address: str) -> str | None:
        with self._lock:
            self._look()
            found = self._access.decide(public, self._now(), self._wall())
            if isinstance(found, User):
                return found.id
            self._write_down(f"key {text_of(public)[:12]}… from {address}", "the connection", found.why)
            return None

    def spend(self, user_id: str, cost: int) -> Verdict:
        with self._lock:
            verdict = self._access.spend(user_id, self._now(), cost)
            if verdict is Verdict.WARN:
                self._write_down(user_id, "messages", "too many")
            return verdict

    def judge(self, user_id: str, msg: Any) -> User | Refusal:
        with self._lock:
            self._look()
            found = self._access.who(user_id, self._wall())
            refusal = found if isinstance(found, Refusal) else self._access.may(found, msg)
            if refusal is None:
                return found
            self._write_down(user_id, type(msg).__name__, refusal.why)
            return refusal

    def note(self, user_id: str, why: str) -> None:
        with self._lock:
            self._write_down(user_id, "a message", why)

    def _look(self) -> None:
        """Read the file if it is another."""
        mark = self._file.mark()
        if mark == self._mark and mark is not None:
            return
        self._mark = mark
        try:
            self._access.book = self._file.load()
        except SecurityError as e:
            self._write_down("everybody", "all", f"nobody is admitted: {e}")
            self._access.book, self._mark = Book(), None  # look again at the next decision

    def _write_down(self, who: str, what: str, why: str) -> None:
        for line in self._audit.lines(who, what, why, self._now()):
            log.warning("%s", line)

    # -- what the head does ----------------------------------------------------------------------------------------------

    def admit(self, user: User, msg: m.Join) -> None:
        """Put who joins on the list.

        Raises:
            VersionMismatchError: its code could not run here, or ours there.
            SecurityError: it may not join, or not like this.
        """
        check_versions(msg.versions, versions())
        self._change(lambda access: access.admit(user, msg, self._wall()), f"{msg.role} {user.id}")

    def allow(self, public: bytes, role: Role, names: tuple[str, ...] = (), note: str = "") -> None:
        """Put a key on the list that needs no token: the head's own driver and node, or one whose public key somebody brought."""
        self._change(lambda access: access.book.with_key(Key(public, role, self._wall(), names, note)), role)

    def _change(self, make: Callable[[Access], Book], who: str) -> None:
        with self._lock:
            def made(book: Book) -> Book:
                self._access.book = book
                return make(self._access)

            try:
                self._access.book = self._file.change(made)
            except SecurityError as e:
                self._write_down(who, "to join", str(e))
                raise
            self._mark = None  # somebody else may have changed it by now


# -- what the `soma` command does ---------------------------------------------------------------------------------------


def make_key(role: KeyRole, path: Path | None) -> tuple[Path, str]:
    """A new key pair in a file, by default this user's for that role. Returns where, and the public key as text."""
    path, pair = path or keys_dir() / f"{role}.json", KeyPair.new()
    save_key(path, role, pair)
    return path, text_of(pair.public)


def head_key() -> bytes:
    """The public key of this user's head, made at its first use."""
    return own_key("head").public


def allow_key(state: Path, public: str, role: Role, note: str) -> Key:
    """Put a key on the list, given as text."""
    key = Key(key_of(public), role, time.time(), note=note)
    BookFile(state).change(lambda book: book.with_key(key))
    return key


def create_token(state: Path, head: bytes, grants: Role, expires: float, uses: int | None) -> JoinToken:
    """A new token on the list; `expires` is a time of day, `head` the head's public key."""
    token = JoinToken.new(head)
    BookFile(state).change(lambda book: book.with_token(Token(token.pair().public, grants, expires, uses), time.time()))
    return token


def revoke(state: Path, beginning: str) -> Token | Key:
    """Make the key or token whose id begins like this nobody. ValueError if there is not exactly one."""
    found: list[Token | Key] = []

    def without(book: Book) -> Book:
        entries: list[Token | Key] = [*book.tokens.values(), *book.keys.values()]
        found.extend(entry for entry in entries if beginning and entry.id.startswith(beginning))
        if len(found) != 1:
            raise ValueError(f"{len(found)} keys or tokens have an id that begins with {beginning!r}")
        entry = found[0]
        if isinstance(entry, Key):
            return book.without_key(entry.id)
        return replace(book, tokens={**book.tokens, entry.id: replace(entry, revoked=True)})

    BookFile(state).change(without)
    return found[0]
