"""A cluster over hosts, made as users make it: with `soma start`, `soma join` and drivers that call `soma.init(address)`.

All that depends on how the commands are called and what they print is in this file.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from console import Console
from hosts import Host, Hosts, command, still_alive

PORT = 7077
SOMA = [sys.executable, "-c", "from soma.cli import main; main()"]
TOKEN = r"soma1\.[\w-]+\.[\w-]+"
CPUS = 4

PROGRAM = """
import collections, os, time
import numpy as np
import soma
from soma.util.scheduling_strategies import NodeAffinitySchedulingStrategy

@soma.remote
class Worker:
    def __init__(self, bytes_held=0):
        self.calls = []
        self.held = np.arange(bytes_held // 8, dtype=float)
    def pid(self):
        return os.getpid()
    def node(self):
        return soma.get_runtime_context().get_node_id()
    def call(self, n):
        self.calls.append(n)
        return n
    def seen(self):
        return self.calls
    def add_one(self, x):
        x += 1
        return x
    def total(self, x):
        return float(x.sum())
    def give(self):
        return self.held
    def nap(self, seconds, sign=None):
        if sign is not None:
            open(sign, "w").close()
        time.sleep(seconds)
        return "rested"
    def through(self, other, n):
        return soma.get(other.call.remote(n), timeout=10)
    def spawn_sleeper(self):
        import subprocess
        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

@soma.remote
def square(n):
    return n * n, soma.get_runtime_context().get_node_id()

def on(tag, **options):
    return Worker.options(tags=(tag,), **options)

def wandering(node):
    "On that node as long as it is there, then on another one with the tag."
    where = NodeAffinitySchedulingStrategy(node, soft=True)
    return Worker.options(tags=("work",), max_restarts=-1, scheduling_strategy=where).remote()

def outcome(ref, timeout=10):
    "What became of a call: its value, or the error in plain data."
    try:
        return {"value": soma.get(ref, timeout=timeout)}
    except soma.ActorDiedError as e:
        return {"died": str(e), "reason": e.reason, "signal": e.signal, "executed": e.executed}
    except soma.SomaError as e:
        return {"error": type(e).__name__, "text": str(e)}

def nodes():
    "Those that are alive."
    return sorted(n["NodeID"] for n in soma.nodes() if n["Alive"])
"""


class Machines:
    """Hosts with a head on the first and a node on each: "h0", "h1", … are the nodes' ids, and tags of theirs as well."""

    def __init__(self, hosts: Hosts, options: tuple[str, ...] = ()) -> None:
        self.hosts = hosts
        self.address = f"tcp://{hosts[0].address}:{PORT}"
        self.token = ""
        self.head_pid = 0
        self.agent_pids: dict[int, int] = {}
        """Of the process that is a host's node."""
        self._options = options
        self._driver_token = ""

    def start(self) -> str:
        """The head, with the first host's node; what was printed."""
        said = soma(self.hosts[0], "start", "--head", "--bind", self.address, *self._options, *self._offer(0, "all"))
        self.token = found(TOKEN, said)
        self.head_pid, self.agent_pids[0] = int(found(r"head .*\(pid (\d+)\)", said)), int(found(r"node .*\(pid (\d+)\)", said))
        return said

    def join(self, number: int, *, address: str = "") -> str:
        """The node of another host; what was printed."""
        host = self.hosts[number]
        said = soma(host, "join", address or self.address, "--host", host.address, *self._offer(number, "all,work"),
                    env={"SOMA_TOKEN": self.token})
        self.agent_pids[number] = int(found(r"node .*\(pid (\d+)\)", said))
        return said

    @staticmethod
    def _offer(number: int, tags: str) -> tuple[str, ...]:
        return "--num-cpus", str(CPUS), "--name", f"h{number}", "--tags", f"{tags},h{number}"

    @contextmanager
    def driver(self, number: int = 0, address: str = "") -> Iterator[Console]:
        """A program on a host that has called `soma.init(address)` and then ends in order."""
        console = self.start_driver(number, address)
        try:
            yield console
            console.ask("soma.shutdown()")
        finally:
            console.close()

    def start_driver(self, number: int = 0, address: str = "") -> Console:
        """On the head's host its user needs no token; elsewhere a driver has one of its own."""
        console = Console(self.hosts[number], PROGRAM, env={} if number == 0 else {"SOMA_TOKEN": self.driver_token()})
        try:
            console.ask(f"soma.init({address or self.address!r}, namespace='tests', log_to_driver=False) and None", 15)
        except BaseException:
            console.close()
            raise
        return console

    def driver_token(self) -> str:
        """Made when it is first asked for."""
        if not self._driver_token:
            self._driver_token = found(TOKEN, soma(self.hosts[0], "token", "create", "--role", "driver"))
        return self._driver_token

    def status(self, number: int = 0) -> Any:
        return json.loads(soma(self.hosts[number], "status", "--address", self.address, "--json", env={"SOMA_TOKEN": self.driver_token()}))


def soma(host: Host, *arguments: str, env: dict[str, str] | None = None, timeout: float = 20) -> str:
    """A command of soma's, as a user types it; what it printed. It must end well."""
    code, said = host.call([*SOMA, *arguments], env=env, timeout=timeout)
    assert code == 0, f"{host}: soma {' '.join(arguments)} ended with {code}:\n{said}"
    return said


def found(pattern: str, said: str) -> str:
    match = re.search(pattern, said)
    assert match, f"no {pattern} in:\n{said}"
    return match[match.lastindex or 0]


def kill(pid: int) -> float:
    """SIGKILL; the time when it was sent."""
    sent = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return sent


def assert_gone(pids: list[int], within: float) -> None:
    left = still_alive(pids, within)
    assert not left, f"after {within} s: {[command(pid) for pid in left]}"


@contextmanager
def machines(hosts: Hosts, *options: str, joined: int | None = None) -> Iterator[Machines]:
    """A cluster over all hosts, or over the first `joined`; `options` are those of `soma start`."""
    made = Machines(hosts, options)
    made.start()
    for number in range(1, len(hosts) if joined is None else joined):
        made.join(number)
    yield made
