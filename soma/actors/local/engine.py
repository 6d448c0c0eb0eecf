"""`soma.init(local=True)`: the engine that runs everything in the calling process, one call after the other, for a debugger.

The same verbs with the same meaning; a conformance suite holds both engines to it. What differs, because there is one process:
- a call runs inside `.remote()`, so a wait finds its values there; `timeout` bounds only waits for other threads;
- coroutines of an async actor run to their end one by one: one that waits for a later call would wait for ever;
- a stream runs as far as its consumer asks; a later call to the same actor waits for its end, and forces it when waited for;
- reservations are counted and infeasible ones refused, but none is waited for; memory limits are not enforced;
- the class is used as it is, not pickled: its globals are the driver's. `os._exit` and a segfault end the driver.
Values travel as snapshots, as everywhere: nothing is shared between an actor and its callers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soma.actors.travel  # noqa: F401 - refs and handles can travel from here on
from soma.actors.engine import LOCAL_NODE, ActorSpec, HandleInfo
from soma.actors.local.actor import LocalActor
from soma.actors.local.calls import Call, Lane, Loop, Outcome, Slot, Stream, refs_in
from soma.actors.local.inquiry import LocalInquiry
from soma.actors.local.objects import LocalObjects
from soma.actors.local.run import LocalRun, raise_cancelled
from soma.actors.methods import MethodSpec
from soma.actors.options import Options
from soma.actors.placing import amounts, check_feasible, check_tags, placing
from soma.actors.refs import ObjectRef, ObjectRefGenerator
from soma.errors import ActorDiedError, DeadlockError, DeathCause, GetTimeoutError, NotInitializedError, PendingCallsLimitExceeded
from soma.ids import ActorId, CallIds, ObjectId, new_actor_id, new_hex, object_id
from soma.transport.codec import encode, encode_call
from soma.transport.values import Parcel, open_parcel, parcel


class LocalEngine(LocalInquiry):
    """See the module."""

    def __init__(self, capabilities: Mapping[str, Any], *, namespace: str | None = None,
                 resources: Mapping[str, float] | None = None) -> None:
        self.namespace = namespace or new_hex()
        self.directory: Path | None = None
        self._capabilities = capabilities
        self._totals = {"CPU": float(capabilities["cpu_cores"]), "GPU": float(capabilities["num_gpus"]),
                        "memory": float(capabilities["ram_bytes"]), **(resources or {})}
        self._objects = LocalObjects(self)
        self._runs = LocalRun(self._objects, self._announce)
        self._ids = CallIds()
        self._actors: dict[ActorId, LocalActor] = {}
        self._names: dict[tuple[str, str], ActorId] = {}
        self._streams: dict[ObjectId, Stream] = {}
        self._dropped_handles: deque[ActorId] = deque()
        self._dropped_streams: deque[ObjectId] = deque()
        self._listeners = []
        self._events = 0
        self._closed = False

    # -- actors ----------------------------------------------------------------------------------------------------------------

    def create_actor(self, spec: ActorSpec) -> HandleInfo:
        self._tidy()
        options, name = spec.options, spec.options.name
        check_tags(f"actor {spec.cls.__name__}", options.tags, self._capabilities["tags"])
        needs = placing(options, default_cpus=0.0)
        check_feasible(f"actor {spec.cls.__name__}", needs, self._totals)
        key = None if name is None else (options.namespace or self.namespace, name)
        if key in self._names:
            if options.get_if_exists:
                return self._actors[self._names[key]].info
            raise ValueError(f"an actor named {name!r} exists already in namespace {key[0]!r}; use get_if_exists=True to get it")
        info = HandleInfo(new_actor_id(), spec.cls.__name__, name, LOCAL_NODE, dict(spec.methods), options.merge({"num_returns": 1}))
        actor = LocalActor(info, spec, _packed(spec.args, spec.kwargs), refs_in(spec.args, spec.kwargs), amounts(needs), key)
        self._actors[info.actor] = actor
        if key is not None:
            self._names[key] = info.actor
        self._runs.lives.construct(actor)
        return info

    def submit(self, target: HandleInfo, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any],
               options: Options) -> Any:
        self._tidy()
        actor = self._actors.get(target.actor)
        if actor is None:
            raise ActorDiedError(f"actor {target.class_name}", DeathCause("shutdown", pid=os.getpid()), "no")
        limit = options.max_pending_calls
        if 0 <= limit <= actor.waiting and actor.waiting:
            raise PendingCallsLimitExceeded(f"{actor.label} has {actor.waiting} unanswered calls; max_pending_calls={limit}")
        call = Call(self._ids(), method, actor, lambda: getattr(actor.instance, method.name), _packed(args, kwargs),
                    refs_in(args, kwargs), options, actor.lane, actor.loop)
        return self._enter(call)

    def submit_task(self, fn: Callable[..., Any], spec: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any],
                    options: Options) -> Any:
        self._tidy()
        check_tags(f"task {spec.name}", options.tags, self._capabilities["tags"])
        check_feasible(f"task {spec.name}", placing(options, default_cpus=1.0), self._totals)
        return self._enter(Call(self._ids(), spec, None, lambda: fn, _packed(args, kwargs), refs_in(args, kwargs), options,
                                Lane(), Loop()))

    def _enter(self, call: Call) -> Any:
        """Hand a call over; its refs exist before it runs."""
        if call.options.num_returns == "streaming":
            id = object_id(call.id)
            call.stream = self._streams[id] = Stream(call, Slot(call))
            generator: ObjectRefGenerator[Any] = ObjectRefGenerator(id, call.producer, self)
            self._runs.enter(call)
            return generator
        call.slots = [Slot(call) for _ in range(call.options.num_returns)]
        refs = [self._objects.new_ref(object_id(call.id, i), slot, call.producer) for i, slot in enumerate(call.slots)]
        self._runs.enter(call)
        return refs if len(refs) > 1 else refs[0] if refs else None

    def kill(self, actor: ActorId, no_restart: bool) -> None:
        self._tidy()
        found = self._actors.get(actor)
        if found is not None:
            self._runs.lives.end(found, DeathCause("killed", pid=os.getpid()) if no_restart
                           else DeathCause("signal", signal="SIGKILL", pid=os.getpid()))

    def find_actor(self, name: str, namespace: str | None) -> HandleInfo:
        self._tidy()
        id = self._names.get((namespace or self.namespace, name))
        if id is None:
            raise ValueError(f"there is no actor named {name!r} in namespace {namespace or self.namespace!r}")
        return self._actors[id].info

    def exit_actor(self) -> None:
        self._runs.stack.leave()

    def hold(self, info: HandleInfo) -> None:
        actor = self._actors.get(info.actor)
        if actor is not None:
            actor.handles += 1
            actor.held = True

    def drop(self, info: HandleInfo) -> None:
        self._dropped_handles.append(info.actor)

    # -- values ----------------------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef[Any]:
        self._tidy()
        kept = parcel(encode(value), None)
        return self._objects.new_ref(object_id(self._ids()), Slot(outcome=partial(open_parcel, kept)))

    def get(self, refs: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        self._tidy()
        until = None if timeout is None else time.monotonic() + timeout
        values = []
        for ref in refs:
            slot = self._objects.slot(ref)
            self._runs.force(slot, until)
            assert slot.outcome is not None
            values.append(slot.outcome())
        return values

    def wait(self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout: float | None, /) -> set[int]:
        self._tidy()
        until = None if timeout is None else time.monotonic() + timeout
        slots = [self._objects.slot(r) for r in refs]
        stuck: DeadlockError | None = None
        for slot in slots:
            if sum(s.outcome is not None for s in slots) >= num_returns:
                break
            try:
                self._runs.force(slot, until)
            except DeadlockError as e:
                stuck = e
            except GetTimeoutError:
                break
        settled = {i for i, s in enumerate(slots) if s.outcome is not None}
        if len(settled) < num_returns and stuck is not None and timeout is None:
            raise stuck
        return settled

    def on_done(self, ref: ObjectRef[Any], fn: Callable[[], None]) -> None:
        with contextlib.suppress(DeadlockError):  # `fn` asks for the value, meets the same error, and hands it on
            self._runs.force(self._objects.slot(ref))
        fn()

    def rebuild_ref(self, id: ObjectId, owner: str, producer: str) -> ObjectRef[Any]:
        return self._objects.another_ref(id, producer)

    def drop_ref(self, ref_id: ObjectId, owner: str) -> None:
        self._objects.drop(ref_id)

    def cancel(self, ref: Any, force: bool) -> None:
        """Only what has not begun, and streams, can be cancelled: whatever else there is has ended, or is the caller itself."""
        self._tidy()
        stream = self._streams.get(ref.id)
        if stream is not None:
            self._stop(stream, partial(raise_cancelled, stream.call.label))
        elif (call := self._objects.slot(ref).call) is not None:
            self._runs.cancel(call)

    # -- streams ---------------------------------------------------------------------------------------------------------------

    def stream_next(self, stream: ObjectRefGenerator[Any], timeout: float | None) -> ObjectRef[Any]:
        self._tidy()
        state = self._streams.get(stream.id)
        if state is None:
            raise StopIteration
        until = None if timeout is None else time.monotonic() + timeout
        self._runs.force(state.started, until)
        if not state.ready and not state.ended:
            self._runs.streams.step(state)
        if not state.ready:
            raise StopIteration
        return state.ready.popleft()

    def on_stream(self, stream: ObjectRefGenerator[Any], fn: Callable[[], None]) -> None:
        fn()

    def drop_stream(self, stream_id: ObjectId) -> None:
        self._dropped_streams.append(stream_id)

    def _stop(self, stream: Stream, why: Outcome | None) -> None:
        """End a stream from outside, begun or not."""
        if stream.generator is None:
            self._runs.cancel(stream.call)
        else:
            self._runs.streams.end(stream, why)
            self._runs.pump(stream.call)

    def _tidy(self) -> None:
        """What finalizers left to do."""
        if self._closed:
            raise NotInitializedError("this cluster was shut down")
        while self._dropped_streams:
            stream = self._streams.pop(self._dropped_streams.popleft(), None)
            if stream is not None:
                stream.ready.clear()
                self._stop(stream, None)
        self._objects.collect()
        while self._dropped_handles:
            actor = self._actors.get(self._dropped_handles.popleft())
            if actor is not None:
                actor.handles -= 1
                self._runs.lives.end_if_unused(actor)

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        if self._closed:
            return
        for stream in list(self._streams.values()):
            self._stop(stream, None)
        for actor in self._living():
            self._runs.lives.end(actor, DeathCause("shutdown", pid=os.getpid()))
        self._streams.clear()
        self._closed = True


def _packed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parcel:
    return parcel(encode_call(args, dict(kwargs)), None)
