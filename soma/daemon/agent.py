"""A node agent: this machine's hands in a cluster of several. The thin shell around `coordination.NodeSession`.

Orders come from the head over the data plane, words with it go over its control port; what runs here is the `LocalMachine`'s. The agent
decides nothing about actors, and lives without the head for `patience` seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soma.actors.load import load
from soma.daemon.coordination import nodestates as n
from soma.daemon.coordination.nodesession import NodeSession
from soma.daemon.loop import Loop
from soma.daemon.machine import LocalMachine
from soma.daemon.orders import Box, Exit, LogPiece, Order, told_exit
from soma.daemon.stopping import Stopping
from soma.errors import ProtocolError, SecurityError
from soma.ids import DAEMON, ActorId
from soma.transport import messages as m
from soma.transport.control_client import ControlClient, Link
from soma.transport.endpoint import Outlet
from soma.transport.frames import pack, read

log = logging.getLogger("soma.daemon")

MOST_SIZES = 1000
"""Processes whose memory a heartbeat tells."""
MOST_KEPT = 500
"""Actors in one message."""


@dataclass(frozen=True, slots=True)
class About:
    """What the agent says of its machine when it registers."""

    node: str
    peer: str
    """The agent's name on the data plane."""
    capabilities: Mapping[str, Any]
    labels: Mapping[str, str]


