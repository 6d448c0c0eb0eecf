"""How a daemon process is started by a command or a driver, and what it answers: one line of JSON each way over a socket pair.

Nothing secret is in arguments or environment; the other end of the socket is also what the starter's death shows by.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma.errors import ClusterError

START_TIMEOUT = 60.0


@dataclass(slots=True)
class Started:
    """A daemon that runs and has said what there is to say."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    told: dict[str, Any]


def start_daemon(module: str, told: Mapping[str, Any], directory: Path) -> Started:
    """Run `python -m module FD` in a session of its own, its log in `directory`.

    Raises:
        ClusterError: it ended, or said nothing, before it served; with the last lines of its log.
    """
    ours, theirs = socket.socketpair()
    log = os.open(directory / "daemon.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    env = {**os.environ, "SOMA_CLUSTER": directory.name, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    env.pop("SOMA_TOKEN", None)
    whole = {**told, "directory": str(directory), "path": sys.path, "pythonpath": os.environ.get("PYTHONPATH")}
    try:
        process = subprocess.Popen([sys.executable, "-P", "-m", module, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        theirs.close()
        with contextlib.suppress(BrokenPipeError):  # it died already: below is said why
            ours.sendall(json.dumps(whole).encode() + b"\n")
        answer = _line(ours)
        if answer is None:
            process.kill()
            tail = os.pread(log, 4000, max(0, os.fstat(log).st_size - 4000)).decode(errors="replace") or "(its log is empty)"
            raise ClusterError(f"{module} ended while it started (exit code {process.wait()}):\n{tail}")
        if "error" in answer:
            process.wait()
            raise ClusterError(str(answer["error"]))
        return Started(process, ours, answer)
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(log)


def _line(channel: socket.socket) -> dict[str, Any] | None:
    channel.settimeout(START_TIMEOUT)
    data = b""
    try:
        while not data.endswith(b"\n"):
            try:
                more = channel.recv(65536)
            except ConnectionResetError:  # it ended without having read what it was told
                return None
            if not more:
                return None
            data += more
    except TimeoutError:
        return None
    channel.settimeout(None)
    told: dict[str, Any] = json.loads(data)
    return told


def read_told(fd: int) -> tuple[socket.socket, dict[str, Any]]:
    """In the daemon: what its starter told, with `sys.path` and PYTHONPATH as they are there."""
    channel = socket.socket(fileno=fd)
    told = json.loads(channel.makefile("r").readline())
    sys.path[:] = told["path"]
    os.environ.pop("PYTHONPATH", None)  # it made this interpreter find what its starter finds; others that actors start are not meant
    if told["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = told["pythonpath"]
    return channel, told


def answer(channel: socket.socket, told: Mapping[str, Any]) -> None:
    """In the daemon: the one line that its starter waits for. A starter that is gone is none of its business."""
    with contextlib.suppress(OSError):
        channel.sendall(json.dumps(told).encode() + b"\n")
    channel.close()
