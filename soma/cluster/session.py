"""`init` and `shutdown`: the one cluster of a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from soma.actors import current
from soma.actors.engine import Engine
from soma.actors.placing import marks
from soma.cluster.hub import HUB
from soma.errors import AlreadyInitializedError


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
    address: str | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: int | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    resources: Mapping[str, float] | None = None,
    *,
    token: str | None = None,
    tags: Sequence[str] = (),
    local: bool = False,
    log_to_driver: bool = True,
    start_method: str = "forkserver",
    preload: Sequence[str] = (),
    ignore_reinit_error: bool = False,
) -> Session:
    """Start a cluster on this machine, or take part in one of several. Use it bare, or as `with soma.init(): …`.

    Args:
        address: `"tcp://HOST:PORT"` of a running cluster's head, as `soma start --head` prints it, or `"auto"`: that of the cluster
            which this machine has joined. None starts a cluster of this machine, which ends with this process. With an address, what
            machines offer is theirs to say: only `token`, `namespace`, `object_store_memory` and `ignore_reinit_error` count.
        token: a join token, needed where this user's key is not yet known to the head; by default what SOMA_TOKEN says.
        num_cpus, num_gpus: what actors and tasks may reserve; by default what the machine has.
        memory: bytes that actors may reserve with `memory=`; by default 70 % of the machine's.
        object_store_memory: bytes of large values that one process may hold for others; by default 30 % of the machine's.
        namespace: where names of actors live; by default one of its own.
        resources: further amounts by name, e.g. `{"license": 2}`.
        tags: marks of this machine, e.g. `("big", "ssd")`: what an actor, task or filter asks for by `tags=` runs only where they are.
        local: run everything in this process, one call after the other, for a debugger.
        log_to_driver: print what actors print, with their name and pid.
        start_method: "forkserver" (5–10 ms an actor) or "spawn" (a fresh interpreter for each).
        preload: modules that the forkserver imports once, e.g. `["torch"]`.
        ignore_reinit_error: return the running cluster instead of raising.

    Raises:
        AlreadyInitializedError: a cluster is running.
        ValueError: an amount or a tag that cannot be, or given beside an address.
        ClusterError: the head at `address` cannot be reached. SecurityError: it does not let us in.
    """
    if (running := _running(ignore_reinit_error)) is not None:
        return Session(running)
    marked = marks(tags)
    engine: Engine
    if address is not None:
        _only_local(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, resources=resources, tags=marked or None, local=local or None,
                    preload=preload or None)
        engine = _attach(address, token, namespace, object_store_memory)
    elif local:
        engine = _local(num_cpus, num_gpus, marked, namespace, resources)
    else:
        from soma.daemon.launch import start_cluster

        engine = start_cluster(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, object_store_memory=object_store_memory,
                               namespace=namespace, resources=dict(resources or {}), tags=marked, log_to_driver=log_to_driver,
                               start_method=start_method, preload=tuple(preload))
    current.set_engine(engine)
    HUB.attach(engine)
    return Session(engine)


def _running(may_be: bool) -> Engine | None:
    running = current.peek()
    if running is not None and not may_be:
        raise AlreadyInitializedError("soma.init() was called while a cluster is running; call soma.shutdown() first, "
                                      "or pass ignore_reinit_error=True")
    return running


def _attach(address: str, token: str | None, namespace: str | None, object_store_memory: int | None) -> Engine:
    from soma.daemon.attach import attach

    return attach(address, token=token, namespace=namespace, object_store_memory=object_store_memory)


def _local(num_cpus: float | None, num_gpus: float | None, marked: tuple[str, ...], namespace: str | None,
           resources: Mapping[str, float] | None) -> Engine:
    from soma.actors.local import LocalEngine
    from soma.daemon.capabilities import detect

    return LocalEngine(detect(num_cpus, num_gpus, tags=marked).as_dict(), namespace=namespace, resources=resources)


def _only_local(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}={value!r}: with an address, this is the machines' to say (`soma join --{name.replace('_', '-')}`)")


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
