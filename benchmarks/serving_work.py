"""What is asked of every system that serves, and how often."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import proc
from benchmarks.graph_work import Values as Values

CONNECTIONS = (1, 4, 16)
PAUSE = 0.005
FULL_UP = (409, 429, 503)
LUA = """
wrk.method = "POST"
wrk.body = '%s'
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %%d %%d %%d %%f %%f %%d", summary.requests, e.status, e.connect + e.read + e.write + e.timeout,
                      latency:percentile(50), latency:percentile(99), summary.duration))
end
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How often each thing is done in one round.

    Attributes:
        seconds: of load, for each number of connections.
        serial: requests with pauses.
        bodies: requests of each size.
        lines: printed by one prediction; `chunks`: streamed by one.
        busy: turns of CPU-bound predictions of `spin` steps.
        starts: of the server; `kills`: of a slot's process.
    """

    seconds: float = 4.0
    serial: int = 400
    bodies: int = 10
    lines: int = 20_000
    chunks: int = 10_000
    busy: int = 24
    spin: int = 1_000_000
    starts: int = 3
    kills: int = 3


FULL = Scale()
QUICK = Scale(seconds=1.0, serial=40, bodies=2, lines=2_000, chunks=1_000, busy=4, starts=1, kills=1)


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs and is ready. `path` is where predictions are asked for, and `ask` makes the body of a request from its inputs."""

    port: int
    pid: int
    path: str
    ready_after: float
    ask: Callable[[dict[str, Any]], bytes]
    answer: Callable[[Any], dict[str, Any]]
    """Of the JSON that came: `output`, `logs`, `failed`, as far as the system has them."""

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def post(self, connection: http.client.HTTPConnection, headers: dict[str, str] | None = None, **inputs: Any) -> tuple[int, bytes]:
        connection.request("POST", self.path, self.ask(inputs), {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()

    def one(self, **inputs: Any) -> dict[str, Any]:
        """Ask, and for a while again if there is no room. RuntimeError if it fails."""
        begin = time.perf_counter()
        with contextlib.closing(self.connection()) as connection:
            status, body = self.post(connection, **inputs)
            while status in FULL_UP and time.perf_counter() - begin < 5:
                status, body = self.post(connection, **inputs)
        if status != 200:
            raise RuntimeError(f"{status}: {body[:200]!r}")
        return self.answer(json.loads(body))


Serve = Callable[[str, int], AbstractContextManager[Server]]
"""Serves "Plain" or "Words", with so many slots."""


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def is_up(port: int, health: str, fine: Callable[[int, bytes], bool]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", health)
        response = connection.getresponse()
        return fine(response.status, response.read())
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str], port: int, health: str, fine: Callable[[int, bytes], bool],
            cwd: str | None = None, **of_server: Any) -> Iterator[Server]:
    """A server in a process of its own, once it answers `health` well; ended afterwards."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **env}, cwd=cwd or tempfile.mkdtemp())
    try:
        while not is_up(port, health, fine):
            if process.poll() is not None or time.perf_counter() - begin > 60:
                raise RuntimeError(f"it does not start: {command}")
            time.sleep(0.002)
        yield Server(port=port, pid=process.pid, ready_after=time.perf_counter() - begin, **of_server)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        proc.end(set(children))


# -- steps -------------------------------------------------------------------------------------------------------------------------


def load(serve: Serve, scale: Scale) -> Values:
    """wrk, with ever more connections. Only answers of status 200 count; the rest were refused."""
    found: dict[str, float] = {}
    with serve("Plain", 1) as server, tempfile.TemporaryDirectory() as where:
        script = Path(where) / "ask.lua"
        server.one()
        script.write_text(LUA % server.ask({}).decode())
        for connections in CONNECTIONS:
            command = ["wrk", "-t1", f"-c{connections}", f"-d{scale.seconds:g}s", "-s", str(script)]
            said = subprocess.run([*command, f"http://127.0.0.1:{server.port}{server.path}"], check=True, capture_output=True, text=True,
                                  timeout=60).stdout
            line = next(part for part in said.splitlines() if part.startswith("RESULT"))
            requests, refused, broken, p50, p99, took = map(float, line.split()[1:])
            found |= {f"rps_{connections}": (requests - refused) / took * 1e6, f"p50_{connections}": p50 / 1e3,
                      f"p99_{connections}": p99 / 1e3, f"refused_{connections}": 100 * (refused + broken) / max(1.0, requests)}
        found["memory"] = proc.pss(_listener(server))
    return found


def _listener(server: Server) -> int:
    """The process of a server that takes connections; if several have the socket, the largest."""
    root = psutil.Process(server.pid)
    family = [root, *root.children(recursive=True), *(p for p in psutil.process_iter() if "ray::ProxyActor" in p.name())]
    found = [process.pid for process in family
             if any(c.status == psutil.CONN_LISTEN and c.laddr.port == server.port for c in process.net_connections("inet"))]
    if not found:
        raise RuntimeError("no process of it listens")
    return int(max(found, key=proc.pss))


def serial(serve: Serve, scale: Scale) -> Values:
    """One client that asks, waits for the answer, and pauses."""
    taken, refused = [], 0
    with serve("Plain", 1) as server, contextlib.closing(server.connection()) as connection:
        for _ in range(scale.serial):
            begin = time.perf_counter()
            status, _ = server.post(connection)
            taken.append(time.perf_counter() - begin)
            refused += status != 200
            time.sleep(PAUSE)
    return {"serial": median(taken) * 1e3, "serial_refused": 100 * refused / scale.serial}


def bodies(serve: Serve, scale: Scale) -> Values:
    found = {}
    with serve("Plain", 1) as server:
        for mb in (1, 10):
            taken, data = [], "x" * (mb * 10**6)
            for _ in range(scale.bodies):
                begin = time.perf_counter()
                if server.one(data=data)["output"] != len(data):
                    raise RuntimeError("it did not get all of it")
                taken.append(time.perf_counter() - begin)
            found[f"body_{mb}"] = median(taken) * 1e3
    return found


def logs(serve: Serve, scale: Scale) -> Values:
    with serve("Plain", 1) as server:
        server.one(what="print", n=10)
        begin = time.perf_counter()
        said = server.one(what="print", n=scale.lines)["logs"]
        taken = time.perf_counter() - begin
    if (lines := said.count("\n")) != scale.lines:
        raise RuntimeError(f"{scale.lines - lines} of {scale.lines} lines are lost")
    return {"logs": taken}


def stream(serve: Serve, scale: Scale) -> Values:
    """Until the last chunk is there."""
    with serve("Words", 1) as server, contextlib.closing(server.connection()) as connection:
        for n in (10, scale.chunks):
            begin = time.perf_counter()
            while (got := server.post(connection, {"Accept": "text/event-stream"}, n=n))[0] in FULL_UP:
                continue
            status, body = got
            taken = time.perf_counter() - begin
            if status != 200 or (came := body.count(b"word")) < n:
                raise RuntimeError(f"{status}: {came if status == 200 else body[:100]!r} of {n} chunks")
    return {"stream": taken}


def kill(serve: Serve, scale: Scale) -> Values:
    """Its process is killed while a prediction runs: until that is answered, and until the next one is well."""
    failed, again = [], []
    with serve("Plain", 1) as server:
        for _ in range(scale.kills):
            pid = server.one(what="pid")["output"]
            answers: list[float] = []

            def ask(answers: list[float] = answers) -> None:
                with contextlib.closing(server.connection()) as connection, contextlib.suppress(OSError, http.client.HTTPException):
                    server.post(connection, what="nap", n=20_000)
                answers.append(time.perf_counter())

            waits = threading.Thread(target=ask)
            waits.start()
            time.sleep(0.3)
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while time.perf_counter() - begin < 15:
                with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                    if server.one(what="pid")["output"] != pid:
                        break
                time.sleep(0.002)
            else:
                raise RuntimeError("it was not ready again after 15 s")
            again.append(time.perf_counter() - begin)
            waits.join()
            failed.append(answers[0] - begin)
    return {"killed": median(failed) * 1e3, "again": median(again)}


def busy(serve: Serve, scale: Scale) -> Values:
    """Pure Python, one prediction after the other and then two at once, in turns with two processes that are asked for nothing else: what
    two cores give together changes within seconds, and is less than twice as much where they are two threads of one."""
    with serve("Plain", 2) as server, _spinning(scale) as bare:
        def ask(times: int) -> None:
            with contextlib.closing(server.connection()) as connection:
                while times:
                    status, _ = server.post(connection, what="spin", n=scale.spin)
                    times -= status == 200

        _together(ask, ask)
        turns = []
        for _ in range(scale.busy):
            turns.append([_seconds(lambda: ask(2)), _together(ask, ask), _seconds(lambda: bare[0](2)), _together(*bare)])
    speedup, bound = (median(turn[i] / turn[i + 1] for turn in turns) for i in (0, 2))
    return {"busy": speedup, "bound": speedup / bound}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _together(*asks: Callable[[int], None]) -> float:
    """Seconds until each was done once. Raises what one of them raised: it would be too short a time."""
    with ThreadPoolExecutor(len(asks)) as pool:
        return _seconds(lambda: list(pool.map(lambda ask: ask(1), asks)))


@contextlib.contextmanager
def _spinning(scale: Scale) -> Iterator[list[Callable[[int], None]]]:
    """Two processes; each spins as often as it is told to."""
    program = f"from benchmarks.serving_peers.doing import do\nwhile input():\n    print(do('spin', {scale.spin}, ''), flush=True)"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) for _ in range(2)]

    def spin(process: subprocess.Popen[str], times: int) -> None:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(times):
            print("go", file=process.stdin, flush=True)
            if not process.stdout.readline():
                raise RuntimeError("a process that spins has ended")

    try:
        yield [functools.partial(spin, process) for process in processes]
    finally:
        for process in processes:
            process.communicate("\n")


def start(serve: Serve, scale: Scale, file: Path | None = None) -> Values:
    """From the command to ready; the setup does nothing but to import `file`, which is measured for itself as well."""
    found, setups = [], []
    for _ in range(scale.starts):
        with serve("Plain", 1) as server:
            found.append(server.ready_after)
        if file is not None:
            setups.append(_run([sys.executable, str(file)]) - _run([sys.executable, "-c", ""]))
    return {"start": median(found), **({"beyond": median(found) - median(setups)} if setups else {})}


def _run(command: list[str]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return time.perf_counter() - begin


STEPS: dict[str, Callable[[Serve, Scale], Values]] = {
    "load": load, "serial": serial, "bodies": bodies, "logs": logs, "stream": stream, "kill": kill, "busy": busy, "start": start}