class Agent:
    """`loop.run` returns when this machine has left. Make it, then its `LocalMachine` with it as `Reports`, then `begin`."""

    def __init__(self, loop: Loop, outlet: Outlet, control: ControlClient, session: NodeSession, about: About, patience: float) -> None:
        self.loop, self._outlet, self._control, self._session, self._about = loop, outlet, control, session, about
        self._patience = patience
        self._machine: LocalMachine
        self._orders: dict[str, Order] = {}
        self._began: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._timer = self._beats = 0
        self._link = control.link
        self._heard = loop.now()
        self._stopping, self._why = False, "it left"
        self.on_accepted: Callable[[], None] | None = None
        """Called when the head accepts this machine for the first time."""
        self._words: dict[type, Callable[[Any], list[n.Instruction]]] = {
            m.Registered: self._on_registered,
            m.Fenced: self._on_fenced, m.Beat: lambda x: session.beat_echo(x.epoch, loop.now()),
            m.Drain: lambda x: self._drain(x.grace, x.reason), m.Shutdown: self._on_shutdown, m.Refused: self._on_refused}
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Launch: self._on_launch, m.Look: self._on_look, m.ReadLog: self._on_read_log,
            m.ForgetActor: lambda x: self._machine.forget(ActorId(x.actor)),
            m.EndProcess: lambda x: self._carry(session.kill(x.key, x.incarnation, x.number, loop.now())),
            m.ConfirmEnd: lambda x: self._carry(session.confirmed(x.key, x.incarnation, x.number, loop.now()))}

    def begin(self, machine: LocalMachine) -> None:
        self._machine = machine
        self.loop.watch_edge(self._control.fileno(), self._hear)
        self._carry(self._session.start(self.loop.now()))

    def stop(self, how: Callable[[], Stopping]) -> None:
        """Let work end, as long as it may take, and go; asked a second time, go at once. Safe in a signal handler."""
        self.loop.soon(lambda: self._stop(how()))

    def _stop(self, how: Stopping) -> None:
        if self._stopping or not how.grace:
            self._why = self._why if self._stopping else how.reason
            self._carry(self._session.leave(self.loop.now()))
        else:
            self._stopping = True
            self._carry(self._drain(how.grace, how.reason))

    def _drain(self, grace: float, reason: str) -> list[n.Instruction]:
        log.info("this machine is drained (%s): it leaves when its work is done, or after %g s", reason, grace)
        self._why = reason
        if not self._machine.children and not self._session.in_touch:  # nothing to wait for, and nobody to tell
            return self._session.leave(self.loop.now())
        self.loop.after(grace, lambda: self._carry(self._session.leave(self.loop.now())))
        return self._session.drain(self.loop.now())

    # -- the head ----------------------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Everything that the control port said, and how the connection is."""
        try:
            while (said := self._control.recv(0)) is not None:
                self._heard = self.loop.now()
                self._carry(self._words[type(said[0])](said[0]))
        except ProtocolError as e:
            log.warning("refused a message of the head: %s", e)
        except SecurityError as e:
            log.error("the head does not let this machine in any more: %s", e)
            self._carry(self._session.leave(self.loop.now()))
            self.loop.stop()
            return
        if self._control.link is not self._link:
            self._link = self._control.link
            up = self._link is Link.OPEN
            self._carry((self._session.link_up if up else self._session.link_down)(self.loop.now()))

    def _on_registered(self, msg: m.Registered) -> list[n.Instruction]:
        said = self._session.registered(msg.incarnation, msg.registration, msg.epoch, msg.number, self.loop.now())
        if self._session.in_touch and self.on_accepted is not None:
            self.on_accepted()
            self.on_accepted = None
        kept = self._machine.kept() if said else ()
        for i in range(0, len(kept), MOST_KEPT):
            self._say(m.Kept(self._about.node, kept[i:i + MOST_KEPT]))
        return said

    def _on_fenced(self, msg: m.Fenced) -> list[n.Instruction]:
        log.warning("this machine was given up by the head (%s): its actors end, then it joins anew", msg.reason)
        return self._session.fenced(msg.incarnation, msg.seen, self.loop.now())

    def _on_shutdown(self, msg: m.Shutdown) -> list[n.Instruction]:
        log.info("the cluster ends: %s", msg.reason)
        return self._session.leave(self.loop.now())

    def _on_refused(self, msg: m.Refused) -> list[n.Instruction]:
        log.error("the head refuses: %s: %s", msg.error, msg.text)
        return []

    def on_message(self, frames: list[bytes]) -> None:
        """From the data plane."""
        try:
            msg = read(frames, self._handlers, "a node")
            self._handlers[type(msg)](msg)
        except ProtocolError as e:
            log.warning("refused a message from %r: %s", frames[0][:64], e)

    def _on_launch(self, msg: m.Launch) -> None:
        try:
            self._orders.setdefault(msg.key, read_order(msg.order))
        except (TypeError, ValueError) as e:
            raise ProtocolError(f"an order that is none: {e}") from None
        self._carry(self._session.launch(msg.key, msg.incarnation, msg.number, self.loop.now()))

    def _on_look(self, msg: m.Look) -> None:
        def then(box: Box | None) -> None:
            begun, running = box or (b"", b"")
            self._say(m.Looked(msg.request, box is not None, begun, running))

        self._machine.look(msg.key, then)

    def _on_read_log(self, msg: m.ReadLog) -> None:
        def then(piece: LogPiece | None) -> None:
            data, end = piece or (b"", 0)
            self._outlet.send(DAEMON, [pack(m.LogPart(msg.request, piece is not None, end)), data])

        self._machine.read_log(msg.key, msg.offset, then)

    # -- the machine (`orders.Reports`) --------------------------------------------------------------------------------------------

    def on_spawned(self, peer: str, pid: int, cores: tuple[int, ...]) -> None:
        self._began[peer] = pid, cores
        self._carry(self._session.process_started(peer, self.loop.now()))

    def on_stopped(self, peer: str, *, stopped: bool) -> None:
        self._say(m.Halted(self._about.node, peer, stopped))

    def on_failed(self, peer: str, why: str) -> None:
        self._over(peer, {"never": why})

    def on_exited(self, peer: str, exit: Exit) -> None:
        self._over(peer, told_exit(exit))

    def on_lines(self, lines: m.LogLines) -> None:
        self._carry(self._session.printed(lines, sum(map(len, lines.lines))))

    def _over(self, key: str, detail: dict[str, Any]) -> None:
        self._orders.pop(key, None)
        self._began.pop(key, None)
        self._carry(self._session.process_exited(key, detail, self.loop.now()))

    # -- carrying out ----------------------------------------------------------------------------------------------------------------

    def _carry(self, said: Iterable[n.Instruction]) -> None:
        for x in said:
            match x:
                case n.SendRegister(incarnation, registration, alive):
                    self._register(incarnation, registration, alive)
                case n.SendHeartbeat(incarnation, draining):
                    self._beat(incarnation, draining)
                case n.SendLeave(incarnation):
                    self._control.send(m.Leave(self._about.node, incarnation, self._why))
                case n.Start(key):
                    self._start(key)
                case n.End(key):
                    self._machine.kill(key)
                case n.EndAll():
                    for key in list(self._machine.children):
                        self._machine.kill(key)
                case n.TellStarted(key, incarnation):
                    pid, cores = self._began[key]
                    self._say(m.Spawned(self._about.node, incarnation, key, pid, cores))
                case n.TellExited(key, incarnation, detail):
                    told = detail if isinstance(detail, dict) else {"never": getattr(detail, "value", str(detail))}
                    self._say(m.Exited(self._about.node, incarnation, key, told))
                case n.TellPrinted(lines):
                    self._say(lines)
                case n.TellDropped(size):
                    log.warning("%d bytes of output are in the log files only: the head could not be told", size)
                case n.SetTimer(at):
                    self._timer += 1
                    self.loop.after(max(0.0, at - self.loop.now()), lambda number=self._timer: self._tick(number))  # type: ignore[misc]
                case n.Stop():
                    self.loop.stop()

    def _tick(self, number: int) -> None:
        if number != self._timer:
            return
        if self.loop.now() - self._heard > self._patience:
            log.error("the head was not heard for %g s: this machine ends what it runs, and leaves", self._patience)
            self._heard = float("inf")
            self._carry(self._session.leave(self.loop.now()))
            return
        self._hear()
        self._carry(self._session.tick(self.loop.now()))

    def _start(self, key: str) -> None:
        try:
            self._machine.launch(self._orders[key])
        except (OSError, ValueError) as e:
            why = f"{type(e).__name__}: {e}"
            self.loop.after(0.0, lambda: self.on_failed(key, why))

    def _register(self, incarnation: int, registration: int, alive: frozenset[str]) -> None:
        about = self._about
        actors = tuple((key, self._began.get(key, (0, ()))[0]) for key in sorted(alive))
        self._control.send(m.Register(b"", about.node, incarnation, about.peer, dict(about.capabilities), self._machine.totals,
                                      dict(about.labels), actors, registration))

    def _beat(self, incarnation: int, draining: bool) -> None:
        self._beats = (self._beats + 1) % (1 << 31)
        keys = list(self._machine.children)[:MOST_SIZES]
        told = {**load(), "rss": {key: self._machine.rss(key) for key in keys}}
        self._control.send(m.Heartbeat(self._about.node, incarnation, self._beats, told, draining))

    def _say(self, message: Any) -> None:
        self._outlet.send(DAEMON, [pack(message)])


def read_order(told: dict[str, Any]) -> Order:
    """What `told_order` made."""
    order = Order(**told)
    wrong = [name for name, kind in (("actor", str), ("incarnation", int), ("payload", bytes), ("env", dict), ("gpus", tuple))
             if not isinstance(getattr(order, name), kind)]
    if wrong:
        raise ValueError(f"fields of other types: {wrong}")
    return order
