"""Which clusters of this user run on this machine, asked from outside: what `soma status` shows.

Only runtime directories that belong to this user are looked at, and nothing is started, changed or removed.
"""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from soma.errors import ClusterError, ProtocolError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.endpoint import ZmqWire
from soma.transport.frames import check_parts, pack, unpack
from soma.transport.security import owners, runtime_dirs


def clusters(timeout: float = 3.0) -> list[dict[str, Any]]:
    """The status of every live cluster. One that does not answer in `timeout` seconds is listed with an "error"."""
    live = [path for path in runtime_dirs() if owners(path)]
    if not live:
        return []
    with ThreadPoolExecutor(min(16, len(live))) as threads:
        return list(threads.map(lambda path: _status_or_error(path, timeout), live))


def _status_or_error(directory: Path, timeout: float) -> dict[str, Any]:
    try:
        return ask_status(directory, timeout)
    except ClusterError as e:
        pids = owners(directory)
        return {"directory": str(directory), "pid": pids.get("daemon"), "error": str(e)}


def ask_status(directory: Path, timeout: float) -> dict[str, Any]:
    """What the daemon of one cluster says of itself.

    Raises:
        ClusterError: it does not answer in time, or says something else.
    """
    if not (directory / DAEMON).exists():
        raise ClusterError(f"no daemon listens in {directory}: it is starting, or gone")
    request, peer = secrets.token_bytes(16), f"status-{secrets.token_hex(8)}"
    wire = ZmqWire(directory)
    try:
        mailbox = wire.mailbox(peer)
        outlet = wire.outlet(peer)
        try:
            outlet.send(DAEMON, [pack(m.Ask(request, peer, "status"))])
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                frames = mailbox.recv(left)
                if frames is not None:
                    status = _status_in(frames, request)
                    if status is not None:
                        return status
        finally:
            outlet.close()
            mailbox.close()
    finally:
        wire.close()
    raise ClusterError(f"the daemon in {directory} did not answer within {timeout:g} s")


def _status_in(frames: list[bytes], request: bytes) -> dict[str, Any] | None:
    """The status in an answer [sender, header, JSON]; None if it answers something else."""
    try:
        check_parts(frames)
        answer = unpack(frames[1]) if len(frames) > 1 else None
        if not isinstance(answer, m.Answer) or answer.request != request:
            return None
        if answer.error:
            raise ClusterError(f"the daemon refuses: {answer.text}")
        status = json.loads(frames[2]) if len(frames) == 3 else None
    except (ProtocolError, ValueError) as e:
        raise ClusterError(f"the daemon's answer cannot be read: {e}") from None
    if not isinstance(status, dict):
        raise ClusterError("the daemon's answer holds no status")
    return status
