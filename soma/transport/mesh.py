"""Wires of a group of processes on one machine: a unix socket between each two, and from each to where they met.

    Line      one connection that carries small msgpack maps, each with its length in front
    Mesh      from one rank to all others: `exchange` sends a few bytes to everybody and takes as many from each

The kernel closes a dead process's sockets, so a death is seen at once and nobody polls. The sockets lie in a directory that only this
user can enter; a peer of another user is refused all the same. Refuses: messages over 64 KiB, or that are no map.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from soma.errors import ProtocolError, SecurityError

_LENGTH = struct.Struct("<I")
_MOST = 64 * 1024


class PeerGone(Exception):
    """The other end of a wire is closed. `rank` says whose it was, -1 where nobody knew yet."""

    def __init__(self, rank: int = -1) -> None:
        super().__init__(rank)
        self.rank = rank


class Line:
    """One connection. Writing and reading may be done by different threads, each by one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.fileno = connection.fileno

    @classmethod
    def connect(cls, path: str) -> Line:
        """To who listens there. OSError if nobody does."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.connect(path)
            check_peer(made)
        except BaseException:
            made.close()
            raise
        return cls(made)

    def send(self, message: dict[str, Any]) -> None:
        """PeerGone if nobody is there to read it."""
        body = msgpack.packb(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError:
            raise PeerGone from None

    def recv(self) -> dict[str, Any]:
        """The next message; waits for it. PeerGone at the end."""
        size, = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if size > _MOST:
            raise ProtocolError(f"a message of {size} bytes on a line; {_MOST} at most")
        message = msgpack.unpackb(self._exactly(size))
        if not isinstance(message, dict):
            raise ProtocolError("a message on a line is no map")
        return message

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                got = self._socket.recv(size - len(parts))
            except OSError:
                raise PeerGone from None
            if not got:
                raise PeerGone
            parts += got
        return bytes(parts)

    def detach(self) -> socket.socket:
        """The socket itself, for other use."""
        return self._socket

    def cut(self) -> None:
        """End it: whoever reads or writes, at either side, finds it closed. Safe from any thread."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Listener:
    """A socket at a path of its own in a private directory; the path goes with it."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / f"g-{secrets.token_hex(4)}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(self.path)
        self._socket.listen(128)
        self.fileno = self._socket.fileno

    def accept(self) -> Line:
        """Who connects next. SecurityError if it is another user."""
        connection, _ = self._socket.accept()
        try:
            check_peer(connection)
        except BaseException:
            connection.close()
            raise
        return Line(connection)

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def check_peer(connection: socket.socket) -> None:
    """SecurityError unless the other end is this user, where the system can tell."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            raise SecurityError(f"user {uid} connected to a socket of user {os.geteuid()}")


class Mesh:
    """The wires of one rank. `cut` ends them all and wakes whoever waits; any thread may do that."""

    def __init__(self, wires: dict[int, Line]) -> None:
        self._wires = sorted((rank, line, line.detach()) for rank, line in wires.items())

    @classmethod
    def connect(cls, rank: int, listener: Listener, paths: dict[int, str], lifeline: Line) -> Mesh:
        """Connect to lower ranks, be connected to by higher ones. PeerGone if one of them, or where they met, goes meanwhile."""
        wires: dict[int, Line] = {}
        try:
            for other in sorted(r for r in paths if r < rank):
                try:
                    wires[other] = Line.connect(paths[other])
                except OSError:
                    raise PeerGone(other) from None
                wires[other].send({"rank": rank})
            while len(wires) < len(paths) - 1:
                ready, _, _ = select.select([listener.fileno(), lifeline.fileno()], [], [])
                if listener.fileno() not in ready:
                    raise PeerGone  # the only thing that is said on a lifeline now is that it is over
                line = listener.accept()
                other = int(line.recv()["rank"])
                if other in wires or other not in paths:
                    line.close()
                    raise ProtocolError(f"rank {other} connected to rank {rank} twice, or does not belong here")
                wires[other] = line
        except BaseException:
            for line in wires.values():
                line.close()
            raise
        return cls(wires)

    def exchange(self, message: bytes, each: Callable[[int, bytes], None]) -> None:
        """Send `message` to every other rank and give `each` what came from it, as long as `message`. A barrier: nobody passes
        before all are there.

        Raises:
            PeerGone: somebody is not.
        """
        size = len(message)
        for rank, _, wire in self._wires:
            try:
                if wire.send(message) != size:  # a few bytes always fit: at most two exchanges are ever under way
                    raise PeerGone(rank)
            except OSError:
                raise PeerGone(rank) from None
        for rank, line, wire in self._wires:
            try:
                got = wire.recv(size)
            except OSError:
                raise PeerGone(rank) from None
            if len(got) < size:
                if not got:
                    raise PeerGone(rank)
                got += line._exactly(size - len(got))
            each(rank, got)

    def cut(self) -> None:
        for _, line, _ in self._wires:
            line.cut()

    def close(self) -> None:
        for _, line, _ in self._wires:
            line.close()
