"""CURVE key pairs, the files they lie in, and join tokens.

    <keys directory>/driver.json       {"role", "public", "secret"}; $SOMA_KEYS, else $XDG_CONFIG_HOME/soma/keys, else ~/.config/soma/keys
    soma1.<head's public key>.<seed>   a join token: a key that one can paste

Refuses: a directory that others can enter, a key file that others can read or that is a link. A secret is never shown (`repr` hides
it), and never in a command line or an environment variable. Keys are 32 bytes; as text they are 64 hex digits.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import zmq
from blake3 import blake3
from zmq.utils import z85

from soma.errors import SecurityError
from soma.transport.security import check_private

KeyRole = Literal["driver", "node", "reader", "head"]
"""What a key pair is for: programs, machines, those who only look, and the head itself."""

KEY_ROLES: tuple[KeyRole, ...] = get_args(KeyRole)
KEY_BYTES = 32

_KEY = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"soma1\.([0-9a-f]{64})\.([0-9a-f]{64})")
_CONTEXT = "soma join token 2026-11 CURVE secret"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, 32 bytes each."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> KeyPair:
        public, secret = zmq.curve_keypair()
        return cls(z85.decode(public), z85.decode(secret))

    @classmethod
    def of_secret(cls, secret: bytes) -> KeyPair:
        return cls(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Lets its holder join once it is on the head's list. It names the head's key, so nobody else can pose as the head."""

    head: bytes
    """The head's public key."""
    seed: bytes = field(repr=False)

    @classmethod
    def new(cls, head: bytes) -> JoinToken:
        return cls(head, secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """SecurityError if it is no token; the text itself is in no message."""
        found = _TOKEN.fullmatch(text.strip())
        if found is None:
            raise SecurityError("this is no join token: one looks like soma1.<64 hex digits>.<64 hex digits>; "
                                "`soma token create` on the head's machine prints one")
        return cls(key_of(found[1]), key_of(found[2]))

    def text(self) -> str:
        return f"soma1.{text_of(self.head)}.{text_of(self.seed)}"

    def pair(self) -> KeyPair:
        """The key pair to connect with."""
        return KeyPair.of_secret(blake3(self.seed, derive_key_context=_CONTEXT).digest())


def text_of(key: bytes) -> str:
    """A key as text."""
    return key.hex()


def key_of(text: str) -> bytes:
    """The key of a text. SecurityError if it is none."""
    if _KEY.fullmatch(text.strip()) is None:
        raise SecurityError("this is no key: one is 64 hex digits, as `soma keygen` shows it")
    return bytes.fromhex(text.strip())


# -- files --------------------------------------------------------------------------------------------------------------


def keys_dir() -> Path:
    """Where this user's keys lie; perhaps not there yet."""
    if given := os.environ.get("SOMA_KEYS"):
        return Path(given).expanduser().absolute()
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path.home() / ".config") / "soma" / "keys"


def private_dir(path: Path) -> Path:
    """`path` as a directory for this user only; made if missing. SecurityError if others can enter it."""
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)  # mkdir obeys the umask, which may have taken our own bits away
    check_private(path)
    return path


def save_key(path: Path, role: KeyRole, pair: KeyPair) -> None:
    """Write a key pair to a file of its own, mode 0600, whole or not at all.

    Raises:
        SecurityError: the file is there already (keys are never overwritten), or others can enter its directory.
    """
    private_dir(path.parent)
    text = json.dumps({"role": role, "public": text_of(pair.public), "secret": text_of(pair.secret)}) + "\n"
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_private(fresh, text.encode())
    try:
        os.link(fresh, path)  # unlike a rename, this never replaces a key
    except FileExistsError:
        raise SecurityError(f"{path} exists; a key is never overwritten: name another file, or remove that one first") from None
    finally:
        fresh.unlink()


def load_key(path: Path, role: KeyRole | None = None) -> KeyPair:
    """The pair in a file that only this user can read.

    Raises:
        SecurityError: missing, of another mode than 0600 or 0400, somebody else's, a link, no key file, or of another role.
    """
    check_private(path.parent)
    told = read_private(path, f"`soma keygen --out {path}` makes a new one")
    if not isinstance(told, dict) or set(told) != {"role", "public", "secret"} or not all(isinstance(v, str) for v in told.values()):
        raise SecurityError(f"{path} is no key file; `soma keygen --out PATH` makes one")
    if told["role"] not in KEY_ROLES or (role is not None and told["role"] != role):
        raise SecurityError(f"{path} holds a key for the role {told['role']!r}, not {role or 'one that is known'!r}")
    pair = KeyPair.of_secret(key_of(told["secret"]))
    if pair.public != key_of(told["public"]):
        raise SecurityError(f"{path}: its public key does not belong to its secret key; make a new one with `soma keygen`")
    return pair


def own_key(role: KeyRole, directory: Path | None = None) -> KeyPair:
    """This user's pair for a role, made at its first use."""
    path = (directory or keys_dir()) / f"{role}.json"
    if not os.path.lexists(path):
        try:
            save_key(path, role, KeyPair.new())
        except SecurityError:
            if not os.path.lexists(path):
                raise  # else somebody else made it at this moment
    return load_key(path, role)


def write_private(path: Path, text: bytes) -> None:
    """A new file of mode 0600."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as f:
        os.fchmod(fd, 0o600)  # open obeys the umask
        f.write(text)
        f.flush()
        os.fsync(fd)


def read_private(path: Path, advice: str, most: int = 4096) -> Any:
    """The JSON of a small file that only this user can read, checked as it was opened; None if it is no JSON.

    Raises:
        SecurityError: missing, a link, no file, somebody else's, open to others, or too long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SecurityError(f"{path} does not exist; {advice}") from None
    except OSError as e:
        raise SecurityError(f"{path} cannot be read: {e.strerror}; it must be a file of yours with mode 0600, and no link") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise SecurityError(f"{path} is not a file; {advice}")
        if found.st_uid != os.geteuid():
            raise SecurityError(f"{path} belongs to user {found.st_uid}, not to user {os.geteuid()} who runs this; {advice}")
        if found.st_mode & 0o177:
            raise SecurityError(f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}): whoever read it can use it; "
                                f"`chmod 600 {path}` if nobody did, else remove it and make a new one")
        with os.fdopen(fd, "rb", closefd=False) as f:
            text = f.read(most + 1)
    finally:
        os.close(fd)
    if len(text) > most:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
