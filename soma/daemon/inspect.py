"""Which clusters of this user run on this machine, asked from outside: what `soma status` shows.

Only runtime directories that belong to this user are looked at, and nothing is started, changed or removed.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from soma.errors import ClusterError, ProtocolError, SecurityError, SomaError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.control_client import ControlClient
from soma.transport.endpoint import ZmqWire
from soma.transport.frames import check_parts, pack, unpack
from soma.transport.keys import KeyRole, key_of, keys_dir, own_key
from soma.transport.place import Place, place_of
from soma.transport.security import owners, runtime_dirs

ASKING: tuple[KeyRole, ...] = ("driver", "node", "reader")
"""Whose keys are tried, in this order."""


def clusters(timeout: float = 3.0) -> list[dict[str, Any]]:
    """The status of every live cluster that this machine is or takes part in. One that does not answer in `timeout` seconds is
    listed with an "error"."""
    asked = _live()
    if not asked:
        return []
    with ThreadPoolExecutor(min(16, len(asked))) as threads:
        return list(threads.map(lambda one: _status_or_error(one[0], one[1], timeout), asked.values()))


def _live() -> dict[str, tuple[Path, Place | None]]:
    """One directory of each cluster that this machine is or takes part in."""
    found: dict[str, tuple[Path, Place | None]] = {}
    for path in runtime_dirs():
        if owners(path):
            place = place_of(path)
            found.setdefault(str(path) if place is None else place.cluster, (path, place))
    return found


def _status_or_error(directory: Path, place: Place | None, timeout: float) -> dict[str, Any]:
    try:
        return ask_status(directory, timeout) if place is None else head_status(place.control, key_of(place.control_key), timeout)
    except (SomaError, ValueError) as e:
        pids = owners(directory)
        return {"directory": str(directory), "pid": pids.get("daemon"), "error": str(e)}


def ask_head(address: str, head_key: bytes, what: str, args: dict[str, Any], timeout: float) -> tuple[m.Report, bytes]:
    """What the head of a cluster of several machines answers to a Query.

    Raises:
        ClusterError: it does not answer in time. SecurityError: it knows none of this user's keys. ValueError: it has no answer.
    """
    refused: SecurityError | None = None
    for role in ASKING:
        if not os.path.lexists(keys_dir() / f"{role}.json"):
            continue
        client = ControlClient(address, head_key, own_key(role))
        try:
            report, frames = client.request(m.Query(secrets.token_bytes(16), what, args), timeout)
            return report, b"".join(frames)
        except SecurityError as e:
            refused = e
        finally:
            client.close()
    raise refused or SecurityError(f"no key of yours to ask {address} with; join it, or make one by `soma keygen --role reader`")


def head_status(address: str, head_key: bytes, timeout: float) -> dict[str, Any]:
    """The status of a cluster of several machines."""
    _, body = ask_head(address, head_key, "status", {}, timeout)
    status: dict[str, Any] = json.loads(body)
    return status


def ask_status(directory: Path, timeout: float) -> dict[str, Any]:
    """What the daemon of one cluster says of itself.

    Raises:
        ClusterError: it does not answer in time, or says something else.
    """
    try:
        _, body = ask(directory, "status", timeout)
    except ValueError as e:
        raise ClusterError(f"the daemon refuses: {e}") from None
    try:
        status = json.loads(body) if body else None
    except ValueError as e:
        raise ClusterError(f"the daemon's answer cannot be read: {e}") from None
    if not isinstance(status, dict):
        raise ClusterError("the daemon's answer holds no status")
    return status


def ask(directory: Path, what: str, timeout: float) -> tuple[m.Answer, bytes]:
    """What the daemon in `directory` answers to an Ask. ClusterError if it does not, ValueError if it has no answer."""
    if not (directory / DAEMON).exists():
        raise ClusterError(f"no daemon listens in {directory}: it is starting, or gone")
    request, peer = secrets.token_bytes(16), f"status-{secrets.token_hex(8)}"
    wire = ZmqWire(directory)
    try:
        mailbox = wire.mailbox(peer)
        outlet = wire.outlet(peer)
        try:
            outlet.send(DAEMON, [pack(m.Ask(request, peer, what))])
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                frames = mailbox.recv(left)
                answer = None if frames is None else _answer_in(frames, request)
                if answer is not None:
                    return answer
        finally:
            outlet.close()
            mailbox.close()
    finally:
        wire.close()
    raise ClusterError(f"the daemon in {directory} did not answer within {timeout:g} s")


def _answer_in(frames: list[bytes], request: bytes) -> tuple[m.Answer, bytes] | None:
    """The answer in [sender, header, body]; None if it answers something else."""
    try:
        check_parts(frames)
        answer = unpack(frames[1]) if len(frames) > 1 else None
    except ProtocolError as e:
        raise ClusterError(f"the daemon's answer cannot be read: {e}") from None
    if not isinstance(answer, m.Answer) or answer.request != request:
        return None
    if answer.error:
        raise ValueError(answer.text)
    return answer, frames[2] if len(frames) == 3 else b""


def read_log(actor: str, offset: int, timeout: float = 5.0) -> tuple[bytes, int]:
    """What an actor of one of this machine's clusters printed, from byte `offset` on, and the offset behind that.

    Args:
        actor: its name, or the beginning of its id.
        offset: a negative one counts from the end.

    Raises:
        ValueError: no cluster here knows it, or it printed nothing.
    """
    problems = []
    for path, place in _live().values():
        try:
            if place is None:
                answer, data = ask(path, f"log:{actor}:{offset}", timeout)
                return data, int(answer.fields["end"])
            report, data = ask_head(place.control, key_of(place.control_key), "log", {"actor": actor, "offset": offset}, timeout)
            return data, int(report.text)
        except (ValueError, SomaError) as e:
            problems.append(str(e))
    raise ValueError("; ".join(dict.fromkeys(problems)) or "no cluster of yours is running on this machine")
