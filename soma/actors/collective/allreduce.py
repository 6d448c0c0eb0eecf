"""`AllReduce`: the actor where the ranks of a group meet. It tells each where the others are, and everybody when one is gone.

What ranks reduce does not pass through it: they do that among themselves, in shared memory (see `group`). Every rank keeps a lifeline to
this actor, which the kernel cuts when either side dies.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
from pathlib import Path
from typing import Any

from soma.actors import current
from soma.actors.collective.roster import Roster, Send
from soma.errors import ProtocolError, SecurityError
from soma.transport.mesh import Line, Listener, PeerGone

log = logging.getLogger("soma")


class AllReduce:
    """The meeting point of one group, generation after generation. `directory` is where its socket lies: the cluster's own by default."""

    def __init__(self, directory: Path | None = None) -> None:
        directory = directory or current.engine().directory
        if directory is None:
            raise RuntimeError("a group of ranks needs processes: soma.init(local=True) has none")
        self._listener = Listener(directory)
        self._roster = Roster()
        self._lock = threading.Lock()
        self._lines: dict[int, Line] = {}
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        threading.Thread(target=self._serve, name="soma-meeting", daemon=True).start()

    def address(self) -> str:
        """What `Group.join` connects to."""
        return self._listener.path

    def node(self) -> str:
        """The machine it is on: the only one whose processes can meet here."""
        return str(current.engine().context()["node_id"])

    def dissolve(self, generation: int, why: str) -> None:
        """End a generation and all before it: whoever waits in a collective call of it, or to join it, gets a GroupBrokenError."""
        with self._lock:
            self._act(self._roster.dissolve(generation, why))

    def close(self) -> None:
        """Let go of every rank, and end. May be called again."""
        with self._lock:
            self._open = False
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # the thread was awake, saw it and has ended
            Line.connect(self._listener.path).close()  # wakes the thread

    def _serve(self) -> None:
        while self._open:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.fd, self._lines[key.fd])
        for line in self._lines.values():
            line.cut()
            line.close()
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            line = self._listener.accept()
        except (SecurityError, OSError) as e:
            log.warning("a connection to a group's meeting point was refused: %s", e)
            return
        self._lines[line.fileno()] = line
        self._selector.register(line.fileno(), selectors.EVENT_READ)

    def _hear(self, fd: int, line: Line) -> None:
        try:
            message = line.recv()
        except PeerGone:
            message = {"gone": ""}
        except ProtocolError as e:
            message = {"gone": str(e)}
        hello = message.get("hello")
        if hello is not None and not _is_hello(hello):
            message = {"gone": "its hello was none"}
        with self._lock:
            if hello is not None and "gone" not in message:
                self._act(self._roster.hello(fd, hello))
                return
            self._act(self._roster.bye(fd) if "bye" in message else self._roster.gone(fd, str(message.get("gone", ""))[:2000]))
        self._selector.unregister(fd)
        self._lines.pop(fd).close()

    def _act(self, sends: list[Send]) -> None:
        for send in sends:
            line = self._lines[send.to]  # type: ignore[index]  # connections are descriptors here
            with contextlib.suppress(PeerGone):  # its end is about to be read
                line.send(dict(send.message))
            if send.last:
                line.cut()


def _is_hello(told: Any) -> bool:
    return isinstance(told, dict) and all(type(told.get(name)) is int for name in ("generation", "rank", "size"))
