"""Hosts on one machine: network namespaces behind one switch, for tests of what happens between machines.

    [host 0: net0] ── veth ──┐
    [host 1: net0] ── veth ──┼── bridge, in a namespace of its own
    [host 2: net0] ── veth ──┘

Needs Linux, root and iproute2, nothing else; `missing()` says what is not there. The machine's own network is not touched: nobody outside
can reach a host, and a host reaches nothing but the others. Processes, /tmp and users are shared; directories for sockets, keys and the
home are each host's own, with short paths (the path of a socket has 108 bytes at most).

Namespaces carry the pid of the process that made them, so what a killed test run left is removed by the next one. Delay, loss of bytes and
slow links are not made here (that needs kernel modules): see `faultproxy`.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("/run/netns")
PREFIX = "somanet"
FOLDERS, SHORT = Path("/tmp"), "sn"
"""Where directories of hosts are, and how their names begin: short."""
NOWHERE = "02:00:00:00:00:01"
"""An address of Ethernet that nobody has: what is sent to it is lost without a word."""

_numbers = itertools.count()


def missing() -> str:
    """What these hosts need and is not here, in words; empty if all is."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a thing of Linux"
    if shutil.which("ip") is None:
        return "`ip` (iproute2) is not installed"
    name = f"{PREFIX}-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no right to make network namespaces: {tried.stderr.strip()}"
    _ip("link", "add", "net0", "type", "bridge", namespace=name)
    _ip("netns", "delete", name)
    return ""


def _ip(*arguments: str, namespace: str = "", lines: Sequence[str] = ()) -> str:
    """`ip`, perhaps in a namespace; with `lines` all of them at one stroke."""
    where = ["-n", namespace] if namespace else []
    what = ["-batch", "-"] if lines else list(arguments)
    done = subprocess.run(["ip", *where, *what], input="\n".join(lines), capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join([*where, *(lines or arguments)])}: {done.stderr.strip()}")
    return done.stdout


def sweep() -> list[str]:
    """Remove the namespaces and directories of processes that are gone, and what still runs inside; their names."""
    swept = []
    for name in os.listdir(RUN) if RUN.exists() else ():
        if orphaned(name, PREFIX):
            pids = inside(name)
            kill_all(pids)
            still_alive(pids, 5.0)
            _ip("netns", "delete", name)
            swept.append(name)
    for name in filter(lambda name: orphaned(name, SHORT), os.listdir(FOLDERS)):
        shutil.rmtree(FOLDERS / name)
        swept.append(name)
    return swept


def orphaned(name: str, prefix: str) -> bool:
    """Whether a name is one of ours, of a process that is gone."""
    first, _, rest = name.partition("-")
    maker = rest.partition("-")[0]
    return first == prefix and maker.isdigit() and not os.path.exists(f"/proc/{maker}")


