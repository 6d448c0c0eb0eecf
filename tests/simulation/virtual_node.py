"""A node agent in the simulated world: soma's session, and processes that take their time to start and to die."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from virtual_head import HEAD
from virtual_network import Message, Network

from soma.daemon.coordination import nodesession as n
from soma.daemon.coordination import nodestates as s


@dataclass(slots=True)
class Process:
    key: str
    incarnation: int
    """Of the node that started it."""
    exists: bool = True
    running: bool = False
    dying: bool = False
    calls: dict[int, int] = field(default_factory=dict)
    """How often each call was run here; the last protects a caller who asks twice."""


class VirtualNode:
    """One life of an agent: from its start until it stops or crashes."""

    def __init__(self, name: str, network: Network, rng: Random, incarnation: int) -> None:
        self.name, self.network, self.rng = name, network, rng
        self.session = n.NodeSession(name, incarnation)
        self.processes: dict[str, Process] = {}
        """Those that exist."""
        self.stopped = False
        self.dirty = True
        self.started: list[str] = []
        """Every process it ever started."""
        self._timer = 0

    @property
    def now(self) -> float:
        return self.network.clock.now

    def begin(self) -> None:
        self.network.receivers[self.name] = self.receive
        self._do(self.session.start(self.now))

    def crash(self) -> None:
        """The agent dies, and with it all that it started."""
        self.stopped = self.dirty = True
        self.processes.clear()
        self.network.receivers.pop(self.name, None)

    # -- events --------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        if message[0] == "call":
            self._on_call(sender, *message[1:])
        else:
            self._do(getattr(self.session, message[0])(*message[1:], self.now))

    def link(self, up: bool) -> None:
        if not self.stopped:
            self._do((self.session.link_up if up else self.session.link_down)(self.now))

    def drain(self) -> None:
        self._do(self.session.drain(self.now))

    def leave(self) -> None:
        self._do(self.session.leave(self.now))

    def _on_call(self, caller: str, key: str, call: int) -> None:
        process = self.processes.get(key)
        if process is not None and process.running and not process.dying:
            process.calls.setdefault(call, 0)
            if not process.calls[call]:
                process.calls[call] += 1
            self.network.send(self.name, caller, ("reply", call, key))

    # -- instructions --------------------------------------------------------------------------------------------------------

    def _do(self, instructions: list[Any]) -> None:
        for said in instructions:
            match said:
                case s.SendJoin():
                    self._send("join")
                case s.SendRegister(incarnation, registration, alive):
                    self._send("register", incarnation, registration, alive)
                case s.SendHeartbeat(incarnation, draining):
                    self._send("heartbeat", incarnation, draining)
                case s.SendLeave(incarnation):
                    self._send("leave", incarnation)
                case s.TellStarted(key, incarnation):
                    self._send("started", key, incarnation)
                case s.TellExited(key, incarnation, detail):
                    self._send("exited", key, incarnation, detail)
                case s.Start(key):
                    self._start(key)
                case s.End(key):
                    self.end(key)
                case s.EndAll():
                    for key in list(self.processes):
                        self.end(key)
                case s.SetTimer(at):
                    self._timer += 1
                    self.network.clock.at(at, self._tick, self._timer)
                case s.Stop():
                    assert not self.processes, f"{self.name} stops and leaves {self.processes} behind"
                    self.crash()
                case _:
                    raise AssertionError(said)

    def _send(self, *message: Any) -> None:
        self.network.send(self.name, HEAD, message)

    def _tick(self, timer: int) -> None:
        if self.stopped or timer != self._timer:
            return
        if (until := self.network.asleep.get(self.name, 0.0)) > self.now:
            self.network.clock.at(until, self._tick, timer)
            return
        self._do(self.session.tick(self.now))

    # -- processes -----------------------------------------------------------------------------------------------------------

    def _start(self, key: str) -> None:
        self.started.append(key)
        self.processes[key] = Process(key, self.session.incarnation)
        self.dirty = True
        self.network.note(self.name, "starts", key)
        self.network.clock.after(0.005 + 0.05 * self.rng.random(), self._started, key)

    def _started(self, key: str) -> None:
        process = self.processes.get(key)
        if process is None or process.dying:
            return
        if self.rng.random() < 0.03:
            self.exited(key, "could not be started")
            return
        process.running = True
        self._do(self.session.process_started(key, self.now))

    def end(self, key: str) -> None:
        process = self.processes.get(key)
        if process is not None and not process.dying:
            process.dying = True
            slow = self.rng.random() < 0.1
            self.network.clock.after((4.0 if slow else 0.05) * self.rng.random(), self.exited, key, "killed")

    def exited(self, key: str, why: str) -> None:
        if self.processes.pop(key, None) is not None:
            self.dirty = True
            self.network.note(self.name, "ends", key, why)
            self._do(self.session.process_exited(key, why, self.now))
