"""The side thread: serves what must not wait for the user's code. Cancels, fetches, reference counts, deaths, log lines.

It blocks in the side mailbox and runs no user code but event listeners.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from soma.errors import ProtocolError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.endpoint import Mailbox
from soma.transport.frames import pack, read

if TYPE_CHECKING:
    from soma.actors.runtime import Runtime

log = logging.getLogger("soma")

LAST = "ClusterEnds"
"""The kind of event after which the daemon sends no more."""


class SideThread:
    """One thread, one mailbox. `handlers` may be extended before `start`."""

    def __init__(self, mailbox: Mailbox, runtime: Runtime) -> None:
        self._mailbox = mailbox
        self._runtime = runtime
        self.pid = os.getpid()
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._complained: set[bytes] = set()
        self._closed = False
        self._last = threading.Event()
        sharing = runtime.sharing
        self.handlers: dict[type, Callable[[Any], None]] = {
            m.Fetch: sharing.on_fetch, m.Hold: sharing.on_hold, m.PeerDied: lambda msg: sharing.on_peer_died(msg.peer),
            m.LogLines: show, m.Event: self._on_event, m.Ask: self._on_ask,
        }
        self._thread = threading.Thread(target=self._loop, name="soma-side", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have `Runtime.collect` called soon. Safe in finalizers."""
        if not self._closed:
            self._mailbox.wake()

    def complain(self, sender: bytes, why: Exception) -> None:
        """Log a refused message, once for each sender."""
        if sender not in self._complained and len(self._complained) < 256:
            self._complained.add(sender)
            log.warning("refused a message from %r: %s (further ones from it are only counted)", sender[:32], why)

    def _loop(self) -> None:
        while not self._closed:
            frames = self._mailbox.recv(None)
            try:
                if frames is None:
                    self._runtime.collect()
                else:
                    self._handle(frames)
            except Exception:  # e.g. a driver's stdout that cannot show what an actor printed: the next message counts all the same
                log.exception("a message could not be handled")

    def _handle(self, frames: list[bytes]) -> None:
        try:
            msg = read(frames, self.handlers, "the side mailbox")
            self.handlers[type(msg)](msg)
        except ProtocolError as e:
            self._runtime.refuse(frames[0], e)

    def wait_last(self, timeout: float) -> None:
        """Wait until all is handled that the daemon sent before it ended: the last lines of actors, above all."""
        if threading.current_thread() is not self._thread:
            self._last.wait(timeout)

    def _on_ask(self, msg: m.Ask) -> None:
        """The daemon is asked for a status, and asks what we hold."""
        if msg.what != "holdings":
            raise ProtocolError(f"a side mailbox knows no answer to {msg.what!r}")
        self._runtime.port.outlet.send(DAEMON, [pack(m.Answer(msg.request, "", "", self.holdings()))])

    def holdings(self) -> dict[str, int]:
        """What this process holds: values under refs, shared memory (bytes), leases given to others."""
        runtime, stats = self._runtime, self._runtime.port.arena.stats()
        return {"refs": len(runtime.sharing.table), "arena_used": stats.used, "arena_capacity": stats.capacity, "leases": stats.leases,
                "refused_messages": runtime.refused}

    def _on_event(self, msg: m.Event) -> None:
        if msg.fields.get("kind") == LAST:
            self._last.set()
            return
        for fn in list(self.listeners):
            try:
                fn(dict(msg.fields))
            except Exception:
                log.exception("an event listener raised; it stays subscribed")

    def close(self) -> None:
        self._closed = True
        self._mailbox.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._mailbox.close()


def show(msg: m.LogLines) -> None:
    """Print an actor's lines where its driver prints."""
    out = sys.stderr if msg.stream == "stderr" else sys.stdout
    prefix = f"({msg.label} pid={msg.pid}) "
    text = "".join(f"{prefix}{line}\n" for line in msg.lines)
    if msg.dropped:
        text += f"{prefix}[{msg.dropped} lines are only in its log file: too many at once]\n"
    if out is not None:
        out.write(text)
        out.flush()
