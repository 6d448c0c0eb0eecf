"""Starting a local cluster from a driver, and ending it: one daemon process, one private directory.

The daemon imports and forks while this process imports what it needs itself; `soma.init()` lasts as long as the slower of both.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from soma.errors import ClusterError, ClusterLostError
from soma.transport.security import create_runtime_dir, remove_stale

START_TIMEOUT = 60.0


def start_cluster(**asked: Any) -> Any:
    """A running cluster of this machine: the driver's `Runtime`."""
    remove_stale()
    directory = create_runtime_dir()
    (directory / "logs").mkdir(mode=0o700)
    try:
        process, lifeline, told = _start_daemon(directory, asked)
        from soma.daemon.driver import DriverRuntime  # imports numpy and zmq while the daemon does the same

        ready = _wait_ready(process, lifeline, directory)
        return DriverRuntime(directory, process, lifeline, told, ready)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _start_daemon(directory: Path, asked: dict[str, Any]) -> tuple[subprocess.Popen[bytes], socket.socket, dict[str, Any]]:
    if asked["start_method"] not in ("forkserver", "spawn"):
        raise ValueError(f"start_method={asked['start_method']!r}: 'forkserver' or 'spawn'")
    ours, theirs = socket.socketpair()
    cluster = directory.name
    settings = {**asked, "preload": list(asked["preload"]), "namespace": asked["namespace"] or secrets.token_hex(8)}
    told = {"cluster": cluster, "directory": str(directory), "node": secrets.token_hex(8), "driver": os.getpid(), "path": sys.path,
            "preload": list(asked["preload"]), "settings": settings}
    log = os.open(directory / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    env = {**os.environ, "SOMA_CLUSTER": cluster, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        process = subprocess.Popen([sys.executable, "-m", "soma.daemon", str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    finally:
        os.close(log)
        theirs.close()
    with contextlib.suppress(BrokenPipeError):  # it died already: `_wait_ready` says why
        ours.sendall(json.dumps(told).encode() + b"\n")
    return process, ours, told


def _wait_ready(process: subprocess.Popen[bytes], lifeline: socket.socket, directory: Path) -> dict[str, Any]:
    lifeline.settimeout(START_TIMEOUT)
    try:
        line = b""
        while not line.endswith(b"\n"):
            data = lifeline.recv(65536)
            if not data:
                raise ClusterError(f"the daemon ended while it started (exit code {process.wait(5)}):\n{log_tail(directory)}")
            line += data
    except TimeoutError:
        process.kill()
        process.wait()
        raise ClusterError(f"the daemon did not start within {START_TIMEOUT:g} s:\n{log_tail(directory)}") from None
    lifeline.settimeout(None)
    ready: dict[str, Any] = json.loads(line)
    return ready


def log_tail(directory: Path) -> str:
    """The last lines that the daemon wrote."""
    try:
        return (directory / "daemon.log").read_text(errors="replace")[-4000:] or "(it wrote nothing)"
    except FileNotFoundError:
        return "(its log is gone)"


class Lifeline:
    """Watches the daemon from its driver, and ends it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, directory: Path, lost: Any) -> None:
        self._process, self._connection, self._directory, self._lost = process, connection, directory, lost
        self._ending = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._watch, name="soma-lifeline", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)
        self.on_exit: Any = lambda: None

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while self._connection.recv(64):
                continue
        if not self._ending:
            code = self._process.wait()
            self._lost(ClusterLostError(f"the daemon (pid {self._process.pid}) is gone, exit code {code}; its actors died with it.\n"
                                        f"{log_tail(self._directory)}"))

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self.on_exit()

    def kill(self) -> None:
        """The daemon does not answer: the zygote does the rest when it is gone."""
        self._ending = True
        self._process.kill()

    def end(self, timeout: float) -> None:
        """Wait for the daemon to be gone, kill it if need be; the directory goes with it."""
        self._ending = True
        atexit.unregister(self._at_exit)
        end = time.monotonic() + timeout
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(max(0.1, end - time.monotonic()))
        self._connection.close()
        shutil.rmtree(self._directory, ignore_errors=True)
