"""Making an actor: what its creator sends to the daemon, and how its handles are counted.

The class and arguments are pickled once, here, and kept by their creator as a value under a ref of its own; the actor's process
fetches it at each start. So a restart repeats the constructor with the very same arguments, and the daemon carries no data.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soma.actors.engine import ActorSpec, HandleInfo
from soma.actors.objects import Entry
from soma.actors.placing import placing
from soma.actors.travel import handle_object
from soma.errors import ArgumentNotSerializableError, NotSerializableError
from soma.ids import DAEMON, new_actor_id
from soma.transport import messages as m
from soma.transport.codec import encode
from soma.transport.frames import pack

if TYPE_CHECKING:
    from soma.actors.runtime import Runtime

HEAVY = ("torch", "sklearn", "pandas", "scipy")
"""Modules worth importing once in the forkserver when an actor's class uses them."""


def create(runtime: Runtime, spec: ActorSpec) -> HandleInfo:
    """Ask the daemon for an actor. Returns at once unless the actor has a name (then the name is settled first)."""
    options, name = spec.options, spec.options.name
    needs = placing(options, 0.0, spec.cls.__name__)
    runtime.check_placing(f"actor {spec.cls.__name__}", options, needs)
    if options.get_if_exists and name is not None:
        with contextlib.suppress(ValueError):  # it does not exist yet: make it
            return runtime.find_actor(name, options.namespace)
    info = HandleInfo(new_actor_id(), spec.cls.__name__, name, runtime.port.me, dict(spec.methods), options.merge({"num_returns": 1}))
    concurrency = options.max_concurrency or (1000 if spec.is_async else 1)
    plan = {"concurrency": concurrency, "groups": dict(options.concurrency_groups), "is_async": spec.is_async}
    payload = _payload(runtime, spec, info, plan)
    environment = _environment(runtime, options.runtime_env)
    if environment is not None:
        needs = {**needs, "environment": bytes(environment.id)}
    entry = _count_handles(runtime, info, (payload, environment), detached=options.lifetime == "detached")
    travelling = encode(info).body
    message = m.CreateActor(
        b"", info.actor, runtime.port.me, info.class_name,
        {**needs, "name": name, "namespace": options.namespace or runtime.namespace, "detached": options.lifetime == "detached",
         "max_restarts": options.max_restarts, "payload": bytes(payload.id), "heavy": _heavy(runtime, payload, spec.cls)},
        (), travelling)
    if name is None:
        runtime.port.outlet.send(DAEMON, [pack(message)])
        return info
    with runtime.port.lock:  # the side thread may be dropping the last handle of who has this name: first that
        runtime.sharing.collect()
    try:
        runtime.request(lambda r: m.CreateActor(r, *_fields(message)[1:]))
    except ValueError:
        with runtime.port.lock:
            entry.on_free = None
            runtime.sharing.table.forget(entry.id)
        if options.get_if_exists:
            return runtime.find_actor(name, options.namespace)  # somebody else was faster
        raise
    return info


def _fields(message: m.CreateActor) -> tuple[Any, ...]:
    return (message.request, message.actor, message.creator, message.class_name, message.options, message.refs, message.info)


def _payload(runtime: Runtime, spec: ActorSpec, info: HandleInfo, plan: dict[str, Any]) -> Any:
    """The constructor's call as a value of ours; errors name the argument."""
    try:
        return runtime.put((spec.cls, spec.args, dict(spec.kwargs), info, plan))
    except NotSerializableError:
        for i, arg in enumerate(spec.args):
            _check(arg, f"args[{i}]")
        for key, arg in spec.kwargs.items():
            _check(arg, f"kwargs[{key!r}]")
        _check(spec.cls, spec.cls.__name__)
        raise


def _environment(runtime: Runtime, asked: Mapping[str, Any] | None) -> Any:
    """What its process must make before anything else, as a value of ours that the process fetches; None if that is nothing."""
    if not asked or asked.keys() <= {"env_vars"}:
        return None
    from soma.environments import portable

    return runtime.put({key: value for key, value in portable(asked).items() if key != "env_vars"})


def _check(value: Any, path: str) -> None:
    try:
        encode(value, path=path)
    except NotSerializableError as e:
        raise ArgumentNotSerializableError(e.path, e.problem, e.hint) from None


def _count_handles(runtime: Runtime, info: HandleInfo, kept: Any, *, detached: bool) -> Entry:
    """An entry that stands for the actor: when its last handle anywhere is dropped, the actor ends, and `kept` is not needed."""
    with runtime.port.lock:
        entry = runtime.sharing.table.add(handle_object(info.actor), runtime.port.me, info.actor)

        def last_handle_gone() -> None:
            if detached or runtime.caller.when_idle(info.actor, lambda: runtime.sharing.table.free_if_unused(entry)):
                return
            entry.on_free = None
            runtime.sharing.table.forget(entry.id)
            runtime.caller.forget(info.actor)
            runtime.port.outlet.send(DAEMON, [pack(m.Kill(info.actor, True, "killed", True))])
            nonlocal kept
            kept = None

        entry.on_free = last_handle_gone
    return entry


def _heavy(runtime: Runtime, payload: Any, cls: type) -> tuple[str, ...]:
    """What to import once for all actors like this one: the libraries that it is made of, or a module of soma's own and what that asks
    for."""
    own = (cls.__module__, *getattr(cls, "__soma_preload__", ())) if cls.__module__.startswith("soma.") else ()
    loaded = [name for name in HEAVY if name in sys.modules]
    if not loaded:
        return own
    entry = runtime.sharing.table.get(payload.id)
    body = entry.parcel.body if entry is not None and entry.parcel is not None else b""
    return (*(name for name in loaded if name.encode() in body), *own)


