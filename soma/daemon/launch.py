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
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soma.daemon.reaping import kill_all
from soma.errors import ClusterError, ClusterLostError
from soma.transport.security import create_runtime_dir, remove_stale

START_TIMEOUT, END_TIMEOUT = 60.0, 2.0


def start_cluster(**asked: Any) -> Any:
    """A running cluster of this machine: the driver's `Runtime`."""
    if asked["start_method"] not in ("forkserver", "spawn"):
        raise ValueError(f"start_method={asked['start_method']!r}: 'forkserver' or 'spawn'")
    remove_stale()
    directory = create_runtime_dir()
    (directory / "logs").mkdir(mode=0o700)
    daemon: Daemon | None = None
    try:
        daemon, told = _start_daemon(directory, asked)
        from soma.daemon.driver import DriverRuntime  # imports numpy and zmq while the daemon does the same

        ready = daemon.wait_ready()
        return DriverRuntime(daemon, told, ready)
    except BaseException:
        if daemon is not None:
            daemon.abandon()
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _start_daemon(directory: Path, asked: dict[str, Any]) -> tuple[Daemon, dict[str, Any]]:
    ours, theirs = socket.socketpair()
    cluster = directory.name
    settings = {**asked, "preload": list(asked["preload"]), "namespace": asked["namespace"] or secrets.token_hex(8)}
    told = {"cluster": cluster, "directory": str(directory), "node": secrets.token_hex(8), "driver": os.getpid(), "path": sys.path,
            "preload": list(asked["preload"]), "settings": settings, "pythonpath": os.environ.get("PYTHONPATH")}
    log = os.open(directory / "daemon.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    env = {**os.environ, "SOMA_CLUSTER": cluster, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    try:
        process = subprocess.Popen([sys.executable, "-P", "-m", "soma.daemon", str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    except BaseException:
        os.close(log)
        ours.close()
        raise
    finally:
        theirs.close()
    with contextlib.suppress(BrokenPipeError):  # it died already: `wait_ready` says why
        ours.sendall(json.dumps(told).encode() + b"\n")
    return Daemon(process, ours, log, directory), told


class Daemon:
    """The daemon's process, from its driver: its start, the watch on its life, its end."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: socket.socket, log: int, directory: Path) -> None:
        self._process, self._lifeline, self._log = process, lifeline, log
        self.directory = directory
        self.pid = process.pid
        self._driver = os.getpid()
        self._ending = False
        self._thread: threading.Thread | None = None

    def wait_ready(self) -> dict[str, Any]:
        """What it says once it serves; ClusterError with its log if it does not come so far."""
        self._lifeline.settimeout(START_TIMEOUT)
        line = b""
        try:
            while not line.endswith(b"\n"):
                data = self._receive()
                if not data:
                    raise ClusterError(f"the daemon ended while it started (exit code {self._process.wait(5)}):\n{self.log_tail()}")
                line += data
        except TimeoutError:
            raise ClusterError(f"the daemon did not start within {START_TIMEOUT:g} s:\n{self.log_tail()}") from None
        self._lifeline.settimeout(None)
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _receive(self) -> bytes:
        try:
            return self._lifeline.recv(65536)
        except ConnectionResetError:  # it ended without having read what it was told
            return b""

    def log_tail(self) -> str:
        """The last lines that it wrote; readable also when the directory is gone."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, 4000, max(0, size - 4000)).decode(errors="replace") or "(its log is empty)"

    def watch(self, lost: Callable[[BaseException], None], at_exit: Callable[[], None]) -> None:
        """Call `lost` when it dies unasked, and `at_exit` when this interpreter ends."""
        def wait() -> None:
            with contextlib.suppress(OSError):
                while self._lifeline.recv(64):
                    continue
            if not self._ending:
                code = self._process.wait()
                kill_all(self.directory.name, deadline=time.monotonic() + END_TIMEOUT)  # should the zygote be gone as well
                lost(ClusterLostError(f"the daemon (pid {self.pid}) is gone ({exit_words(code)}); its actors died with it.\n"
                                      f"last lines of its log:\n{self.log_tail()}"))

        self._at_exit = lambda: at_exit() if os.getpid() == self._driver else None
        atexit.register(self._at_exit)
        self._thread = threading.Thread(target=wait, name="soma-lifeline", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """It does not answer: the zygote does the rest when it is gone."""
        self._ending = True
        self._process.kill()

    def end(self, timeout: float) -> None:
        """Wait for it to be gone, kill it if need be; the directory goes with it."""
        self._ending = True
        atexit.unregister(self._at_exit)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_RDWR)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def abandon(self) -> None:
        """The start failed: leave nothing."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._lifeline.close()
        os.close(self._log)


def exit_words(code: int) -> str:
    """"exit code 3", or "SIGKILL"."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
