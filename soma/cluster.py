"""The public verbs: `init`, `get`, `put`, `wait`, … They check what the user wrote and hand it to the running engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from soma.actors import current
from soma.actors.engine import Engine
from soma.actors.handle import ActorClass, ActorHandle, ClassOf, Marker, RemoteFunction
from soma.actors.options import Options
from soma.actors.refs import ObjectRef
from soma.errors import AlreadyInitializedError, NotInitializedError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """What `init` returns: a context manager whose end is `shutdown()`."""

    engine: Engine

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if current.peek() is self.engine:
            shutdown()


def init(
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: int | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    resources: Mapping[str, float] | None = None,
    *,
    local: bool = False,
    log_to_driver: bool = True,
    start_method: str = "forkserver",
    preload: Sequence[str] = (),
    ignore_reinit_error: bool = False,
) -> Session:
    """Start a cluster on this machine. Use it bare, or as `with soma.init(): …`.

    Args:
        num_cpus, num_gpus: what actors and tasks may reserve; by default what the machine has.
        memory: bytes that actors may reserve with `memory=`; by default 70 % of the machine's.
        object_store_memory: bytes of large values that one process may hold for others; by default 30 % of the machine's.
        namespace: where names of actors live; by default one of its own.
        resources: further amounts by name, e.g. `{"license": 2}`.
        local: run everything in this process, one call after the other, for a debugger.
        log_to_driver: print what actors print, with their name and pid.
        start_method: "forkserver" (5–10 ms an actor) or "spawn" (a fresh interpreter for each).
        preload: modules that the forkserver imports once, e.g. `["torch"]`.
        ignore_reinit_error: return the running cluster instead of raising.

    Raises:
        AlreadyInitializedError: a cluster is running.
    """
    running = current.peek()
    if running is not None:
        if ignore_reinit_error:
            return Session(running)
        raise AlreadyInitializedError("soma.init() was called while a cluster is running; call soma.shutdown() first, "
                                      "or pass ignore_reinit_error=True")
    engine: Engine
    if local:
        from soma.actors.local import LocalEngine

        engine = LocalEngine(num_cpus=num_cpus, num_gpus=num_gpus, namespace=namespace, resources=resources)
    else:
        from soma.daemon.launch import start_cluster

        engine = start_cluster(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, object_store_memory=object_store_memory,
                               namespace=namespace, resources=dict(resources or {}), log_to_driver=log_to_driver,
                               start_method=start_method, preload=tuple(preload))
    current.set_engine(engine)
    return Session(engine)


def _init_default() -> None:
    init()


current.set_default(_init_default)


def shutdown() -> None:
    """End the cluster of this process and everything it runs. Does nothing when there is none."""
    engine = current.peek()
    if engine is None:
        return
    if not engine.context()["is_driver"]:
        raise RuntimeError("soma.shutdown() inside an actor would end the caller of this call: use soma.exit_actor()")
    try:
        engine.shutdown()
    finally:
        if current.peek() is engine:
            current.set_engine(None)


def is_initialized() -> bool:
    return current.peek() is not None


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
        return _engine_of((refs,)).get([refs], timeout)[0]
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


def status() -> dict[str, Any]:
    """Nodes, actors, memory and refs as plain data."""
    engine = current.peek()
    if engine is None:
        raise NotInitializedError("no cluster is running in this process: call soma.init()")
    return engine.status()


def on_event(fn: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """Call `fn` with every event of the cluster; returns a function that ends the subscription."""
    return current.engine().on_event(fn)


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """Where this code runs. In a driver the actor and task are None."""

    actor_id: str | None
    actor_name: str | None
    node_id: str
    task_id: str | None
    attempt: int
    namespace: str
    is_driver: bool

    def get_actor_id(self) -> str | None:
        return self.actor_id

    def get_node_id(self) -> str:
        return self.node_id

    def get_task_id(self) -> str | None:
        return self.task_id

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle to the actor itself."""
        return current_actor()


def get_runtime_context() -> RuntimeContext:
    info = current.engine().context()
    return RuntimeContext(**{f: info[f] for f in RuntimeContext.__dataclass_fields__})


def current_actor() -> ActorHandle[Any]:
    """Inside an actor: a handle to itself."""
    engine = current.engine()
    info = engine.context().get("handle_info")
    if info is None:
        raise RuntimeError("current_actor is only known inside an actor's method")
    return ActorHandle(info, engine)


@overload
def remote(target: ClassOf[P, T], /) -> ActorClass[P, T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Any) -> Marker: ...
def remote(*args: Any, **options: Any) -> Any:
    """Mark a class (actor) or a function (task): `@soma.remote`, or `@soma.remote(num_cpus=1)`.

    Type checkers ignore what a decorator makes of a class: for checked calls write `Adder = soma.remote(Counter)`, then
    `Adder.remote(5)` and `handle.method(Counter.add).remote(1)`; or use the mypy plugin `soma.mypy`.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _mark(args[0], Options())
    if args:
        raise TypeError("@soma.remote takes options by name, e.g. @soma.remote(num_cpus=1)")
    chosen = Options().merge(options)
    return lambda target: _mark(target, chosen)


def _mark(target: Any, options: Options) -> Any:
    if isinstance(target, type):
        return ActorClass(target, options)
    if callable(target) and hasattr(target, "__name__"):
        return RemoteFunction(target, options)
    raise TypeError(f"@soma.remote marks a class or a function, got {type(target).__name__}")
