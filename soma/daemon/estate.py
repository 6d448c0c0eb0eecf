"""What a head of several machines leaves to the one that is started after it died: who the cluster is, where it is reached, its ledger.

    <state directory>/clusters/<cluster>/identity.json    names, ports and the members' keys; mode 0600
                                         ledger           see `ledger`
                                         lock             held by the head that runs

A head that ends as it should removes its own. Found again by the address that it was told to listen at, or really listened at.
Refuses: a second head for a cluster whose head runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soma.daemon.ledger import Ledger
from soma.errors import ClusterError, SecurityError
from soma.transport.keys import KeyPair, private_dir, read_private, text_of, write_private

FORMAT = "1"
"""Changes whenever a head could not read what the one before wrote."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be the same for the members to know the next head as theirs."""

    cluster: str
    machine: str
    """Its host name: a state directory may be shared by several machines."""
    bind: str
    """Where it was told to listen."""
    address: str
    """Where it listens: the port is never 0."""
    name: str
    """Of the head on the data plane."""
    data_public: str
    data_secret: str
    """The pair that all members share (hex)."""
    format: str = FORMAT
    """Of the ledger beside it."""

    @property
    def data(self) -> KeyPair:
        return KeyPair(bytes.fromhex(self.data_public), bytes.fromhex(self.data_secret))


class Estate:
    """The directory of one cluster, held until `close` or `remove`."""

    def __init__(self, path: Path, identity: Identity | None) -> None:
        self.path, self.identity = path, identity
        """`identity`: of the head that died; None for a new cluster."""
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ClusterError(f"a head of the cluster {path.name} runs") from None
        self.ledger: Ledger | None = None

    def open(self) -> Ledger:
        self.ledger = Ledger(self.path / "ledger")
        return self.ledger

    def write(self, identity: Identity) -> None:
        fresh = self.path / f".identity.{secrets.token_hex(4)}"
        write_private(fresh, json.dumps(asdict(identity)).encode())
        fresh.rename(self.path / "identity.json")
        self.identity = identity

    def close(self) -> None:
        """Leave it to the next head."""
        if self.ledger is not None:
            self.ledger.close()
        os.close(self._lock)

    def remove(self) -> None:
        """The cluster is over."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def begin(state: Path, cluster: str) -> Estate:
    """For a cluster that is new."""
    return Estate(private_dir(private_dir(private_dir(state) / "clusters") / cluster), None)


def take_over(state: Path, bind: str) -> Estate | None:
    """What the head that was at this address left, if it died; of several that were told to take any port, the last.

    Raises:
        ClusterError: a head runs there.
    """
    told = sorted(_found(state), key=lambda one: (one[0] / "identity.json").stat().st_mtime_ns, reverse=True)
    for path, identity in told:
        if bind in (identity.bind, identity.address):
            if identity.format != FORMAT:
                raise ClusterError(f"{path} was left by the head of another version of soma: install that one, or begin anew (--fresh)")
            try:
                return Estate(path, identity)
            except ClusterError:
                if not bind.endswith(":0"):
                    raise ClusterError(f"a head listens at {bind} already: `soma stop` ends it") from None
    return None


def forget(state: Path, bind: str = "") -> int:
    """Remove what heads left that died (at this address, or all); how many."""
    gone = 0
    for path, identity in list(_found(state)):
        if bind in ("", identity.bind, identity.address):
            try:
                Estate(path, identity).remove()
            except ClusterError:
                continue  # it runs
            gone += 1
    return gone


def _found(state: Path) -> Iterator[tuple[Path, Identity]]:
    clusters = state / "clusters"
    if not clusters.is_dir():
        return
    private_dir(clusters)
    for path in sorted(clusters.iterdir()):
        if not (path / "identity.json").exists():
            continue  # it died before it was anything
        told: Any = read_private(path / "identity.json", "`soma start --head --fresh` begins anew")
        try:
            identity = Identity(**{str(key): str(value) for key, value in told.items()})
        except (TypeError, AttributeError) as e:
            raise SecurityError(f"{path / 'identity.json'} is damaged ({e}); remove {path}") from None
        if identity.machine == socket.gethostname():
            yield path, identity


def identity_of(cluster: str, bind: str, address: str, name: str, data: KeyPair) -> Identity:
    return Identity(cluster, socket.gethostname(), bind, address, name, text_of(data.public), text_of(data.secret))
