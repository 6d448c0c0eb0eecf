"""What a directory's processes know of the network: `network.json` beside their sockets, for this user's eyes only.

A directory without it is that of a cluster on one machine. The keys in it open the whole data plane, so they are in this file and
in no process's arguments or environment.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zmq.utils import z85

from soma.errors import SecurityError
from soma.transport.keys import KeyPair, read_private, write_private
from soma.transport.network import Network
from soma.transport.security import NETWORK_FILE


@dataclass(frozen=True, slots=True)
class Place:
    """One machine's, or one driver's, place in a cluster of several machines."""

    cluster: str
    node: str
    """"" for a driver on a machine that has no node."""
    host: str
    """Address of this machine, as the others reach it."""
    head: str
    """The head's name on the data plane."""
    control: str
    """The address of the head's control port, and its public key (hex)."""
    control_key: str
    data_public: str
    """The pair that all members share (hex)."""
    data_secret: str

    @property
    def data(self) -> KeyPair:
        return KeyPair(bytes.fromhex(self.data_public), bytes.fromhex(self.data_secret))

    def write(self, directory: Path) -> None:
        fresh = directory / f".{NETWORK_FILE}.{secrets.token_hex(4)}"
        write_private(fresh, json.dumps(asdict(self)).encode())
        fresh.rename(directory / NETWORK_FILE)

    def network(self, directory: Path) -> Network:
        return network(self.host, directory, self.data, self.head)


def network(host: str, directory: Path, data: KeyPair, head: str) -> Network:
    """What a wire of a process in `directory` needs; `head` is "" in the head itself."""
    return Network(host, directory.name.rpartition("-")[2], z85.encode(data.public).decode(), z85.encode(data.secret).decode(), head)


def place_of(directory: Path) -> Place | None:
    """None for the directory of a cluster on one machine. SecurityError if the file is damaged, or others can read it."""
    path = directory / NETWORK_FILE
    if not path.exists():
        return None
    told: Any = read_private(path, "leave the cluster and join again")
    try:
        return Place(**{key: str(value) for key, value in told.items()})
    except (TypeError, AttributeError) as e:
        raise SecurityError(f"{path} is damaged ({e}); leave the cluster and join again") from None
