"""An actor's process, from the fork to its end. Entered by `actor_main` in a fresh process; never returns.

Order: runtime (sockets, side thread), constructor's call fetched from the creator, constructor, ActorReady, then calls until
Stop, `exit_actor`, `sys.exit` or a signal.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from soma.actors import (
    current,
    travel,  # noqa: F401 - teaches the codec refs and handles
)
from soma.actors.blackbox import Recorder
from soma.actors.caller import label_of
from soma.actors.context import Identity, LeaveActor, exit_code
from soma.actors.execution import Executor, Job
from soma.actors.failures import describe
from soma.actors.modes import Async, Serial, Threaded
from soma.actors.refs import ObjectRef
from soma.actors.runtime import Runtime
from soma.actors.savepoint import Savepoint, path_of
from soma.errors import DecodeError
from soma.ids import DAEMON, ActorId, ObjectId, incarnation_peer
from soma.transport import messages as m
from soma.transport.arena import Arena
from soma.transport.codec import encode
from soma.transport.endpoint import Wire, ZmqWire
from soma.transport.frames import pack
from soma.transport.security import NETWORK_FILE
from soma.transport.values import parcel, to_frames

HEARD_TIMEOUT = 2.0
"""Seconds that an ending process waits for its daemon to have heard why,"""
RESTART_TIMEOUT = 60.0
"""and where that may be started again meanwhile: a node that waits no longer for its head kills what it has."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a new process is told."""

    directory: str
    actor: str
    incarnation: int
    class_name: str
    creator: str
    payload: bytes
    """Object id of the constructor's call; empty for a task worker."""
    node: str
    namespace: str
    totals: Mapping[str, float]
    arena_bytes: int
    threads: int
    env: Mapping[str, str]
    cores: Sequence[int] = ()
    """Those it may run on; empty: all."""
    tags: Sequence[str] = ()
    """What the machine is marked with."""
    environment: bytes = b""
    """Object id of what this process has to make first: packages, files."""


def encode_start(start: Start) -> dict[str, Any]:
    """As plain JSON."""
    return {**{f.name: getattr(start, f.name) for f in fields(start)}, "payload": start.payload.hex(),
            "environment": start.environment.hex(), "totals": dict(start.totals), "env": dict(start.env)}


def decode_start(told: dict[str, Any]) -> Start:
    return Start(**{**told, "payload": bytes.fromhex(told["payload"]), "environment": bytes.fromhex(told["environment"])})


def actor_main(start: Start, blackbox_fd: int) -> None:
    """Be the actor. Ends by `os._exit`: what the forkserver's process had registered for its own exit is not ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the driver's affair
    faulthandler.enable(file=sys.stderr)
    code = 1
    try:
        _pin(start.cores)
        _limit_threads(start.threads)
        code = _Process(start, blackbox_fd).live()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def reborn() -> None:
    """Entry of a process that goes on as the interpreter of its environment: the same process to everybody else."""
    paths, told = json.loads(sys.argv[1])
    blackbox = int(sys.argv[2])
    sys.path[:0] = paths
    sys.argv = [""]
    for number in (1, 2):  # as they were: lines are seen as soon as they are printed
        stream = open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        setattr(sys, "stdout" if number == 1 else "stderr", stream)
    actor_main(decode_start(told), blackbox)


def _pin(cores: Sequence[int]) -> None:
    """Keep this process, and all threads it will make, on its cores."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as e:  # they were taken from this machine since the daemon looked; it runs on others as well
        print(f"soma: cannot run on the cores {list(cores)} only: {e}", file=sys.stderr)


