"""`Engine`: what the public verbs need of whatever runs the actors. Two implementations: processes, and `local=True`.

An engine gives and takes values; how they travel is its own business. Everything above `cluster` sees only the verbs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from soma.actors.methods import MethodSpec
from soma.actors.options import Options
from soma.actors.refs import ObjectRef, RefHome
from soma.ids import ActorId, ObjectId

LOCAL_NODE = "local"
"""The node of the engine that runs everything in the calling process."""


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """An actor to be made."""

    cls: type
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Options
    methods: Mapping[str, MethodSpec]
    is_async: bool


@dataclass(frozen=True, slots=True)
class HandleInfo:
    """What a handle carries when it travels: plain data, enough to call the actor from anywhere in the cluster."""

    actor: ActorId
    class_name: str
    name: str | None
    creator: str
    """Peer that created the actor and counts its handles."""
    methods: Mapping[str, MethodSpec]
    options: Options = field(default_factory=Options)
    """Only the per-call defaults are used: max_task_retries, retry_exceptions, max_pending_calls, timeout."""


class Engine(RefHome, Protocol):
    """The verbs of a running cluster. All may be called from any thread."""

    namespace: str
    directory: Path | None
    """Where this cluster's sockets on this machine lie, private to the user; None if it has none."""

    def create_actor(self, spec: ActorSpec) -> HandleInfo:
        """Start making an actor; PlacementError at once if no machine could ever hold it, ValueError if the name is taken."""

    def submit(self, target: HandleInfo, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Any:
        """Call a method: a ref, a list of refs (num_returns > 1), a generator of refs ("streaming") or None (0)."""

    def submit_task(self, fn: Callable[..., Any], spec: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Any:
        """Run a function on the pool of task actors; gives what `submit` gives."""

    def put(self, value: Any) -> ObjectRef[Any]:
        """Keep a value here under a ref."""

    def rebuild_ref(self, id: ObjectId, owner: str, producer: str) -> ObjectRef[Any]:
        """A ref that arrived inside a value."""

    def wait(self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, /) -> set[int]:
        """Positions of `refs` that are settled, at least `num_returns` unless `timeout` seconds pass."""

    def cancel(self, ref: ObjectRef[Any], force: bool) -> None:
        """Ask that a call end: queued calls are dropped, running ones interrupted; `force` ends the process."""

    def kill(self, actor: ActorId, no_restart: bool) -> None:
        """End an actor's process now."""

    def find_actor(self, name: str, namespace: str | None) -> HandleInfo:
        """A named actor; ValueError if there is none."""

    def hold(self, info: HandleInfo) -> None:
        """A handle object came to be in this process."""

    def drop(self, info: HandleInfo) -> None:
        """A handle object died; the last one ends a non-detached actor. May be called from a finalizer."""

    def resources(self, *, available: bool) -> dict[str, float]:
        """What the cluster has, or has left: {"CPU": 2.0, "memory": …, …}."""

    def machines(self) -> list[dict[str, Any]]:
        """Each machine as plain data, cheap enough to ask for at every placement:

        "node_id"; "capabilities" {cpu_cores, ram_bytes, num_gpus, gpus, gpu_reason, tags, python, system}; "totals" {"CPU": …};
        "reserved": what each living actor holds, by its name or id, blocked or not, {} included; "lent": the same of task workers
        that run a task now; "gpu_shares": {holder: {GPU: share}}; "load" {"load_1m", "memory_available" (bytes)}.
        """

    def status(self) -> dict[str, Any]:
        """Nodes, actors, memory and refs, as plain data (what `soma status --json` prints)."""

    def on_event(self, fn: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `fn` with each event: ActorStarted, ActorDied, ActorRestarted, ActorStopped, ActorContinued, and what is published.

        Returns a function that ends it.
        """

    def publish(self, fields: dict[str, Any]) -> None:
        """Send an event to everybody who called `on_event` in this cluster, in the order published here. Plain data, below 64 KiB."""

    def tell(self, fields: dict[str, Any]) -> None:
        """Inside a call: send plain data to its caller, whose `listener=` gets it before the result. RuntimeError outside of one."""

    def attend(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Let the running event loop read this process's messages itself (see `attending`). Returns a function that ends it."""

    def context(self) -> Mapping[str, Any]:
        """actor_id, actor_name, node_id, task_id, attempt, namespace, is_driver of the calling thread's current call."""

    def exit_actor(self) -> None:
        """End the actor that runs this call, for good."""

    def shutdown(self) -> None:
        """End everything; idempotent; every ref settles."""