def inside(name: str) -> list[int]:
    """The pids of all processes in a namespace, whoever their parent is."""
    wanted, found = os.stat(RUN / name), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                has = os.stat(f"/proc/{entry}/ns/net")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended (a zombie has no namespaces), or is not ours
            if (has.st_dev, has.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.append(int(entry))
    return found


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself


def still_alive(pids: Iterable[int], within: float) -> list[int]:
    """Those that did not end within that many seconds; a zombie has ended."""
    until, left = time.monotonic() + within, []
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
                left.append(pid)
        finally:
            os.close(fd)
    return left


class Host:
    """One host. `run` starts processes on it; whatever runs there ends with it."""

    def __init__(self, number: int, name: str, switch: str, address: str, folder: Path) -> None:
        self.number = number
        self.name = name
        """Of its namespace: `ip netns exec NAME …` for a look inside."""
        self.namespace = RUN / name
        self.address = address
        self.folder = folder
        self._switch = switch
        self._started: list[subprocess.Popen[Any]] = []
        for part in ("run", "config", "state", "home", "cache", "runs"):
            (folder / part).mkdir(mode=0o700)

    def __repr__(self) -> str:
        return f"host {self.number} ({self.address})"

    @property
    def env(self) -> dict[str, str]:
        """The environment of what runs here: directories of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SOMA_", "XDG_"))}
        own = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "HOME": "home", "SOMA_CACHE": "cache",
               "SOMA_RUNS": "runs"}
        return kept | {key: str(self.folder / part) for key, part in own.items()} | {"PYTHONPATH": str(ROOT)}

    def run(self, arguments: Sequence[str | os.PathLike[str]], *, env: dict[str, str] | None = None,
            **popen: Any) -> subprocess.Popen[Any]:
        """Start a process here, in a session of its own; `env` is added to the host's. Its pid is that of the command itself."""
        made: subprocess.Popen[Any] = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *arguments], env=self.env | (env or {}),
            **{"start_new_session": True, "stdin": subprocess.DEVNULL, "cwd": self.folder, **popen})
        self._started.append(made)
        return made

    def call(self, arguments: Sequence[str | os.PathLike[str]], *, timeout: float = 20, **popen: Any) -> tuple[int, str]:
        """Run a command to its end: exit code, and what it printed to stdout and stderr."""
        running = self.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)
        with running:
            try:
                printed = running.communicate(timeout=timeout)[0]
            except subprocess.TimeoutExpired:
                running.kill()
                raise AssertionError(f"{self}: {arguments} did not end within {timeout} s:\n{running.communicate()[0]}") from None
        return running.returncode, printed

    def link_down(self) -> None:
        """Pull the cable: no packet comes or goes, nobody is told, connections stay as they are. Its own address goes on working."""
        _ip("link", "set", f"h{self.number}", "down", namespace=self._switch)

    def link_up(self) -> None:
        _ip("link", "set", f"h{self.number}", "up", namespace=self._switch)

    def sysctl(self, name: str, value: int) -> None:
        """Set a kernel parameter of this host, e.g. `net.ipv4.tcp_retries2`."""
        code, said = self.call(["sh", "-c", f"echo {value} > /proc/sys/{name.replace('.', '/')}"])
        if code:
            raise RuntimeError(f"{self}: {name}: {said.strip()}")

    def traffic(self) -> tuple[int, int]:
        """Bytes that this host received and sent so far."""
        stats = json.loads(_ip("-s", "-j", "link", "show", "net0", namespace=self.name))[0]["stats64"]
        return stats["rx"]["bytes"], stats["tx"]["bytes"]

    def pids(self) -> list[int]:
        """Everything that runs here."""
        return inside(self.name)

    def traces(self) -> list[str]:
        """What lies in its runtime directory, and processes: empty when nothing is left behind."""
        lying = [str(path) for path in (self.folder / "run").iterdir()]
        return lying + [f"process {pid}: {command(pid)}" for pid in self.pids()]

    def stop(self) -> None:
        """End everything that runs here; idempotent."""
        for process in self._started:  # one of them may be on its way into the namespace
            process.kill()
            process.wait(5)
        pids = self.pids()
        kill_all(pids)
        left = still_alive(pids, 5.0)
        for process in self._started:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._started.clear()
        if left or self.pids():
            raise RuntimeError(f"{self}: processes that cannot be ended: {left or self.pids()}")


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except (FileNotFoundError, ProcessLookupError):
        return "just ended"


class Hosts(Sequence[Host]):
    """Hosts that reach each other; `partition` and `heal` say who reaches whom."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = tuple(hosts)

    def __getitem__(self, index: Any) -> Any:
        return self._hosts[index]

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def partition(self, a: Host, b: Host, *, one_way: bool = False) -> None:
        """Packets from `a` to `b` are lost silently, and those from `b` to `a` unless `one_way`. Others are not concerned."""
        for here, there in [(a, b)] if one_way else [(a, b), (b, a)]:
            _ip("neigh", "replace", there.address, "lladdr", NOWHERE, "dev", "net0", "nud", "permanent", namespace=here.name)

    def heal(self, a: Host, b: Host) -> None:
        """Both ways; also where nothing was cut."""
        for here, there in [(a, b), (b, a)]:
            if NOWHERE in _ip("neigh", "show", "to", there.address, namespace=here.name):
                _ip("neigh", "delete", there.address, "dev", "net0", namespace=here.name)

    def traces(self) -> list[str]:
        return [f"{host}: {trace}" for host in self for trace in host.traces()]

    def wait_until_nothing_is_left(self, within: float) -> None:
        """AssertionError names what is still there."""
        until = time.monotonic() + within
        while left := self.traces():
            remaining = until - time.monotonic()
            assert remaining > 0, "left behind:\n  " + "\n  ".join(left)
            still_alive([pid for host in self for pid in host.pids()], min(0.1, remaining))


@contextmanager
def hosts(count: int = 3) -> Iterator[Hosts]:
    """`count` hosts that reach each other, and nothing else. Everything that runs on them is killed at the end."""
    sweep()
    stem = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    names, switch = [f"{stem}-{number}" for number in range(count)], f"{stem}-s"
    with ExitStack() as undo:
        folder = FOLDERS / stem.replace(PREFIX, SHORT)
        folder.mkdir(mode=0o700)
        undo.callback(shutil.rmtree, folder)
        for name in [switch, *names]:
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "delete", name)
        _ip(namespace=switch, lines=[
            "link add bridge type bridge", "link set bridge up",
            *(f"link add h{n} type veth peer name net0 netns {name}" for n, name in enumerate(names)),
            *(f"link set h{n} master bridge up" for n in range(count))])
        made = []
        for number, name in enumerate(names):
            address = f"10.77.0.{number + 1}"
            _ip(namespace=name, lines=["link set lo up", f"addr add {address}/24 dev net0", "link set net0 up"])
            (folder / str(number)).mkdir(mode=0o700)
            made.append(Host(number, name, switch, address, folder / str(number)))
            undo.callback(made[-1].stop)
        yield Hosts(made)
