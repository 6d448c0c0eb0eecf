"""A cluster of several machines on loopback: a head and two nodes as processes of their own, as `soma start` and `soma join` make them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

import soma
from soma.daemon import starting
from soma.daemon.processes import MARK

HEARTBEAT, GRACE = 0.2, 1.0


@dataclass
class Fleet:
    """A head, and the nodes "one" and "two"."""

    address: str
    token: str
    head: int
    nodes: dict[str, int]
    patience: float = 20.0
    """Seconds that nodes live without the head."""

    def join(self, name: str, **more: Any) -> dict[str, Any]:
        offered = {"num_cpus": 2, "num_gpus": 0, "memory": None, "object_store_memory": 256 << 20, "resources": {}, "tags": [name, "all"],
                   "labels": {"zone": name}, "host": None, "node": name, "preload": [], "patience": self.patience, **more}
        started = starting.start_node(self.address, self.token, **offered)
        started.process.returncode = 0  # it outlives who started it; the fixture waits for it by pid
        self.nodes[name] = started.told["pid"]
        return started.told


F = TypeVar("F", bound=Fleet)


@contextmanager
def made(directory: Path, patience: float = 20.0, *, kind: type[F] = Fleet, grace: float = GRACE) -> Iterator[F]:  # type: ignore[assignment]
    """A fleet with keys and state of its own below `directory`; whatever a test did to it, nothing is left of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMA_KEYS", str(directory / "keys"))
        patch.setenv("SOMA_STATE", str(directory / "state"))
        patch.delenv("SOMA_TOKEN", raising=False)
        head = starting.start_head("tcp://127.0.0.1:0", namespace=None, heartbeat=HEARTBEAT, grace=grace)
        head.process.returncode = 0
        fleet = kind(head.told["address"], head.told["token"], head.told["pid"], {}, patience)
        try:
            fleet.join("one")
            fleet.join("two")
            yield fleet
        finally:
            if soma.is_initialized():
                soma.shutdown()
            for pid in (*fleet.nodes.values(), fleet.head):
                resume(pid)
            starting.stop_here(10)
            for pid in (*fleet.nodes.values(), fleet.head):
                reap(pid)


def resume(pid: int) -> None:
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGCONT)


def gone(pid: int) -> bool:
    """Whether a process has ended; who had to wait for it may be gone as well."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def in_cluster(name: str) -> list[psutil.Process]:
    """Processes that carry the cluster's mark, or came from one that does."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # the test did


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `true` gives once it gives something; looks again after a moment."""
    over = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if found := true():
            return found
        over.wait(0.02)
    raise AssertionError(f"not within {seconds} s")
