"""The forkserver: a single-threaded process with numpy, zmq and cloudpickle imported, that forks actors on request.

It is the parent of every actor, so it alone learns how each ended. It adopts what dead actors leave behind, and ends it. It is the
last to go: when the daemon is gone, however it went, it ends every process of the cluster and removes the runtime directory.

    daemon → zygote   {"spawn": {...Start}, "heavy": [...], "method": …} with the descriptors of stdout, stderr, blackbox
    zygote → daemon   {"spawned": peer, "pid": …} | {"failed": peer, "why": …} | {"exited": peer, "pid", "status", "rss"}
                      | {"stopped": peer} | {"continued": peer}
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any

from soma.actors.process import Start, actor_main, decode_start, encode_start
from soma.daemon.processes import children, descendants
from soma.daemon.reaping import become_subreaper, die_with, kill_all
from soma.daemon.sentinel import Sentinel

MAX_MESSAGE = 128 * 1024
MARK = "SOMA_CLUSTER"
ACTOR_MARK = "SOMA_ACTOR"
ORPHAN = ""
"""Stands for the peer of a process that was adopted."""


class Zygote:
    """Forks on request, reports exits, cleans up after the daemon."""

    def __init__(self, channel: socket.socket, cluster: str, directory: str) -> None:
        self._channel = channel
        self._cluster = cluster
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._read_request)
        self._signalled, self._signals = os.pipe()
        for fd in (self._signalled, self._signals):
            os.set_blocking(fd, False)
        self._selector.register(self._signalled, selectors.EVENT_READ, self._on_signal)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only so that it is written to the pipe
        self._over = False
        self._children: dict[int, tuple[str, Sentinel]] = {}

    def serve(self) -> None:
        """Until the daemon's end of the channel closes."""
        while not self._over:
            for key, _ in self._selector.select():
                key.data()
        self._clean_up()

    # -- forking -------------------------------------------------------------------------------------------------------------

    def _read_request(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, MAX_MESSAGE, 3)
        except ConnectionError:
            data = b""
        if not data:
            self._over = True
            return
        request = json.loads(data)
        start = decode_start(request["spawn"])
        peer = f"{start.actor}.{start.incarnation}"
        try:
            for name in request["heavy"]:
                with contextlib.suppress(ImportError):  # then the actor's own import will say so
                    importlib.import_module(name)
            pid = self._spawn_fresh(start, fds) if request["method"] == "spawn" else self._fork(start, fds)
        except OSError as e:
            self._tell({"failed": peer, "why": f"{type(e).__name__}: {e}"})
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._watch(pid, peer)
        self._tell({"spawned": peer, "pid": pid})

    def _fork(self, start: Start, fds: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            die_with(parent)
            signal.set_wakeup_fd(-1)
            for fd in (self._signalled, self._signals):
                os.close(fd)
            self._channel.close()
            self._selector.close()
            for _, sentinel in self._children.values():
                sentinel.close()
            self._children.clear()
            become(start, fds)
        finally:
            os._exit(70)  # only if `become` itself failed

    def _spawn_fresh(self, start: Start, fds: list[int]) -> int:
        code = "from soma.daemon.zygote import spawned; spawned()"
        told = json.dumps([sys.path, os.environ.get("PYTHONPATH"), encode_start(start)])
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(os.getpid()), told, *map(str, fds)],
            pass_fds=fds, start_new_session=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)})
        process.returncode = 0  # reaped here, by pid
        return process.pid

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the daemon is gone: the next read says so
            self._channel.send(json.dumps(message).encode())

    # -- endings -------------------------------------------------------------------------------------------------------------

    def _watch(self, pid: int, peer: str) -> None:
        sentinel = Sentinel(pid)
        self._children[pid] = (peer, sentinel)
        self._selector.register(sentinel.fileno(), selectors.EVENT_READ, functools.partial(self._reap, pid))

    def _on_signal(self) -> None:
        """A child stopped, went on, or died (which its sentinel tells)."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._signalled, 4096)
        for pid, (peer, _) in self._children.items():
            try:
                change = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            except ChildProcessError:
                continue  # it is gone: its sentinel says so
            if change is not None and peer != ORPHAN:
                self._tell({"stopped" if change.si_code == os.CLD_STOPPED else "continued": peer})

    def _reap(self, pid: int) -> None:
        peer, sentinel = self._children.pop(pid)
        self._selector.unregister(sentinel.fileno())
        sentinel.close()
        _, status, usage = os.wait4(pid, 0)
        if peer != ORPHAN:
            self._tell({"exited": peer, "pid": pid, "status": status, "rss": usage.ru_maxrss * 1024})
        self._end_orphans()

    def _end_orphans(self) -> None:
        """End what a dead actor left behind, whatever session or environment it made for itself.

        A living actor adopts the orphans below it (see `become`), so a child of ours that is no actor had a dead one above it.
        Its own children come to us when it is gone, and then it is their turn.
        """
        for orphan in children(os.getpid()) - self._children.keys():
            self._watch(orphan, ORPHAN)
            for pid in (orphan, *descendants(orphan)):
                with contextlib.suppress(ProcessLookupError, PermissionError):  # gone meanwhile, or another user's
                    os.kill(pid, signal.SIGKILL)

    def _clean_up(self) -> None:
        deadline = time.monotonic() + 5.0
        for pid in list(self._children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        kill_all(self._cluster, spare=(os.getppid(),), deadline=deadline, below=os.getpid())  # the daemon, if it lives, closes what it has
        shutil.rmtree(self._directory, ignore_errors=True)


def become(start: Start, fds: list[int]) -> None:
    """Turn this fresh process into the actor: descriptors, environment, random state. Does not return."""
    out, err, blackbox = fds
    become_subreaper()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.environ.update({"OMP_NUM_THREADS": str(start.threads), "OPENBLAS_NUM_THREADS": str(start.threads),
                       "MKL_NUM_THREADS": str(start.threads), ACTOR_MARK: f"{start.actor}.{start.incarnation}", **start.env})
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    atexit._clear()
    actor_main(start, blackbox)


def spawned() -> None:
    """Entry of an actor process with the start method "spawn": a fresh interpreter."""
    parent, told, *fds = sys.argv[1:]
    die_with(int(parent))
    sys.path[:], pythonpath, fields = json.loads(told)
    del os.environ["PYTHONPATH"]  # as in the daemon
    if pythonpath is not None:
        os.environ["PYTHONPATH"] = pythonpath
    sys.argv = [""]
    become(decode_start(fields), [int(fd) for fd in fds])


def zygote_main(channel: socket.socket, cluster: str, directory: str) -> None:
    """Be the forkserver. The caller has just forked; ends by `os._exit`."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        become_subreaper()
        gc.collect()
        gc.freeze()
        Zygote(channel, cluster, directory).serve()
    except BaseException:
        traceback.print_exc()  # into the daemon's log, whose driver shows it
    finally:
        os._exit(0)
