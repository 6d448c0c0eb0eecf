"""What an actor prints: read off its pipes as soon as it is there, to its log file and to the drivers.

A pipe that nobody empties would stop the actor, so this never waits: what the drivers cannot take quickly enough is in the log
file only, and they are told how many lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from soma.daemon.logs import Dedup, LineBuffer, LogFile
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.machine import LocalMachine
    from soma.daemon.orders import Order

CHUNK = 64 * 1024
BUDGET = 256 * 1024
"""Bytes of lines per actor and 100 ms that are passed on to drivers."""
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Output:
    """Both pipes of one process."""

    def __init__(self, machine: LocalMachine, order: Order, out: int, err: int) -> None:
        self._m, self._order = machine, order
        self._peer = order.peer
        self._buffers = {out: ("stdout", LineBuffer()), err: ("stderr", LineBuffer())}
        self._file: LogFile | None = None
        self._spent, self._window, self._dropped = 0, 0.0, 0
        for fd in self._buffers:
            os.set_blocking(fd, False)
            if _F_SETPIPE_SZ is not None:
                with contextlib.suppress(PermissionError):  # over the user's limit for pipes: the default size works as well
                    fcntl.fcntl(fd, _F_SETPIPE_SZ, 1024 * 1024)
            machine.loop.watch_fd(fd, self._on_readable)

    def _on_readable(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        stream, buffer = self._buffers[fd]
        if not data:
            self._m.loop.unwatch_fd(fd)
            return
        self._keep(data)
        self._pass_on(stream, buffer.feed(data))

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            self._file = LogFile(self._m.directory / "logs" / f"{self._order.class_name[:40]}-{self._peer}.log")
        self._file.write(data)

    def _pass_on(self, stream: str, lines: list[str]) -> None:
        if not lines or not self._m.settings.log_to_driver:
            return
        now = self._m.loop.now()
        lines = [shown for line in lines for shown in self._m.repeats.feed(self._peer, line, now)]
        if now - self._window > 0.1:
            self._spent, self._window = 0, now
        kept: list[str] = []
        size = 0
        for line in lines:
            if self._spent > BUDGET:
                self._dropped += 1
                continue
            self._spent += len(line)
            if size + len(line) > 12_000:  # a header carries them; characters may take 4 bytes, and lines may be empty
                self._send(stream, kept)
                kept, size = [], 0
            kept.append(line)
            size += len(line) + 10
        if kept:
            self._send(stream, kept)

    def _send(self, stream: str, lines: list[str]) -> None:
        dropped, self._dropped = self._dropped, 0
        pid = self._m.children[self._peer].pid
        self._m.reports.on_lines(m.LogLines(self._order.label, pid, stream, tuple(lines), dropped))

    def flush(self) -> None:
        """Read what is there now."""
        for fd in self._buffers:
            if self._m.loop.watches(fd):
                self._on_readable(fd)

    def finish(self) -> str:
        """The process is gone: read the rest; the last lines of stderr."""
        tail = ""
        for fd, (stream, buffer) in self._buffers.items():
            while True:
                try:
                    data = os.read(fd, CHUNK)
                except BlockingIOError:
                    break  # a child of the actor still holds the pipe
                if not data:
                    break
                self._keep(data)
                self._pass_on(stream, buffer.feed(data))
            self._pass_on(stream, buffer.close())
            self._m.loop.unwatch_fd(fd)
            os.close(fd)
            if stream == "stderr":
                tail = buffer.tail
        if self._dropped:
            self._send("stderr", [])
        if self._file is not None:
            self._file.close()
        return tail


class Repeats:
    """Lines that several actors print alike: shown once, counted, and the count told later."""

    def __init__(self, machine: LocalMachine) -> None:
        self._m = machine
        self._medup = Dedup()
        self._waiting = False

    def feed(self, peer: str, line: str, now: float) -> list[str]:
        """What to show now that `peer` printed `line`."""
        shown = [str(s) for s in self._medup.feed(peer, line, now)]
        self._tell_later()
        return shown

    def _tell_later(self) -> None:
        due = self._medup.next_due()
        if due is not None and not self._waiting:
            self._waiting = True
            self._m.loop.after(max(0.0, due - self._m.loop.now()), self._tell)

    def _tell(self) -> None:
        self._waiting = False
        for shown in self._medup.due(self._m.loop.now()):
            child = self._m.children.get(shown.actor)
            label, pid = (child.order.label, child.pid) if child is not None else ("actors", 0)
            self._m.reports.on_lines(m.LogLines(label, pid, "stdout", (str(shown),), 0))
        self._tell_later()
