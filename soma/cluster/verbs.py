"""The verbs on refs, handles and the cluster. They check what the user wrote and hand it to the running engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from soma.actors import current
from soma.actors.engine import Engine
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.cluster.hub import HUB
from soma.errors import NotInitializedError
from soma.events import Event

T = TypeVar("T")


def _check_refs(verb: str, refs: Any) -> None:
    for r in refs:
        if not isinstance(r, ObjectRef):
            raise TypeError(f"soma.{verb} takes refs, got {type(r).__name__}: {str(r)[:80]}")


def _engine_of(refs: Sequence[ObjectRef[Any]]) -> Engine:
    """The running engine, if the refs are its own."""
    engine = current.engine() if current.peek() is not None or current.forked() else None
    if any(r._home is not engine for r in refs):
        raise NotInitializedError("this ref belongs to a cluster that was shut down")
    assert engine is not None
    return engine


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and (timeout < 0 or math.isnan(timeout)):
        raise ValueError(f"timeout={timeout!r}: seconds from 0, or None for no limit")


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs in its order. Blocks.

    Raises the call's own exception; `ActorDiedError` if its process died; `GetTimeoutError` after `timeout` seconds (the
    call goes on). Ctrl-C cancels what it waited for.
    """
    if type(refs) is ObjectRef:
        if timeout is not None:
            _check_timeout(timeout)
        engine = current.peek()
        if engine is None or refs._home is not engine:
            engine = _engine_of((refs,))
        return engine.get([refs], timeout)[0]
    if isinstance(refs, (str, bytes)) or not isinstance(refs, Sequence):
        raise TypeError(f"soma.get takes a ref or a list of refs, got {type(refs).__name__}")
    _check_refs("get", refs)
    _check_timeout(timeout)
    return _engine_of(refs).get(list(refs), timeout) if refs else []


def put(value: T) -> ObjectRef[T]:
    """Keep a value in this process under a ref that travels. Changing `value` afterwards changes nothing."""
    if isinstance(value, ObjectRef):
        raise TypeError("soma.put of a ref: it is one already")
    return current.engine().put(value)


def wait(refs: Sequence[ObjectRef[Any]], *, num_returns: int = 1,
         timeout: float | None = None) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Split refs into settled and unsettled, both in the order given, as soon as `num_returns` are settled.

    At most `num_returns` are in the first list. `timeout` is in seconds.
    """
    if isinstance(refs, ObjectRef) or not isinstance(refs, Sequence):
        raise TypeError(f"soma.wait takes a list of refs, got {type(refs).__name__}")
    _check_refs("wait", refs)
    _check_timeout(timeout)
    if not refs:
        return [], []
    if len(set(refs)) != len(refs):
        raise ValueError("soma.wait: the same ref twice")
    if not 0 < num_returns <= len(refs):
        raise ValueError(f"soma.wait: num_returns={num_returns} with {len(refs)} refs; from 1 to {len(refs)}")
    settled = _engine_of(refs).wait(refs, num_returns, timeout)
    first = set(sorted(settled)[:num_returns])
    return [r for i, r in enumerate(refs) if i in first], [r for i, r in enumerate(refs) if i not in first]


def cancel(ref: ObjectRef[Any], *, force: bool = False) -> None:
    """Cancel the call behind a ref: its `get` raises `TaskCancelledError`. `force` ends the process that runs it."""
    if not isinstance(ref, ObjectRef):
        target = getattr(ref, "id", None)
        if target is None:
            raise TypeError(f"soma.cancel takes a ref, got {type(ref).__name__}")
    current.engine().cancel(ref, force)


def kill(handle: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor now. `no_restart=False` leaves `max_restarts` in force."""
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"soma.kill takes an actor handle, got {type(handle).__name__}")
    current.engine().kill(handle.actor_id, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The handle of a named actor; ValueError if there is none."""
    engine = current.engine()
    return ActorHandle(engine.find_actor(name, namespace), engine)


def exit_actor() -> None:
    """End the actor that runs this call, for good; the call and those queued raise `ActorDiedError`."""
    current.engine().exit_actor()


def cluster_resources() -> dict[str, float]:
    """What the cluster has, e.g. `{"CPU": 2.0, "memory": 1.6e10}`."""
    return current.engine().resources(available=False)


def available_resources() -> dict[str, float]:
    """What is not reserved right now."""
    return current.engine().resources(available=True)


def scheduler() -> ActorHandle[Any]:
    """The actor that places plans on the machines of this cluster; made when first asked for (see `soma.actors.scheduler`)."""
    from soma.actors.scheduler import scheduler_of_cluster

    return scheduler_of_cluster()


def machines() -> list[dict[str, Any]]:
    """Each machine of the cluster as plain data: what it can do, what its actors hold, how busy it is. See `Engine.machines`."""
    return current.engine().machines()


def nodes() -> list[dict[str, Any]]:
    """The machines of the cluster in Ray's words: "NodeID", "Alive", "Resources" and "Labels" of each. Who is lost is not among them.

    "MaxConcurrent" is how many actors and tasks with CPUs may run there at a time, None without such a limit.
    """
    return [{"NodeID": machine["node_id"], "Alive": True, "Resources": dict(machine["totals"]), "Labels": dict(machine.get("labels", {})),
             "Tags": tuple(machine["capabilities"].get("tags", ())), "MaxConcurrent": machine.get("max_concurrent")}
            for machine in machines()]


def status() -> dict[str, Any]:
    """Nodes, actors, memory and refs as plain data."""
    engine = current.peek()
    if engine is None:
        raise NotInitializedError("no cluster is running in this process: call soma.init()")
    return engine.status()


def on_event(fn: Callable[[Event], None]) -> Callable[[], None]:
    """Call `fn` with every event: of the runs of this process, of those in actors, and of the cluster (see `soma.events`).

    Those of a run of this process come in the thread that runs it, before its call returns; others in a thread of soma's. May be called
    before `init()`. An `fn` that raises is reported and stays subscribed.

    Returns:
        A function that ends the subscription.
    """
    return HUB.subscribe(fn)


def attend() -> Callable[[], None]:
    """Let the running event loop read this process's messages itself, so that no thread has to wake it for each answer to a call.

    For a server that lives in its loop: an `await ref` costs about a quarter less CPU then. The loop must not be blocked for long.

    Returns:
        A function that ends it, to be called in the loop. One loop at a time: for a second one this does nothing.

    Raises:
        RuntimeError: no event loop runs in this thread.
    """
    return current.engine().attend(asyncio.get_running_loop())


def tell(fields: dict[str, Any]) -> None:
    """Inside an actor's method: say something to whoever made the call, while it runs.

    Args:
        fields: plain data (numbers, text, bytes, and lists and dicts of them), below 64 KiB. The caller's `listener` gets it, if the
            call was made with one: `handle.fit.options(listener=print).remote(x)`; lists arrive as tuples.

    Raises:
        TypeError: something else than plain data.
        RuntimeError: outside of an actor's call.
    """
    current.engine().tell(fields)


def publish(fields: dict[str, Any]) -> None:
    """Send an event (plain data, with its name under "kind") to everybody in the cluster who called `on_event`."""
    current.engine().publish(fields)