def _limit_threads(n: int) -> None:
    """Give numeric libraries that were loaded before the fork the threads that were asked for."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(n)
    if n > 1:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(n)


def _wire_of(directory: Path) -> tuple[Wire, bool]:
    """How others are reached from here, and whether machines come and go."""
    if not (directory / NETWORK_FILE).exists():
        return ZmqWire(directory), False
    from soma.transport.network import NetworkWire  # what a cluster of one machine does not need, it does not load
    from soma.transport.place import place_of

    place = place_of(directory)
    assert place is not None
    return NetworkWire(directory, place.network(directory)), True


class _Process:
    def __init__(self, start: Start, blackbox_fd: int) -> None:
        self._start = start
        peer = incarnation_peer(ActorId(start.actor), start.incarnation)
        identity = Identity(peer, "actor", start.node, start.namespace, start.totals)
        directory = Path(start.directory)
        wire, elastic = _wire_of(directory)
        self._runtime = Runtime(wire, identity, Arena(start.arena_bytes, directory), start.tags, elastic=elastic)
        self._me = self._runtime.port.me
        current.set_engine(self._runtime)
        self._blackbox = os.dup(blackbox_fd) if start.environment else -1
        """For the interpreter that this process goes on as; the recorder closes the other."""
        self._recorder = Recorder(blackbox_fd)
        self._stopped_early = False
        self._runtime.handlers[m.Stop] = self._on_early_stop
        self._heard = False
        self._runtime.handlers[m.Stop] = self._on_stop
        self._mode: Serial | Threaded | Async | None = None

    def _on_stop(self, msg: m.Stop, frames: list[bytes]) -> None:
        """The daemon wants us to finish, or has heard that we leave."""
        self._heard = True
        if self._mode is not None:
            self._mode.stop()

    def _on_early_stop(self, msg: m.Stop, frames: list[bytes]) -> None:
        """Its last handle went before there was anything to stop."""
        self._stopped_early = True

    def live(self) -> int:
        """Construct, serve, end; the exit code."""
        try:
            mode = self._construct()
        except _Failed as e:
            return self._leave("init", 1) if not e.args else int(e.args[0])
        if self._stopped_early:
            mode.stop()
        try:
            mode.loop()
        except LeaveActor:
            return self._leave("exit_actor", 0)
        except SystemExit as e:
            return self._leave("exited", exit_code(e))
        return self._leave("killed", 0)

    def _leave(self, reason: str, code: int) -> int:
        if os.getpid() != self._runtime.side.pid:
            return code  # a child that the user's code forked in a method: only it ends
        if reason != "init":  # then ActorReady said it
            self._runtime.port.outlet.send(DAEMON, [pack(m.Leaving(self._me, reason, code))])
        # the daemon must know why before it sees the process end: the two come to it on different ways
        self._runtime.inbox.wait_until(lambda: self._heard, RESTART_TIMEOUT if self._runtime.elastic else HEARD_TIMEOUT)
        self._runtime.shutdown()
        return code

    def _construct(self) -> Serial | Threaded | Async:
        start, runtime = self._start, self._runtime
        label = f"actor {start.class_name} ({start.actor[:8]})"
        try:
            if start.environment:
                self._settle_in()
            if start.payload:
                ref: ObjectRef[Any] = runtime.rebuild_ref(ObjectId(start.payload), start.creator, "")
                cls, args, kwargs, info, plan = runtime.get([ref], None)[0]
                label = label_of(info)
                runtime.identity = replace(runtime.identity, actor=info)
            else:
                cls, args, kwargs, plan = _task_worker()
            executor = Executor(runtime, label, self._recorder)
            self._mode = mode = self._make_mode(executor, plan, getattr(runtime.identity.actor, "methods", {}))
            args, kwargs = executor.resolve(args, kwargs)
            executor.instance = cls(*args, **kwargs)
            savepoint = Savepoint(executor.instance, path_of(Path(start.directory), start.actor))
            if savepoint.wanted:
                savepoint.restore()
                executor.savepoint = savepoint
        except (SystemExit, LeaveActor) as e:
            raise _Failed(self._leave("exited" if isinstance(e, SystemExit) else "exit_actor", exit_code(e))) from None
        except BaseException as e:
            self._report(e, label)
            raise _Failed from None
        runtime.port.outlet.send(DAEMON, [pack(m.ActorReady(start.actor, start.incarnation, ""))])
        return mode

    def _settle_in(self) -> None:
        """Make the packages and files that were asked for; with packages, go on as another interpreter, and do not come back."""
        from soma.environments import prepare

        start, runtime = self._start, self._runtime
        ref: ObjectRef[Any] = runtime.rebuild_ref(ObjectId(start.environment), start.creator, "")
        prepared = prepare(runtime.get([ref], None)[0])
        del ref
        runtime.sharing.collect()
        if prepared.cwd is not None:
            os.chdir(prepared.cwd)
            sys.path[:0] = prepared.sys_path
        if prepared.python is None:
            os.close(self._blackbox)
            return
        for lease in prepared.leases:
            os.set_inheritable(lease.fd, True)  # held as long as the process lives
        os.set_inheritable(self._blackbox, True)
        runtime.shutdown()
        told = json.dumps([prepared.sys_path, encode_start(replace(start, environment=b""))])
        sys.stdout.flush()
        sys.stderr.flush()
        code = "from soma.actors.process import reborn; reborn()"
        os.execv(prepared.python, [str(prepared.python), "-P", "-c", code, told, str(self._blackbox)])

    def _report(self, e: BaseException, label: str) -> None:
        where = f"{label}, pid {os.getpid()}, node {self._start.node}, the constructor"
        failure = describe(e, where, skip=0 if isinstance(e, DecodeError) else 1)
        frames = to_frames(parcel(encode(failure), None), None, DAEMON)
        text = f"{failure.type_name}: {failure.message}\n\n{failure.traceback_text}"
        message = m.ActorReady(self._start.actor, self._start.incarnation, text[-16_000:])
        self._runtime.port.outlet.send(DAEMON, [pack(message), *frames])

    def _make_mode(self, x: Executor, plan: Mapping[str, Any], methods: Mapping[str, Any]) -> Serial | Threaded | Async:
        groups: dict[str, int] = plan["groups"]
        group_of = {name: spec.group for name, spec in methods.items()}
        unknown = {g for g in group_of.values() if g is not None} - set(groups)
        if unknown:
            raise ValueError(f"concurrency_group {sorted(unknown)} is not among concurrency_groups {sorted(groups)}")
        mode: Serial | Threaded | Async
        if plan["is_async"]:
            mode = Async(x, plan["concurrency"], groups, group_of)
        elif plan["concurrency"] > 1 or groups:
            mode = Threaded(x, plan["concurrency"], groups, group_of)
        else:
            mode = Serial(x)

        def on_call(msg: m.Call, frames: list[bytes]) -> None:
            mode.accept(Job(msg, frames))

        def on_cancel(msg: m.Cancel) -> None:
            x.mark_cancelled(msg.call_id)
            mode.cancel(msg.call_id)

        handlers = self._runtime.handlers
        handlers[m.Call] = on_call
        handlers[m.Credit] = mode.on_credit if isinstance(mode, Async) else x.on_credit
        self._runtime.side.handlers[m.Cancel] = on_cancel
        return mode


class _Failed(Exception):
    """The constructor did not come through; what is to be said was said."""


def _task_worker() -> tuple[type, tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    from soma.actors.pool import TaskWorker

    return TaskWorker, (), {}, {"concurrency": 1, "groups": {}, "is_async": False}
