"""What a cluster keeps from others: no network, and nothing for another user of the machine, behind three walls."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import soma

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
META = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"


def attempt(kind: str, path: str) -> str:
    """What becomes of it, in a word."""
    try:
        if kind == "list":
            os.listdir(path)
            return "listed"
        if kind in ("open", "write"):
            os.close(os.open(path, os.O_RDWR if kind == "write" else os.O_RDONLY))
            return "opened"
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.settimeout(2)
            s.sendall(GREETING + bytes([4, len(META)]) + META + b"\0\5noise")
            while s.recv(1000):
                continue
            return "closed"
    except TimeoutError:
        return "kept open"
    except PermissionError:
        return "refused"
    except ConnectionError:
        return "closed"


def as_stranger(jobs: list[tuple[str, str]]) -> list[str]:
    """The same, tried by another user: a fork, because that user may not even be allowed to start this Python."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write, json.dumps([attempt(*job) for job in jobs]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return list(json.loads(said))


@soma.remote
class Held:
    def __init__(self) -> None:
        print("said something")

    def get(self) -> Any:
        return b"x" * 1_000_000


@pytest.fixture
def running(cluster: object) -> Iterator[Path]:
    """A cluster in which everything exists that ever does: logs, arenas, mailboxes."""
    import numpy as np

    handle, ref = Held.remote(), soma.put(np.zeros(1_000_000))
    soma.get([handle.get.remote(), ref], timeout=20)
    yield Path(soma.status()["directory"])
    del handle, ref


def everything(directory: Path) -> list[Path]:
    return [directory, *directory.rglob("*")]


def of_cluster() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def shared_memory(name: str = "soma") -> list[str]:
    """Paths of every memfd in the cluster."""
    found = []
    for process in of_cluster():
        for entry in os.scandir(f"/proc/{process.pid}/fd"):
            if os.readlink(entry.path).startswith(f"/memfd:{name}"):
                found.append(entry.path)
    return found


def test_nothing_listens_on_the_network(running: Path) -> None:
    listening = [c for p in of_cluster() for c in p.net_connections("inet")]
    assert listening == []
    assert all(p.net_connections("unix") for p in of_cluster()[1:2]), "psutil does see sockets here"


def test_modes(running: Path) -> None:
    kinds = set()
    for path in everything(running):
        info = path.lstat()
        assert info.st_uid == os.geteuid()
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode) or stat.S_ISSOCK(info.st_mode):
            assert mode == 0o700, f"{path} has {mode:o}"
        else:
            assert stat.S_ISREG(info.st_mode) and mode == 0o600, f"{path} has {mode:o}"
        kinds.add(stat.S_IFMT(info.st_mode))
    assert kinds == {stat.S_IFDIR, stat.S_IFSOCK, stat.S_IFREG}


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_shared_memory_is_private_and_sealed(running: Path) -> None:
    import fcntl

    found, sealed = shared_memory(), shared_memory("soma ")
    assert found and sealed
    for path in found:
        fd = os.open(path, os.O_RDONLY)
        try:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
            if path in sealed:
                all_seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & all_seals == all_seals
        finally:
            os.close(fd)


def jobs_for(directory: Path) -> list[tuple[str, str]]:
    jobs = []
    for path in everything(directory):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            jobs.append(("list", str(path)))
        elif stat.S_ISSOCK(mode):
            jobs.append(("connect", str(path)))
        else:
            jobs += [("open", str(path)), ("write", str(path))]
    return jobs + [(kind, path) for path in shared_memory() for kind in ("open", "write")]


@needs_root
def test_another_user_reaches_nothing(running: Path) -> None:
    jobs = jobs_for(running)
    assert {kind for kind, _ in jobs} == {"list", "connect", "open", "write"}
    assert dict.fromkeys(as_stranger(jobs)) == {"refused": None}


@needs_root
def test_nor_when_the_directories_were_opened(running: Path) -> None:
    """Sockets and files have modes of their own."""
    jobs = [job for job in jobs_for(running) if job[0] != "list"]
    base = running.parent
    try:
        for path in [base, *(p for p in everything(running) if p.is_dir())]:
            path.chmod(0o777)
        assert set(as_stranger([("list", str(running))])) == {"listed"}, "this wall is really down"
        assert dict.fromkeys(as_stranger(jobs)) == {"refused": None}
    finally:
        for path in [base, *(p for p in everything(running) if p.is_dir())]:
            path.chmod(0o700)


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="ZeroMQ asks Linux who connects")
def test_nor_when_the_sockets_were_opened_too(running: Path) -> None:
    """The kernel says who is at the other end, and ZeroMQ hangs up."""
    sockets = [p for p in everything(running) if p.is_socket()]
    before = soma.status()
    try:
        for path in [running.parent, running, *sockets]:
            path.chmod(0o777)
        got = as_stranger([("connect", str(path)) for path in sockets])
    finally:
        for path in [running.parent, running, *sockets]:
            path.chmod(0o700)
    assert set(got) == {"closed"}
    after = soma.status()
    assert after["refused_messages"] == before["refused_messages"]
    assert after["driver"]["refused_messages"] == before["driver"]["refused_messages"]


def test_no_secret_is_in_command_lines(running: Path) -> None:
    """There is none to show: who may use the directory may use the cluster. Command lines do not even name it."""
    for process in of_cluster()[1:]:
        assert str(running) not in " ".join(process.cmdline())
