"""A driver's part in a cluster that it did not start: `soma.init("tcp://…")`. It joins, stays heard, and leaves; the cluster goes on.

On a machine that has a node of the cluster, the driver uses that node's directory: its actors there are reached by unix sockets and
shared memory. Elsewhere it has a directory of its own and reaches everybody by TCP.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from soma.actors import (
    travel,  # noqa: F401 - teaches the codec refs and handles
)
from soma.actors.context import Identity
from soma.actors.runtime import Runtime
from soma.daemon.joining import Joined, data_pair, join, own_host
from soma.errors import ClusterError, ClusterLostError, SomaError
from soma.ids import DAEMON, new_hex
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.control_client import Link
from soma.transport.frames import pack
from soma.transport.keys import text_of
from soma.transport.modules import only_installed
from soma.transport.network import NetworkWire
from soma.transport.place import Place, network, place_of
from soma.transport.security import create_runtime_dir, owners, remove_stale, runtime_dirs

GOODBYE = 0.5
"""Seconds for the last words to leave."""


def attach(address: str, *, token: str | None, namespace: str | None, object_store_memory: int | None) -> AttachedRuntime:
    """A driver's runtime in the cluster whose head listens at `address`; "auto": the one that this machine belongs to.

    Raises:
        ClusterError: there is no such cluster, or it does not answer. SecurityError: it does not know us.
    """
    remove_stale()
    if address == "auto":
        address = _auto()
    if not address.startswith("tcp://"):
        raise ValueError(f"address={address!r}: 'tcp://HOST:PORT' as `soma start --head` prints it, or 'auto'")
    joined = join(address, "driver", None, token or os.environ.get("SOMA_TOKEN"))
    try:
        return _attached(address, joined, namespace, object_store_memory)
    except BaseException:
        joined.client.close()
        raise


def _attached(address: str, joined: Joined, namespace: str | None, object_store_memory: int | None) -> AttachedRuntime:
    welcome = joined.welcome
    found = next(((path, place) for path, place in _places() if place.cluster == welcome.cluster and place.node), None)
    if found is not None:
        directory, place = found
    else:
        directory = create_runtime_dir()
        data = data_pair(welcome)
        place = Place(welcome.cluster, "", own_host(address), welcome.head, address, text_of(joined.head_key), text_of(data.public),
                      text_of(data.secret))
    settings = welcome.settings
    identity = Identity(f"d-{new_hex()}", "driver", place.node, namespace or str(settings["namespace"]), {})
    wire = NetworkWire(directory, network(place.host, directory, place.data, welcome.head))
    arena = Arena(object_store_memory or int(settings["object_store_memory"]), directory)
    return AttachedRuntime(wire, identity, arena, joined, owns_directory=found is None)


def _places() -> list[tuple[Path, Place]]:
    """The clusters of several machines that this user's machine has a part in."""
    found = [(path, place_of(path)) for path in runtime_dirs() if "daemon" in owners(path)]
    return [(path, place) for path, place in found if place is not None]


def _auto() -> str:
    addresses = sorted({place.control for _, place in _places()})
    if len(addresses) != 1:
        raise ClusterError(f"address='auto': {len(addresses)} clusters of several machines run here ({', '.join(addresses) or 'none'}); "
                           "name one, or `soma start --head` and `soma join` begin one")
    return addresses[0]


class AttachedRuntime(Runtime):
    """A `Runtime` that is a guest."""

    def __init__(self, wire: NetworkWire, identity: Identity, arena: Arena, joined: Joined, *, owns_directory: bool) -> None:
        super().__init__(wire, identity, arena, elastic=True)
        self.linger = GOODBYE
        self._joined, self._owns_directory = joined, owns_directory
        self._undo_by_value = only_installed()
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._undo_interrupts = self.interrupts.guard_ctrl_c(self.mailbox.wake_fd())
        self._stay_heard(time.monotonic())
        self._thread = threading.Thread(target=self._stay, name="soma-attached", daemon=True)
        self._thread.start()

    def _stay(self) -> None:
        """Be heard at every heartbeat; a head that is silent for longer than its grace is lost."""
        welcome = self._joined.welcome
        heard = time.monotonic()
        while not self._over.wait(welcome.heartbeat):
            try:
                heard = self._stay_heard(heard)
            except SomaError as e:
                if (why := self._told_to_end()) is not None:
                    self.cluster_lost(ClusterLostError(f"the head at {self._joined.client.address} was shut down: {why}"))
                    return
                strange = self._joined.client.link is Link.STRANGE  # so looks a head that dies during the handshake
                refused = not (strange or isinstance(e, ClusterError)) or isinstance(e, ClusterLostError)
                if refused or time.monotonic() - heard > welcome.grace:
                    where = self._joined.client.address
                    self.cluster_lost(ClusterLostError(f"the head at {where} is gone, or has given this driver up: {e}"))
                    return

    def _told_to_end(self) -> str | None:
        """What the head said when it ended, if it did."""
        with contextlib.suppress(SomaError):  # there is nothing more to read
            while (said := self._joined.client.recv(0)) is not None:
                if isinstance(said[0], m.Shutdown):
                    return said[0].reason
        return None

    def _stay_heard(self, heard: float) -> float:
        asked = m.Query(secrets.token_bytes(16), "attach", {"peer": self.port.me})
        self._joined.client.request(asked, max(1.0, self._joined.welcome.heartbeat))
        return time.monotonic()

    def shutdown(self) -> None:
        """Leave the cluster: what this driver created ends, the rest goes on. Idempotent, from any thread."""
        if not self._ending.acquire(blocking=False):
            return
        self._undo_interrupts()
        self._undo_by_value()
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self.lost is None:
            with contextlib.suppress(ClusterError):
                self.port.outlet.send(DAEMON, [pack(m.Detach(self.port.me))])
        super().shutdown()
        self._joined.client.close()
        if self._owns_directory and self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
