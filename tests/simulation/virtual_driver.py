"""A driver in the simulated world: wants actors, calls them, kills some; asks again until it is answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from virtual_head import HEAD
from virtual_network import Message, Network


@dataclass(slots=True)
class Call:
    number: int
    actor: str
    key: str
    node: str
    outcome: str = ""


@dataclass(slots=True)
class Request:
    """An actor that it wants."""

    name: str
    restarts: int
    key: str = ""
    node: str | None = None
    """Where it runs; None while it does not."""
    outcome: str = ""
    """Why it will not run any more."""
    answered: bool = False
    killed: bool = False
    version: tuple[int, int] = (0, 0)
    calls: list[Call] = field(default_factory=list)


class VirtualDriver:
    def __init__(self, name: str, network: Network, rng: Random) -> None:
        self.name, self.network, self.rng = name, network, rng
        self.incarnation, self.number = 1, 0
        self.requests: dict[str, Request] = {}
        self.open: dict[int, Call] = {}
        self.stopped = False

    @property
    def now(self) -> float:
        return self.network.clock.now

    def begin(self) -> None:
        self.network.receivers[self.name] = self.receive
        self._send("hello", self.incarnation)
        self._beat()
        self._ask()

    def crash(self) -> None:
        self.stopped = True
        self.network.receivers.pop(self.name, None)

    def _send(self, *message: Any) -> None:
        self.network.send(self.name, HEAD, message)

    # -- what it does --------------------------------------------------------------------------------------------------------

    def want(self, restarts: int) -> None:
        self.number += 1
        request = Request(f"{self.name}{chr(96 + self.number)}", restarts)
        self.requests[request.name] = request
        self._send("want", self.incarnation, request.name, restarts)

    def kill(self) -> None:
        alive = [r for r in self.requests.values() if not r.outcome and not r.killed]
        if alive:
            request = self.rng.choice(alive)
            request.killed = True
            self._send("unwant", self.incarnation, request.name)

    def call(self) -> None:
        running = [r for r in self.requests.values() if r.node is not None and not r.outcome]
        if running:
            request = self.rng.choice(running)
            self.number += 1
            call = Call(self.number, request.name, request.key, str(request.node))
            request.calls.append(call)
            self.open[call.number] = call
            self.network.send(self.name, call.node, ("call", call.key, call.number))

    # -- again and again -----------------------------------------------------------------------------------------------------

    def _sleeps(self, what: Any) -> bool:
        """True, and `what` is done later, if this process is stopped."""
        until = self.network.asleep.get(self.name, 0.0)
        if until > self.now:
            self.network.clock.at(until, what)
        return until > self.now

    def _beat(self) -> None:
        if not self.stopped and not self._sleeps(self._beat):
            self._send("driver_beat", self.incarnation)
            self.network.clock.after(1.0, self._beat)

    def _ask(self) -> None:
        if self.stopped or self._sleeps(self._ask):
            return
        for request in self.requests.values():
            if not request.outcome:
                if request.killed:
                    self._send("unwant", self.incarnation, request.name)
                self._send("want", self.incarnation, request.name, request.restarts)
        for call in self.open.values():
            self.network.send(self.name, call.node, ("call", call.key, call.number))
        self.network.clock.after(2.5, self._ask)

    # -- what it hears -------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        getattr(self, "_on_" + message[0])(*message[1:])

    def _on_beat_echo(self, epoch: int) -> None:
        if epoch == 0:
            self._send("hello", self.incarnation)

    def _on_fenced(self, incarnation: int, seen: int) -> None:
        """It was declared lost: all it had is gone."""
        if incarnation == self.incarnation:
            self.incarnation = max(incarnation, seen) + 1
            for request in self.requests.values():
                if not request.outcome:
                    self._over(request, "the cluster lost this driver")
            self._send("hello", self.incarnation)

    def _on_actor_is(self, incarnation: int, name: str, key: str, node: str | None, finished: str, version: tuple[int, int]) -> None:
        request = self.requests[name]
        if incarnation != self.incarnation or request.outcome or version <= request.version:
            return
        request.version, request.answered = version, True
        if finished:
            self._over(request, finished)
            return
        if key != request.key:
            self._drop_calls(request, f"{request.key} died")
        request.key, request.node = key, node

    def _on_reply(self, number: int, key: str) -> None:
        call = self.open.get(number)
        if call is not None and call.key == key == self.requests[call.actor].key:
            call.outcome = "answered"
            del self.open[number]

    def _over(self, request: Request, reason: str) -> None:
        request.outcome, request.node = reason, None
        self._drop_calls(request, reason)

    def _drop_calls(self, request: Request, reason: str) -> None:
        for call in request.calls:
            if not call.outcome:
                call.outcome = reason
                del self.open[call.number]
