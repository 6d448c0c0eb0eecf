"""What `soma start`, `soma join` and `soma stop` do: daemons that outlive the command, each with a directory of its own."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soma.actors.placing import marks
from soma.daemon.estate import forget
from soma.daemon.gate import create_token, state_dir
from soma.daemon.joining import join, known_head
from soma.daemon.sentinel import Sentinel, wait_all
from soma.daemon.stopping import GRACE, ask
from soma.daemon.told import Started, start_daemon
from soma.errors import ClusterError
from soma.transport import messages as m
from soma.transport.control_client import ControlClient
from soma.transport.keys import key_of, own_key
from soma.transport.place import Place, place_of
from soma.transport.security import check_endpoint, create_runtime_dir, owners, remove_stale, runtime_dirs

TOKEN_LASTS = 3600.0
"""Seconds that the token which `soma start` prints is good for."""


def start_head(bind: str, *, namespace: str | None, heartbeat: float, grace: float, fresh: bool = False) -> Started:
    """A head at this address; `told` has "address", "token", "pid". ClusterError says why not.

    If a head died there it goes on with that one's cluster ("continued" in `told`), unless `fresh`.
    """
    check_endpoint(bind, curve=True)
    if not 0 < 3 * heartbeat < grace:
        raise ValueError(f"heartbeat={heartbeat:g}, grace={grace:g}: more than three heartbeats, which are more than 0 s")
    settings = {"num_cpus": 0.0, "num_gpus": 0.0, "memory": 0, "object_store_memory": 2 << 30, "namespace": namespace or "default",
                "resources": {}, "preload": []}
    started = _start("soma.daemon.head_process", {"bind": bind, "settings": settings, "heartbeat": heartbeat, "grace": grace,
                                                 "fresh": fresh})
    token = create_token(state_dir(), key_of(started.told["public"]), "node", time.time() + TOKEN_LASTS, None)
    started.told["token"] = token.text()
    return started


def start_node(address: str, token: str | None, **offered: Any) -> Started:
    """This machine's agent; `told` has what it registered with. ClusterError says why it could not join."""
    if token is None:
        known_head(address)  # says what is missing, before anything is started
    marks(offered["tags"])
    most, grace = offered.setdefault("max_concurrent", None), offered.setdefault("stop_grace", GRACE)
    if most is not None and most < 1:
        raise ValueError(f"max_concurrent={most}: at least 1")
    if not 0 <= grace < math.inf:
        raise ValueError(f"stop_grace={grace:g}: seconds, at least 0")
    return _start("soma.daemon.node_process", {"address": address, "token": token, **offered})


def _start(module: str, told: Mapping[str, Any]) -> Started:
    remove_stale()
    directory = create_runtime_dir()
    (directory / "logs").mkdir(mode=0o700)
    try:
        started = start_daemon(module, told, directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    started.channel.close()
    return started


def here() -> list[tuple[Path, Place, int]]:
    """Daemons of clusters of several machines that run on this machine: directory, place, pid. Nodes before heads."""
    found = [(path, place_of(path), owners(path).get("daemon")) for path in runtime_dirs()]
    running = [(path, place, pid) for path, place, pid in found if place is not None and pid is not None]
    return sorted(running, key=lambda entry: entry[1].node == "")


def stop_here(timeout: float, grace: float = 0.0, reason: str = "soma stop") -> int:
    """End them, politely and then not; how many there were. What heads left that died is not needed any more.

    With a `grace` (seconds) work on the nodes here may end before they do; heads end after them.
    """
    running = here()
    for path, _, _ in running:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            ask(path, grace, reason)
    with contextlib.ExitStack() as stack:
        watched = [(place, stack.enter_context(Sentinel(pid))) for _, place, pid in running]
        nodes = [sentinel for place, sentinel in watched if place.node]
        if grace:
            _end(nodes, grace + timeout)
        _end([sentinel for _, sentinel in watched], timeout)
    deadline = time.monotonic() + 5.0
    while any(path.exists() for path, _, _ in running if path.exists() and owners(path)) and time.monotonic() < deadline:
        os.sched_yield()
    remove_stale()
    forget(state_dir())
    return len(running)


def _end(sentinels: list[Sentinel], timeout: float) -> None:
    for sentinel in sentinels:
        sentinel.send(signal.SIGTERM)
    wait_all(sentinels, time.monotonic() + timeout)
    for sentinel in sentinels:
        sentinel.send(signal.SIGKILL)
    wait_all(sentinels, time.monotonic() + 5.0)


def control_of(address: str) -> ControlClient:
    """A driver's connection to a head's control port; "auto": of the cluster that this machine belongs to."""
    if address == "auto":
        addresses = sorted({place.control for _, place, _ in here()})
        if len(addresses) != 1:
            raise ClusterError(f"{len(addresses)} clusters of several machines run here; name one by --address tcp://HOST:PORT")
        address = addresses[0]
    token = os.environ.get("SOMA_TOKEN")
    if token:
        return join(address, "driver", None, token).client
    return ControlClient(address, known_head(address), own_key("driver"))


def ask_drain(address: str, node: str, grace: float, reason: str) -> None:
    """Have a node drained. ValueError or ClusterError of the head's is raised here."""
    client = control_of(address)
    try:
        client.request(m.Drain(secrets.token_bytes(16), node, grace, reason), 10.0)
    finally:
        client.close()
